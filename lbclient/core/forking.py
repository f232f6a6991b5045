"""What a fork does to everything that several threads share.

The child has one thread, a copy of all state, and copies of the locks as they were: one that another thread held stays
held for ever. So the locks made here are taken before a fork, one after the other in the order in which they were made,
and let go after it on both sides: the child's copy of what they guard is whole. They are held for microseconds
otherwise, and never while something blocks. If one cannot be had all the same (somebody forks in a finalizer that came
in the middle of one of our own sections), the fork goes on without it, after `TAKEN_WITHIN`.

Then the child's copies are told, with `after_fork`, that they are another process's.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Protocol
from weakref import WeakSet, WeakValueDictionary

try:
    from os import register_at_fork
except ImportError:  # pragma: no cover - a system that does not fork
    register_at_fork = None  # type: ignore[assignment]

TAKEN_WITHIN = 0.2  # seconds, for all of them


class Forked(Protocol):
    """Something that is another one after a fork."""

    def after_fork(self) -> None:
        """We are in the child."""


_numbers = itertools.count()
_locks: WeakValueDictionary[int, threading.Lock] = WeakValueDictionary()
_watched: WeakSet[Forked] = WeakSet()
_taken: list[threading.Lock] = []


def new_lock() -> threading.Lock:
    """A lock that no fork leaves held in the child. One that is taken inside of another has to be made after it."""
    lock = threading.Lock()
    _locks[next(_numbers)] = lock
    return lock


def tell_after_fork(who: Forked) -> None:
    """Have `who.after_fork()` called in every child. Does not keep it alive."""
    _watched.add(who)


def _before() -> None:
    give_up = time.monotonic() + TAKEN_WITHIN
    for _, lock in sorted(_locks.items(), key=lambda item: item[0]):
        if lock.acquire(timeout=max(0.0, give_up - time.monotonic())):
            _taken.append(lock)


def _let_go() -> None:
    while _taken:
        _taken.pop().release()


def _in_the_child() -> None:
    _let_go()
    for who in list(_watched):
        who.after_fork()


if register_at_fork is not None:  # pragma: no branch - likewise
    register_at_fork(before=_before, after_in_parent=_let_go, after_in_child=_in_the_child)
