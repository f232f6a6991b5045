"""What happened under the pool's lock, told when it is free: log handlers and listeners may do I/O, or use the pool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("lbclient")


class News:
    """Collects what is to be logged, and who is to be told that something changed.

    Args:
        lock: The pool's: `add` is called with it in hand, everything else without.

    Attributes:
        items: What has not been told.
    """

    __slots__ = ("_listeners", "_lock", "items")

    def __init__(self, lock: threading.Lock) -> None:
        self.items: list[tuple[int, str, tuple[object, ...]]] = []
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._lock = lock

    def add(self, level: int, words: str, *args: object) -> None:
        """Something to log, with `words % args` as its message."""
        self.items.append((level, words, args))

    def tell(self) -> None:
        """Log what there is and tell the listeners."""
        with self._lock:
            items, self.items = self.items, []
        for level, words, args in items:
            logger.log(level, words, *args)
        if items:
            for callback in self._listeners:
                callback()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called after every change; returns what undoes it."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(known for known in self._listeners if known is not callback)

        return unsubscribe
