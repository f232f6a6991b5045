"""Algorithms that draw lots, alike or by weight, with one random number a pick, which replays it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random as Rng
from typing import ClassVar

from lbclient.core.backend import BackendState

_REDRAWS = (
    8  # after that the rest is written down; with half of the backends out of the question, once in 256
)


@dataclass(frozen=True, slots=True)
class Random:
    """Any backend, each as likely as the other, whatever its weight."""

    name: ClassVar[str] = "random"
    because: ClassVar[str] = "drawn at random"

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> RandomPicker:
        """A lottery over `backends`."""
        return RandomPicker(backends, rng)


@dataclass(frozen=True, slots=True)
class WeightedRandom:
    """Any backend, as likely as its weight says."""

    name: ClassVar[str] = "weighted_random"
    because: ClassVar[str] = "drawn at random, by weight"

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> RandomPicker | WeightedRandomPicker:
        """A lottery over `backends` with as many lots as weight."""
        weights = tuple(state.weight for state in backends)
        if min(weights) == max(weights):
            return RandomPicker(backends, rng)
        return WeightedRandomPicker(backends, alias_table(weights), rng)


class RandomPicker:
    """Draws one of its backends; `drawn` is the random number in [0, 1)."""

    __slots__ = ("_count", "_random", "_states", "drawn")

    def __init__(self, backends: Sequence[BackendState], rng: Rng) -> None:
        self._states = tuple(backends)
        self._count = len(self._states)
        self._random = rng.random
        self.drawn: float | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """Anyone."""
        self.drawn = drawn = self._random()
        return self._states[int(drawn * self._count)]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """Anyone who is not in `avoid`."""
        for _ in range(_REDRAWS):
            state = self.pick(key)
            if state not in avoid:
                return state
        rest = [state for state in self._states if state not in avoid]
        self.drawn = self._random()
        return rest[int(self.drawn * len(rest))] if rest else None


class AliasTable:
    """Lots by weight, drawn in O(1) (Walker 1977, built after Vose 1991).

    Each of n equally likely places is shared by at most two owners: its own index up to `own` of it, `other`
    beyond.
    """

    __slots__ = ("other", "own")

    def __init__(self, weights: Sequence[float]) -> None:
        heaviest = max(weights)
        relative = [weight / heaviest for weight in weights]  # a sum of huge weights would overflow
        mean = sum(relative) / len(relative)
        self.own = [weight / mean for weight in relative]
        self.other = list(range(len(relative)))
        small = [index for index, share in enumerate(self.own) if share < 1.0]
        large = [index for index, share in enumerate(self.own) if share >= 1.0]
        while small and large:
            little, much = small.pop(), large[-1]
            self.other[little] = much
            self.own[much] -= 1.0 - self.own[little]
            if self.own[much] < 1.0:
                small.append(large.pop())
        for index in small + large:  # full but for rounding
            self.own[index] = 1.0

    def index(self, drawn: float) -> int:
        """Whose lot `drawn` in [0, 1) is."""
        place = drawn * len(self.own)
        index = int(place)
        return index if place - index < self.own[index] else self.other[index]


@lru_cache(maxsize=8)
def alias_table(weights: tuple[float, ...]) -> AliasTable:
    """The alias table of `weights`, kept for the sets seen last."""
    return AliasTable(weights)


class WeightedRandomPicker:
    """Draws one of its backends by weight; `drawn` is the random number in [0, 1) for `AliasTable.index`."""

    __slots__ = ("_index", "_random", "_states", "drawn")

    def __init__(self, backends: Sequence[BackendState], table: AliasTable, rng: Rng) -> None:
        self._states = tuple(backends)
        self._index = table.index
        self._random = rng.random
        self.drawn: float | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """Anyone, by weight."""
        self.drawn = drawn = self._random()
        return self._states[self._index(drawn)]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """Anyone who is not in `avoid`, by weight."""
        for _ in range(_REDRAWS):
            state = self.pick(key)
            if state not in avoid:
                return state
        self.drawn = self._random()
        return weighted_rest(self._states, avoid, self.drawn)


def weighted_rest(
    states: Sequence[BackendState], avoid: Collection[BackendState], drawn: float
) -> BackendState | None:
    """Of those not in `avoid` the one that `drawn` in [0, 1) means, by weight; None when nobody is left.
    O(n).
    """
    rest = [state for state in states if state not in avoid]
    left = drawn * sum(state.weight for state in rest)
    for state in rest:
        left -= state.weight
        if left < 0:
            return state
    return rest[-1] if rest else None
