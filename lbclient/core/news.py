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
    """

    __slots__ = ("_items", "_listeners", "_lock")

    def __init__(self, lock: threading.Lock) -> None:
        self._items: list[tuple[int, str, tuple[object, ...]]] = []
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._lock = lock

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, level: int, words: str, *args: object) -> None:
        """Something to log, with `words % args` as its message."""
        self._items.append((level, words, args))

    def tell(self) -> None:
        """Log what there is and tell the listeners."""
        with self._lock:
            items, self._items = self._items, []
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
