"""Which backends of a large pool a client looks at.

A client that looks at everybody has a connection to everybody and hears of each too rarely to know anything. So it
looks at a subset, its aperture, as large as its traffic needs: a backend for every four requests of a second.

The subset is the client's own, and stays the same while the pool does. Told which of how many clients it is, a client
takes a slice of the ring of all backends, at the offset index x backends / count: the slices lie evenly, so that every
backend has as many clients as any other (deterministic aperture, Finagle 2019, with an offset that does not split
the clients into disjoint groups). Otherwise it is the head of an order that the client has drawn by rendezvous
hashing: a backend that joins or leaves changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.fading import Estimate
from lbclient.core.hashing import stable64

WINDOW = 64  # how many a pick looks at, at most
_SECONDS_PER_BACKEND = 4.0  # a backend for every four requests of a second
_REVIEWED = 1.0  # seconds between two looks at the rate


class Aperture:
    """A client's subset of the backends.

    Args:
        estimates: Of all backends.
        peer: (index, count) of this client, or None.
        rng: What an order of the client's own is drawn from.
    """

    LEAST: ClassVar[int] = 12  # fewer, and a failing one among them would be missed by nobody else

    __slots__ = ("_least", "_order", "_random", "_reviewed", "_size", "_turn", "_twice")

    def __init__(self, estimates: Sequence[Estimate], peer: tuple[int, int] | None, rng: Rng) -> None:
        self._random = rng.random
        if peer is None:
            salt = rng.getrandbits(64).to_bytes(8, "big")
            self._order = sorted(estimates, key=lambda one: stable64(salt + one.state.backend.name.encode()))
            self._least = WINDOW
        else:
            ring = sorted(
                estimates, key=lambda one: (stable64(one.state.backend.name.encode()), one.state.url)
            )
            offset = peer[0] * len(ring) // peer[1]
            self._order = ring[offset:] + ring[:offset]
            self._least = self.LEAST
        self._twice = self._order + self._order[:WINDOW]
        self._size = min(self._least, len(self._order))
        self._reviewed = 0.0
        self._turn = -1

    def window(self, now: float, turn: int) -> Sequence[Estimate]:
        """Whom this pick looks at: all of the aperture, or a window of it that begins anywhere."""
        if self._turn < 0:
            self._reviewed, self._turn = now, turn
        elif now - self._reviewed >= _REVIEWED:
            rate = (turn - self._turn) / (now - self._reviewed)
            self._size = min(len(self._order), max(self._least, int(rate / _SECONDS_PER_BACKEND)))
            self._reviewed, self._turn = now, turn
        if self._size <= WINDOW:
            return self._order[: self._size]
        start = int(self._random() * self._size)
        found = self._order[start : min(start + WINDOW, self._size)]
        return found if len(found) == WINDOW else found + self._order[: WINDOW - len(found)]

    def beyond(self) -> Sequence[Estimate]:
        """A window of all backends that begins anywhere: for when those in the aperture are bad."""
        start = int(self._random() * len(self._order))
        return self._twice[start : start + WINDOW]
