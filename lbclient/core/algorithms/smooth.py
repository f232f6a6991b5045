"""Weighted round robin: NGINX's smooth sequence, computed when the set changes, so that a pick only reads the
next place.

The sequence follows from the weights alone, so it is kept for the sets seen last: a backend that flaps costs
nothing. Where the cycle is too long to write down (1 : 1,000,000; weights in the middle of a slow start) the
turns come from a heap of deadlines, in O(log n): also smooth, also exact over a cycle, only in another order
than NGINX's.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from heapq import heapify, heappop, heappush, heapreplace
from math import gcd, lcm
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.rotation import RotationPicker
from lbclient.core.algorithms.sampling import weighted_rest
from lbclient.core.backend import BackendState

# About 40 ms to compute and at most 1 MB to keep: 10,000 backends with weights of 1 to 5 fit.
_MOST_STEPS = 2**18


@dataclass(frozen=True, slots=True)
class WeightedRoundRobin:
    """Each backend as often as its weight says, spread as evenly as possible, exactly so over a cycle.

    The order is that of NGINX (`ngx_http_upstream_get_peer`: every weight is added to its backend's current
    one, the greatest wins and pays the sum of all), entered at a random place.
    """

    name: ClassVar[str] = "weighted_round_robin"
    because: ClassVar[str] = "next in the weighted rotation"

    def build(
        self, backends: Sequence[BackendState], rng: Rng, /
    ) -> RotationPicker | SchedulePicker | DeadlinePicker:
        """A rotation by weight over `backends`."""
        weights = whole_weights(tuple(state.weight for state in backends))
        kinds = len(set(weights))
        if kinds == 1:
            return RotationPicker(backends, rng)
        if sum(weights) * kinds <= _MOST_STEPS:
            return SchedulePicker(backends, smooth_schedule(weights), rng)
        return DeadlinePicker(backends, weights, rng)


@lru_cache(maxsize=8)
def whole_weights(weights: tuple[float, ...]) -> tuple[int, ...]:
    """The smallest integers in the proportions of `weights`, a fraction being what its decimals say: 0.1 is
    1/10.
    """
    fractions = {weight: Fraction(str(weight)) for weight in set(weights)}
    scale = lcm(*(fraction.denominator for fraction in fractions.values()))
    whole = {weight: int(fraction * scale) for weight, fraction in fractions.items()}
    common = gcd(*whole.values())
    return tuple(whole[weight] // common for weight in weights)


@lru_cache(maxsize=8)
def smooth_schedule(weights: tuple[int, ...]) -> array[int]:
    """One cycle of NGINX's smooth weighted round robin, as indices into `weights`.

    Backends of one weight take turns in their order, so that each step compares distinct weights, not
    backends.
    """
    kinds: dict[int, list[int]] = {}
    for index, weight in enumerate(weights):
        kinds.setdefault(weight, []).append(index)
    total = sum(weights)
    steps = list(kinds)
    members = list(kinds.values())
    current = [0] * len(steps)
    turn = [0] * len(steps)
    front = [group[0] for group in members]  # who has the next turn of its weight
    schedule = array("I")
    for _ in range(total):
        best = 0
        most = -total  # what wins is never below zero
        for kind, step in enumerate(steps):
            now = current[kind] = current[kind] + step
            # "strictly greatest current; first wins ties"
            if now > most or (now == most and front[kind] < front[best]):
                best, most = kind, now
        schedule.append(front[best])
        turn[best] += 1
        if turn[best] == len(members[best]):
            turn[best] = 0
            current[best] -= total
        front[best] = members[best][turn[best]]
    return schedule


class SchedulePicker:
    """Goes round a written schedule.

    Attributes:
        drawn: The place of the last pick in `smooth_schedule(whole_weights(...))`.
    """

    __slots__ = ("_last", "_next", "_next_other", "_rng", "_schedule", "_states", "drawn")

    def __init__(self, backends: Sequence[BackendState], schedule: array[int], rng: Rng) -> None:
        self._states = tuple(backends)
        self._schedule = schedule
        self._rng = rng
        self._last = len(schedule) - 1
        self._next = int(rng.random() * len(schedule))
        self._next_other = int(rng.random() * len(schedule))
        self.drawn: int | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """The one whose turn it is."""
        self.drawn = at = self._next
        self._next = at + 1 if at < self._last else 0
        return self._states[self._schedule[at]]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The next one that is not in `avoid`, in a rotation of its own."""
        length = len(self._schedule)
        for step in range(min(length, 4 * len(self._states))):
            at = (self._next_other + step) % length
            state = self._states[self._schedule[at]]
            if state not in avoid:
                self._next_other = at + 1
                self.drawn = at
                return state
        # a run of the heavy ones, which are out of the question: it may be thousands long
        return weighted_rest(self._states, avoid, self._rng.random())


class DeadlinePicker:
    """Earliest deadline first: the k-th turn of weight w is due at k/w (as in Envoy's EDF scheduler), in
    integers.

    Attributes:
        drawn: The time of the last pick, in cycles.
    """

    __slots__ = ("_cycle", "_heap", "_states", "_weights", "drawn")

    def __init__(self, backends: Sequence[BackendState], weights: tuple[int, ...], rng: Rng) -> None:
        self._states = tuple(backends)
        self._weights = weights
        self._cycle = sum(weights) << 20  # ticks in a cycle: turns that are not due together stay apart
        now = int(rng.random() * self._cycle)
        # turns that are due together come in an order of each picker's own, or all clients would start with
        # the same
        ranks = rng.sample(range(len(weights)), len(weights))
        self._heap: list[tuple[int, int, int, int]] = []
        for index, weight in enumerate(weights):
            done = now * weight // self._cycle
            self._heap.append((self._due(weight, done + 1), ranks[index], index, done + 1))
        heapify(self._heap)
        self.drawn: float | None = None
        # a moment drawn at random favours turns that come after a long pause; a turn drawn at random does not
        for _ in range(int(rng.random() * len(weights))):
            self.pick(None)

    def _due(self, weight: int, turn: int) -> int:
        return turn * self._cycle // weight

    def pick(self, key: bytes | None, /) -> BackendState:
        """The one whose turn is due."""
        due, rank, index, turn = self._heap[0]
        heapreplace(self._heap, (self._due(self._weights[index], turn + 1), rank, index, turn + 1))
        self.drawn = due / self._cycle
        return self._states[index]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The one that is due next of those not in `avoid`, whose turns stay where they are."""
        passed: list[tuple[int, int, int, int]] = []
        found: BackendState | None = None
        while self._heap and found is None:
            if self._states[self._heap[0][2]] in avoid:
                passed.append(heappop(self._heap))
            else:
                found = self.pick(key)
        for entry in passed:
            heappush(self._heap, entry)
        return found
