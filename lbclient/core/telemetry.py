"""What a pool counts and tells of its requests that no decision of its own needs: for metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from lbclient.core.forking import new_lock

AnswerListener: TypeAlias = Callable[[str, float, int], None]
"""Called with the backend's URL, the seconds to the response's headers, and the response's status."""


class Telemetry:
    """Counts, and who is told of answers. Any thread may use it.

    Attributes:
        retries: Attempts after the first, one at a time.
        hedges: Copies of slow requests.
        listeners: Who is told of each answer.
    """

    __slots__ = ("_lock", "hedges", "listeners", "retries")

    def __init__(self) -> None:
        self._lock = new_lock()
        self.retries = 0
        self.hedges = 0
        self.listeners: tuple[AnswerListener, ...] = ()

    def retried(self) -> None:
        """Another attempt begins."""
        with self._lock:
            self.retries += 1

    def hedged(self) -> None:
        """A copy is sent."""
        with self._lock:
            self.hedges += 1

    def listen(self, listener: AnswerListener) -> Callable[[], None]:
        """Have `listener` called after every answer, in the thread of the request and without a lock: it has to be
        quick, and may not raise. Returns what undoes it.
        """
        with self._lock:
            self.listeners = (*self.listeners, listener)

        def forget() -> None:
            with self._lock:
                self.listeners = tuple(known for known in self.listeners if known is not listener)

        return forget
