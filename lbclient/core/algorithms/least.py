"""Least connections, without looking at every backend.

Backends stand in groups of equal load. A ticket that is taken or ended moves its backend to the next group,
which is a swap and an append; a pick draws from the group with the least load. That is O(1) whatever the
number of backends, where a scan of 10,000 takes half a millisecond. With weights the loads are fractions, and
a heap keeps the groups in order: O(log of the different loads).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.sampling import alias_table
from lbclient.core.backend import BackendState

_FEW = 16  # ties that are weighed one by one
_REDRAWS = 4


@dataclass(frozen=True, slots=True)
class LeastConnections:
    """The backend with the fewest in flight for its weight; ties are drawn, by weight.

    The load is in flight / weight, as in NGINX's `least_conn` (no request is added to the count, so that idle
    backends are alike whatever their weights, and their weights decide).
    """

    name: ClassVar[str] = "least_connections"
    because: ClassVar[str] = "fewest in flight"

    def build(
        self, backends: Sequence[BackendState], rng: Rng, /
    ) -> LeastConnectionsPicker | WeightedLeastConnectionsPicker:
        """A picker of the least loaded of `backends`."""
        if len({state.weight for state in backends}) == 1 and not backends[0].scale:
            return LeastConnectionsPicker(backends, rng)
        return WeightedLeastConnectionsPicker(backends, rng)


class _Seat:
    """A backend's place in the group of those with its load."""

    __slots__ = ("group", "index", "place", "state", "weight")

    def __init__(self, state: BackendState, index: int, group: list[_Seat]) -> None:
        self.state = state
        self.index = index
        self.weight = state.weight
        self.group = group
        self.place = len(group)
        group.append(self)


class LeastConnectionsPicker:
    """Least connections among backends of one weight, where each request weighs 1.

    Attributes:
        drawn: The index of the last pick: a scan for the least load that starts there ends there.
    """

    __slots__ = ("_groups", "_least", "_random", "_seats", "drawn")

    def __init__(self, backends: Sequence[BackendState], rng: Rng) -> None:
        self._random = rng.random
        self._least = min(state.in_flight for state in backends)
        most = max(state.in_flight for state in backends)
        self._groups: list[list[_Seat]] = [[] for _ in range(most + 2)]  # by number in flight
        self._seats = {
            state: _Seat(state, index, self._groups[state.in_flight]) for index, state in enumerate(backends)
        }
        self.drawn: int | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """Anyone of those with the fewest in flight."""
        group = self._groups[self._least]
        seat = group[int(self._random() * len(group))]
        self.drawn = seat.index
        return seat.state

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        for group in self._groups[self._least :]:
            seat = _anyone(group, avoid, self._random)
            if seat is not None:
                self.drawn = seat.index
                return seat.state
        return None

    def started(self, state: BackendState, /) -> None:
        """A ticket was taken or has ended: to the group of those with as many in flight."""
        seat = self._seats.get(state)
        if seat is None:
            return
        level = state.in_flight
        groups = self._groups
        if level == len(groups):
            groups.append([])
        # `_move`, written out: the call would cost a sixth of a pick and its release
        old = seat.group
        last = old.pop()
        if last is not seat:
            old[seat.place] = last
            last.place = seat.place
        seat.group = group = groups[level]
        seat.place = len(group)
        group.append(seat)
        if level < self._least:
            self._least = level
        elif not groups[self._least]:
            self._least += 1  # where the one that left it has gone

    ended = started


def _move(seat: _Seat, group: list[_Seat]) -> None:
    """To another group; the last one of the old group takes the place that becomes free."""
    old = seat.group
    last = old.pop()
    if last is not seat:
        old[seat.place] = last
        last.place = seat.place
    seat.group = group
    seat.place = len(group)
    group.append(seat)


def _anyone(
    group: Sequence[_Seat], avoid: Collection[BackendState], random: Callable[[], float]
) -> _Seat | None:
    """Anyone in `group` who is not in `avoid`."""
    if not group:
        return None
    for _ in range(_REDRAWS):
        seat = group[int(random() * len(group))]
        if seat.state not in avoid:
            return seat
    rest = [seat for seat in group if seat.state not in avoid]
    return rest[int(random() * len(rest))] if rest else None


class WeightedLeastConnectionsPicker:
    """Least connections among backends of different weights, or with requests that differ in theirs.

    Attributes:
        drawn: The index of the last pick: a scan for the least load that starts there ends there.
    """

    __slots__ = ("_groups", "_heap", "_order", "_random", "_seats", "_table", "drawn")

    def __init__(self, backends: Sequence[BackendState], rng: Rng) -> None:
        self._random = rng.random
        self._groups: dict[float, list[_Seat]] = {}
        self._order = [
            _Seat(state, index, self._groups.setdefault(state.in_flight / state.weight, []))
            for index, state in enumerate(backends)
        ]
        self._seats = {seat.state: seat for seat in self._order}
        self._table = alias_table(tuple(state.weight for state in backends))
        self._heap = list(self._groups)  # the load of every group, also of those that have become empty
        heapify(self._heap)
        self.drawn: int | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """Of those with the least in flight for their weight anyone, by weight."""
        group = self._lightest()
        seat = group[0] if len(group) == 1 else self._draw(group)
        self.drawn = seat.index
        return seat.state

    def _lightest(self) -> list[_Seat]:
        """The group with the least load; empty ones on the way to it are dropped."""
        while True:
            group = self._groups[self._heap[0]]
            if group:
                return group
            del self._groups[heappop(self._heap)]

    def _draw(self, group: list[_Seat]) -> _Seat:
        """Anyone of `group`, by weight."""
        # the lots of all serve for the group as well, as long as it is most of them
        for _ in range(_REDRAWS):
            seat = self._order[self._table.index(self._random())]
            if seat.group is group:
                return seat
        if len(group) > _FEW:
            group = [group[int(self._random() * len(group))] for _ in range(_FEW)]
        return self._weigh(group)

    def _weigh(self, group: list[_Seat]) -> _Seat:
        """Anyone of a small `group`, by weight."""
        left = self._random() * sum([seat.weight for seat in group])
        for seat in group:
            left -= seat.weight
            if left < 0:
                return seat
        return group[-1]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        for load in sorted(self._groups):
            group = [seat for seat in self._groups[load] if seat.state not in avoid]
            if group:
                seat = self._weigh(group)
                self.drawn = seat.index
                return seat.state
        return None

    def started(self, state: BackendState, /) -> None:
        """A ticket was taken or has ended: to the group of those with the same load."""
        seat = self._seats.get(state)
        if seat is None:
            return
        load = state.in_flight / seat.weight
        group = self._groups.get(load)
        if group is None:
            if len(self._heap) > 2 * len(self._order) + _FEW:
                self._drop_empty()
            group = self._groups[load] = []
            heappush(self._heap, load)
        _move(seat, group)

    ended = started

    def _drop_empty(self) -> None:
        """Forget the loads that nobody has: at most as many as there are backends stay."""
        self._groups = {load: group for load, group in self._groups.items() if group}
        self._heap = list(self._groups)
        heapify(self._heap)
