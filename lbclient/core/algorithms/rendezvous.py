"""Rendezvous hashing: every backend draws a lot for the key, the best lot wins.

Shares are exactly the weights, the keys of one that leaves spread over all the others by weight, nothing else
moves, and there is no table. The price is a look at every backend, 50 ns each (300 with weights that differ),
so rings and Maglev suit thousands better.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.bounded import check_keyed, keyed_picker
from lbclient.core.algorithms.keyed import KeyedPicker, names_and_weights
from lbclient.core.backend import BackendState
from lbclient.core.facts import KeyLike
from lbclient.core.hashing import stable64

_PRIME = 2**61 - 1
_MANY = 16  # from here on a long number is faster than many short ones


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """A key's backend is the one that scores highest for it (Thaler and Ravishankar 1998), by weight.

    Args:
        key: What of a request is hashed.
        bounded_load: How far above its fair share of what is in flight a backend may go before its keys move
            on; above 1, None for no bound.
    """

    key: KeyLike = "client_ip"
    bounded_load: float | None = None

    name: ClassVar[str] = "rendezvous"
    because: ClassVar[str] = "the highest score for the key"

    def __post_init__(self) -> None:
        check_keyed(self.key, self.bounded_load)

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> KeyedPicker:
        """A picker by the scores of `backends`."""
        lots = rendezvous_lots(*names_and_weights(backends))
        return keyed_picker(backends, lots, stable64, self.bounded_load, rng)


def score(fraction: float, weight: float) -> float:
    """How well a backend does with a lot in (0, 1): -weight / ln(fraction), the most wins.

    The shares come out as the weights because -ln(fraction) / weight is an exponential waiting time of that
    rate, and the first of several arrives in proportion to its rate (Schindelhauer and Schomaker 2005,
    logarithmic method).
    """
    return math.inf if fraction >= 1 else -weight / math.log(fraction)


class RendezvousLots:
    """Draws everybody's lot for a hash.

    A lot is seed x key modulo a Mersenne prime, the seed being a hash of the backend's name and the key one
    of the key: a product costs a fifth of hashing both together, for every backend and every pick.

    Of many backends all products are one: the seeds stand beside each other in a long number, in lanes of 128 bits, and
    modulo 2^61 - 1 means to add what is above 61 bits of a lane to what is below, twice. Of 10,000 that takes 0.5 ms
    where one after the other take 2.8.
    """

    __slots__ = ("_below", "_lanes", "_seeds", "_weights", "bits")

    def __init__(self, names: Sequence[str], weights: Sequence[float]) -> None:
        self.bits = 64
        self._seeds = [stable64(name.encode()) % (_PRIME - 1) + 1 for name in names]
        self._weights = None if min(weights) == max(weights) else list(weights)
        wide = self._seeds if len(self._seeds) >= _MANY else []
        self._lanes = int.from_bytes(b"".join(seed.to_bytes(16, "little") for seed in wide), "little")
        self._below = int.from_bytes(_PRIME.to_bytes(16, "little") * len(wide), "little")

    def _lots(self, hashed: int) -> Sequence[int]:
        factor = hashed % (_PRIME - 1) + 1
        if not self._lanes:
            return [seed * factor % _PRIME for seed in self._seeds]
        below = self._below
        lots = self._lanes * factor
        lots = (lots & below) + ((lots >> 61) & below)
        # Never the prime itself: neither seed nor key is 0 modulo it.
        lots = (lots & below) + ((lots >> 61) & below)
        halves = array("Q", lots.to_bytes(16 * len(self._seeds), "little"))
        if sys.byteorder == "big":  # pragma: no cover - none of those that run the tests
            halves.byteswap()
        return halves[::2]

    def _scores(self, hashed: int) -> Sequence[float]:
        lots = self._lots(hashed)
        if self._weights is None:
            return lots  # the score grows with the lot
        pairs = zip(lots, self._weights, strict=True)
        try:
            log = math.log
            return [-weight / log(lot / _PRIME) for lot, weight in pairs]  # `score`, without a call for each
        except ZeroDivisionError:  # a lot so high that it rounds to 1
            return [score(lot / _PRIME, weight) for lot, weight in zip(lots, self._weights, strict=True)]

    def find(self, hashed: int, /) -> int:
        """The one with the highest score."""
        scores = self._scores(hashed)
        return scores.index(max(scores))

    def walk(self, hashed: int, /) -> Iterator[int]:
        """All, from the highest score down."""
        scores = self._scores(hashed)
        yield from sorted(range(len(scores)), key=scores.__getitem__, reverse=True)


@lru_cache(maxsize=8)
def rendezvous_lots(names: tuple[str, ...], weights: tuple[float, ...]) -> RendezvousLots:
    """The lots of a set, kept for those seen last."""
    return RendezvousLots(names, weights)
