"""Consistent hashing with bounded loads: a key's backend takes it only while it has room, else the next one
does.

Hot keys cannot overload their backend (Mirrokni, Thorup, Zadimoghaddam 2016, "Consistent Hashing with Bounded
Loads"). With the request that comes, at most `factor` times the fair share of all that is in flight may be on
one backend, rounded up; as in HAProxy it has to have a free slot (`served < slots`), where Envoy lets one
more through. The factor is above 1, so somebody always has room.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from random import Random as Rng

from lbclient.core.algorithms.keyed import KeyedPicker, Table
from lbclient.core.backend import BackendState
from lbclient.core.checks import check_number
from lbclient.core.facts import KeyLike, key_reader
from lbclient.core.hashing import Digest


def slots(active: int, factor: float, share: float) -> int:
    """How many requests one backend may have in flight (Envoy's arithmetic, `thread_aware_lb_impl.cc`).

    Args:
        active: In flight at all backends together, without the one to be placed.
        factor: How far above the fair share a backend may go.
        share: The backend's weight next to the sum of all, 0 to 1.
    """
    return max(1, math.ceil(math.ceil((active + 1) * factor) * share))


def check_keyed(key: KeyLike, bounded_load: float | None) -> None:
    """Refuse a key or a bound that no hashing algorithm can use, in words."""
    key_reader(key)
    if bounded_load is not None:
        check_number("bounded_load", bounded_load, above=1)


def keyed_picker(
    backends: Sequence[BackendState], table: Table, digest: Digest, bounded_load: float | None, rng: Rng
) -> KeyedPicker:
    """A picker by `table`, bounded or not."""
    if bounded_load is None:
        return KeyedPicker(backends, table, digest, rng)
    return BoundedPicker(backends, table, digest, bounded_load, rng)


class BoundedPicker(KeyedPicker):
    """Looks keys up in a table and walks on from a backend that has no room."""

    __slots__ = ("_active", "_factor", "_known", "_shares")

    def __init__(
        self, backends: Sequence[BackendState], table: Table, digest: Digest, factor: float, rng: Rng
    ) -> None:
        super().__init__(backends, table, digest, rng)
        self._factor = factor
        total = math.fsum(state.weight for state in backends)
        self._shares = [state.weight / total for state in backends]
        self._known = frozenset(backends)
        self._active = self._sum()

    def pick(self, key: bytes | None, /) -> BackendState:
        """The first on the way from the key's place who has room."""
        state = self.pick_other(key, ())
        assert state is not None  # nobody is avoided, and the slots are more than the requests
        return state

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`; when none of them has room, the one with the most of it for
        its size.
        """
        self.drawn = hashed = self._random_bits(self._bits) if key is None else self._digest(key)
        calmest: BackendState | None = None
        least = math.inf
        seen: set[int] = set()
        for index in self._table.walk(hashed):
            if index in seen:
                continue
            seen.add(index)
            state = self._states[index]
            if state in avoid:
                continue
            overload = state.in_flight / slots(self._active, self._factor, self._shares[index])
            if overload < 1:
                return state
            if overload < least:
                calmest, least = state, overload
        return calmest

    def started(self, state: BackendState, /) -> None:
        """One more in flight."""
        if state in self._known:
            self._active = self._sum() if state.scale else self._active + 1

    def ended(self, state: BackendState, /) -> None:
        """One less in flight."""
        if state in self._known:
            self._active = self._sum() if state.scale else self._active - 1

    def _sum(self) -> int:
        return sum(state.in_flight for state in self._known)
