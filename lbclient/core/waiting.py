"""Who waits for room in a full pool: first come, first served, and only so many.

Nobody is handed a ticket here. Whoever is first is woken when there may be room, and picks for itself; until it has
succeeded or given up, newcomers queue behind it instead of overtaking.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from lbclient.core.errors import NoBackendAvailable
from lbclient.core.forking import new_lock


class Place:
    """One request's place in the queue."""

    __slots__ = ("wake",)

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake


class Queue:
    """The requests that wait for room. Any thread may use it.

    Args:
        name: The pool's.
        limit: How many may wait.
    """

    __slots__ = ("_limit", "_lock", "_name", "_places")

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._places: OrderedDict[Place, None] = OrderedDict()
        self._lock = new_lock()

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<Queue of pool {self._name!r}, {len(self)} of {self._limit} waiting>"

    @property
    def busy(self) -> bool:
        """Whether some thread is at work here."""
        return self._lock.locked()

    def join(self, wake: Callable[[], None]) -> Place:
        """A place at the end. `wake` is called, from any thread, when its owner should try to pick.

        Raises:
            NoBackendAvailable: It is as long as it may be.
        """
        place = Place(wake)
        with self._lock:
            if len(self._places) >= self._limit:
                words = f"pool {self._name!r} is full, and {self._limit} requests wait already (max_pending)"
                raise NoBackendAvailable(words)
            self._places[place] = None
        return place

    def leave(self, place: Place) -> None:
        """The owner has its ticket, or has given up; the next one may try."""
        with self._lock:
            self._places.pop(place, None)
        self.stir()

    def overtakes(self, place: Place | None) -> bool:
        """Whether somebody came before the owner of `place` (None: who has not joined)."""
        with self._lock:
            return bool(self._places) and next(iter(self._places)) is not place

    def forget_all(self) -> None:
        """Nobody waits any more: they are in another process."""
        with self._lock:
            self._places.clear()

    def stir(self) -> None:
        """There may be room: wake the first."""
        with self._lock:
            first = next(iter(self._places), None)
        if first is not None:
            first.wake()
