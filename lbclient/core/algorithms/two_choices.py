"""The power of two choices: of two backends drawn at random, the less loaded one.

It is nearly as good as knowing the least loaded of all, at the cost of two looks, and it does not herd:
clients that know the same stale numbers still draw different pairs (Mitzenmacher 2001).

Weights. Dividing the load alone is not enough: among idle backends every load is zero, and of two backends
both are always drawn. So the first of a pair is drawn by weight and wins ties, and the second, drawn alike,
takes part with probability min(1, its weight / the first one's). This is the acceptance rule of Metropolis et
al. (1953), and it does for loads what it did for energies: as often as i gives way to j, j gives way to i, so
that loads which do not differ leave the shares at the weights exactly, and only loads that do differ shift
them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.sampling import alias_table, weighted_rest
from lbclient.core.backend import BackendState

_REDRAWS = 8


@dataclass(frozen=True, slots=True)
class PowerOfTwoChoices:
    """Of two different backends drawn by weight, the one with fewer in flight for its weight."""

    name: ClassVar[str] = "power_of_two_choices"
    because: ClassVar[str] = "fewest in flight, of two drawn at random"

    def build(
        self, backends: Sequence[BackendState], rng: Rng, /
    ) -> TwoChoicesPicker | WeightedTwoChoicesPicker:
        """A picker that draws pairs of `backends`."""
        weights = tuple(state.weight for state in backends)
        if min(weights) == max(weights):
            return TwoChoicesPicker(backends, rng)
        return WeightedTwoChoicesPicker(backends, rng)


class Pairs:
    """What a random number means as a pair of indices, by weight."""

    __slots__ = ("_other", "_own", "_weights")

    def __init__(self, weights: tuple[float, ...]) -> None:
        table = alias_table(weights)
        self._own = table.own
        self._other = table.other
        self._weights = weights

    def pair(self, drawn: float) -> tuple[int, int]:
        """The first and the second one; twice the same when the second does not take part.

        One number holds all three lots (52 bits; 10,000 backends need 27 of them for the two indices): what
        the first lot leaves of it, stretched to [0, 1) again, is the second.
        """
        own = self._own
        count = len(own)
        place = drawn * count
        first = int(place)
        rest = place - first
        share = own[first]
        if rest < share:
            rest /= share
        else:
            rest = (rest - share) / (1.0 - share)
            first = self._other[first]
        place = rest * (count - 1)
        second = int(place)
        coin = place - second
        if second >= first:
            second += 1
        if second == count:  # a single backend, or a rounded-up rest
            return first, first
        weights = self._weights
        return first, second if coin * weights[first] < weights[second] else first


class TwoChoicesPicker:
    """Two choices among equals; `drawn` is the random number in [0, 1) that holds the pair."""

    __slots__ = ("_count", "_others", "_random", "_states", "drawn")

    def __init__(self, backends: Sequence[BackendState], rng: Rng) -> None:
        self._count = len(backends)
        self._others = self._count - 1
        self._states = (*backends, backends[0])  # the second of a single backend is itself
        self._random = rng.random
        self.drawn: float | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """The less loaded of two different ones, the first drawn when they are alike."""
        self.drawn = drawn = self._random()
        place = drawn * self._count
        index = int(place)
        other = int((place - index) * self._others)
        if other >= index:
            other += 1
        first = self._states[index]
        second = self._states[other]
        return second if second.in_flight < first.in_flight else first

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        for _ in range(_REDRAWS):
            state = self.pick(key)
            if state not in avoid:
                return state
        self.drawn = self._random()
        return weighted_rest(self._states[: self._count], avoid, self.drawn)


class WeightedTwoChoicesPicker:
    """Two choices by weight; `drawn` is the random number in [0, 1) for `Pairs.pair`."""

    __slots__ = ("_pair", "_random", "_states", "_weights", "drawn")

    def __init__(self, backends: Sequence[BackendState], rng: Rng) -> None:
        self._states = tuple(backends)
        self._weights = tuple(state.weight for state in backends)
        self._pair = Pairs(self._weights).pair
        self._random = rng.random
        self.drawn: float | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """The one of a pair with fewer in flight for its weight, the first drawn when they are alike."""
        self.drawn = drawn = self._random()
        one, two = self._pair(drawn)
        first = self._states[one]
        second = self._states[two]
        # in flight / weight, without the division
        less = second.in_flight * self._weights[one] < first.in_flight * self._weights[two]
        return second if less else first

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        for _ in range(_REDRAWS):
            state = self.pick(key)
            if state not in avoid:
                return state
        self.drawn = self._random()
        return weighted_rest(self._states, avoid, self.drawn)
