"""How long connecting may take: so many seconds of an event loop that keeps up.

A timer that goes off says that time has passed, and not that the server had it. Making a connection takes half a dozen
turns of the event loop, and when a turn is long (a thousand others connect in this process, a callback blocks) the
server has answered long ago. Blaming it takes a good backend out of the pool, and the next, because nothing is wrong
with any of them.

So when the time is up, the turn that the loop is in is measured. If it is long, a connect that has not had `TURNS` such
turns gets them, once and within the timeout of the caller; one that had no chance to get them is nobody's fault
(`Starved`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import anyio
import httpcore

TURNS = 12  # twice what it takes
LONG = 0.1  # seconds; a shorter turn is an ordinary hiccup of a process


class Starved(httpcore.ConnectTimeout):
    """Our event loop was too busy to connect in time; that says nothing about the server."""


class Patience:
    """The time of one attempt to connect, step by step.

    Args:
        seconds: So much is enough; None for no limit.
        at_most: What the caller allows; None for no limit.
    """

    __slots__ = ("_asked", "_begun", "_due", "_granted", "_limit", "_loop", "_scope", "_starved", "_timer")

    def __init__(self, seconds: float | None, at_most: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = now = self._loop.time()
        self._due = None if seconds is None else now + seconds
        self._limit = None if at_most is None else now + at_most
        self._asked = 0.0
        self._granted = self._starved = False
        self._scope: anyio.CancelScope | None = None
        self._timer: asyncio.Handle | None = None

    @property
    def left(self) -> float | None:
        """Seconds, as far as one can tell now."""
        return None if self._due is None else max(0.0, self._due - self._loop.time())

    @contextmanager
    def step(self) -> Generator[None, None, None]:
        """A step of connecting, with httpcore's exceptions."""
        try:
            with anyio.CancelScope() as scope:
                self._scope = scope
                if self._due is not None:
                    self._timer = self._loop.call_at(self._due, self._ring)
                yield
            if scope.cancelled_caught:
                raise TimeoutError
        except TimeoutError as exc:
            took = f"no connection within {self._loop.time() - self._begun:.3g} s"
            if self._starved:
                raise Starved(f"{took}, in which this event loop was too busy to make one") from exc
            raise httpcore.ConnectTimeout(took) from exc
        except OSError as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        finally:
            self._scope = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _ring(self) -> None:
        """Time is up; now how long is a turn?"""
        self._asked = self._loop.time()
        self._timer = self._loop.call_soon(self._judge)

    def _judge(self) -> None:
        assert self._due is not None
        now = self._loop.time()
        turn = max(now - self._asked, self._asked - self._due)
        enough = self._begun + TURNS * turn
        if not self._granted and turn > LONG and enough > now:
            self._starved = self._limit is not None and enough > self._limit
            if self._limit is None or now < self._limit:
                self._granted = True
                self._due = enough if self._limit is None else min(enough, self._limit)
                self._timer = self._loop.call_at(self._due, self._ring)
                return
        if self._scope is not None:
            self._scope.cancel()
