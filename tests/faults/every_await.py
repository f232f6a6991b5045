"""A request that is given up at each place in turn where it can be, and what has to be true afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, TypeVar

import anyio

from lbclient import AsyncBalancedTransport
from lbclient._async.connections import Connections
from lbclient._async.engine import PooledEngine
from lbclient._async.http2 import HTTP2Connection
from lbclient._async.httpcore_connection import HttpcoreConnection

_T = TypeVar("_T")


class CancelledAt(Awaitable[_T]):
    """Awaits `coroutine`, and cancels `scope` when it suspends for the k-th time (from 1)."""

    def __init__(self, coroutine: Coroutine[Any, Any, _T], scope: anyio.CancelScope, k: int) -> None:
        self._coroutine = coroutine
        self._scope = scope
        self._k = k
        self.suspended = 0

    def __await__(self) -> Generator[Any, Any, _T]:
        step: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731  # replaced below
        while True:
            try:
                wanted = step()
            except StopIteration as end:
                result: _T = end.value
                return result
            self.suspended += 1
            if self.suspended == self._k:
                self._scope.cancel()
            try:
                value = yield wanted
            except BaseException as exc:  # noqa: BLE001  # the coroutine's to handle
                step = _thrower(self._coroutine, exc)
            else:
                step = _sender(self._coroutine, value)


def _sender(coroutine: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(value)


def _thrower(coroutine: Coroutine[Any, Any, Any], exc: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(exc)


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def books(transport: AsyncBalancedTransport) -> list[Connections]:
    """The connections of every backend, in every loop."""
    found: list[Connections] = []
    for engine in (engine for io in transport._ios.values() for engine in io._engines.values()):
        assert isinstance(engine, PooledEngine)
        found += [connections for _, _, connections in engine._backends.values()]
    return found


def in_flight(transport: AsyncBalancedTransport) -> int:
    return sum(status.in_flight for pool in transport.pools.values() for status in pool.status().backends)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


def opened(transport: AsyncBalancedTransport) -> int:
    return sum(opened for opened, _ in transport.connections().values())


def streams(connection: object) -> int:
    """Those that an HTTP/2 connection still remembers."""
    assert isinstance(connection, HttpcoreConnection)
    assert isinstance(connection.core, HTTP2Connection)
    return len(connection.core._events)


def balance(transport: AsyncBalancedTransport) -> dict[str, int]:
    """What has to be zero when nobody asks for anything."""
    return {
        "in flight": in_flight(transport),
        "open and not idle": sum(opened - idle for opened, idle in transport.connections().values()),
        "waiting": sum(len(each._waiters) for each in books(transport)),
        "opening": sum(each._opening for each in books(transport)),
        "to be closed": sum(len(each._abandoned) for each in books(transport)),
        "streams": sum(streams(each) for book in books(transport) for each in book._shared),
        "not counted": sum(abs(each._slots - len(each._all)) for each in books(transport)),
    }
