"""Being told when sockets are ready, by calls instead of tasks: asyncio's `add_reader`, and the same on trio.

A forwarder has two directions to each of thousands of connections. Callbacks that stay registered cost no task, no
future and no `epoll_ctl` for a piece of data (`python -m benchmarks.l4` shows what that is worth), and they are the
same code on either event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup

from lbclient._async.loops import Loop, call_soon, running_loop

Callback: TypeAlias = Callable[[], None]


class Readiness(Protocol):
    """Calls back for as long as a socket is ready. Callbacks do not wait, and do not raise.

    What is registered has to be dropped before the socket is closed.
    """

    def on_readable(self, sock: socket.socket, callback: Callback) -> None:
        """Call whenever there is something to read, an end or an error included; until `off_readable`."""
        ...  # pragma: no cover - a protocol

    def off_readable(self, sock: socket.socket) -> None:
        """Not any more. Idempotent."""
        ...  # pragma: no cover - a protocol

    def on_writable(self, sock: socket.socket, callback: Callback) -> None:
        """Call whenever there is room to write, or an error; until `off_writable`."""
        ...  # pragma: no cover - a protocol

    def off_writable(self, sock: socket.socket) -> None:
        """Not any more. Idempotent."""
        ...  # pragma: no cover - a protocol

    def here(self, callback: Callback) -> None:
        """Call once, in this event loop: at once when it is the one that runs, else soon; never when it has ended."""
        ...  # pragma: no cover - a protocol


class AsyncioReadiness:
    """Of an asyncio event loop, uvloop's included."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def on_readable(self, sock: socket.socket, callback: Callback) -> None:
        """See `Readiness`."""
        self._loop.add_reader(sock.fileno(), callback)

    def off_readable(self, sock: socket.socket) -> None:
        """See `Readiness`."""
        self._loop.remove_reader(sock.fileno())

    def on_writable(self, sock: socket.socket, callback: Callback) -> None:
        """See `Readiness`."""
        self._loop.add_writer(sock.fileno(), callback)

    def off_writable(self, sock: socket.socket) -> None:
        """See `Readiness`."""
        self._loop.remove_writer(sock.fileno())

    def here(self, callback: Callback) -> None:
        """See `Readiness`."""
        _call_in(self._loop, callback)


class TaskReadiness:
    """Of any event loop of anyio's, by a task for each direction that is waited for.

    Args:
        group: Where the tasks live.
    """

    __slots__ = ("_group", "_loop", "_waits")

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._loop = running_loop()
        self._waits: dict[tuple[int, bool], anyio.CancelScope] = {}

    def on_readable(self, sock: socket.socket, callback: Callback) -> None:
        """See `Readiness`."""
        self._on(sock, False, callback)

    def off_readable(self, sock: socket.socket) -> None:
        """See `Readiness`."""
        self._off(sock, False)

    def on_writable(self, sock: socket.socket, callback: Callback) -> None:
        """See `Readiness`."""
        self._on(sock, True, callback)

    def off_writable(self, sock: socket.socket) -> None:
        """See `Readiness`."""
        self._off(sock, True)

    def here(self, callback: Callback) -> None:
        """See `Readiness`."""
        _call_in(self._loop, callback)

    def _on(self, sock: socket.socket, writing: bool, callback: Callback) -> None:
        self._off(sock, writing)
        scope = anyio.CancelScope()
        self._waits[sock.fileno(), writing] = scope
        self._group.start_soon(_call_back, sock, writing, callback, scope)

    def _off(self, sock: socket.socket, writing: bool) -> None:
        scope = self._waits.pop((sock.fileno(), writing), None)
        if scope is not None:
            scope.cancel()


async def _call_back(
    sock: socket.socket, writing: bool, callback: Callback, scope: anyio.CancelScope
) -> None:
    wait = anyio.wait_writable if writing else anyio.wait_readable
    with scope:
        while not scope.cancel_called:
            await wait(sock)
            if not scope.cancel_called:
                callback()


def _call_in(loop: Loop, callback: Callback) -> None:
    try:
        elsewhere = running_loop() is not loop
    except RuntimeError:  # none runs in this thread
        elsewhere = True
    if not elsewhere:
        callback()
        return
    with suppress(RuntimeError):  # it has ended, and its sockets with it
        call_soon(loop, callback)


def readiness(group: TaskGroup) -> Readiness:
    """That of the running event loop.

    Args:
        group: Where tasks live, if it takes any.
    """
    loop: Any = running_loop()
    return AsyncioReadiness(loop) if isinstance(loop, asyncio.AbstractEventLoop) else TaskReadiness(group)
