"""A socket that does not block, and waiting for it on trio; `_sync/wire.py` is its counterpart for threads.

Whoever closes a wire wakes those who wait for it, with an `OSError`.
"""

from __future__ import annotations

import math
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import httpcore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbclient._async.secure_wire import SecureWire

AnyWire: TypeAlias = "Wire | SecureWire"
CLOSED = "the connection was closed by us"


class Wire:
    """A connected socket.

    Args:
        stream: httpcore's, without TLS; its socket is taken out of it.

    Attributes:
        closed: Whether we have closed it.
        sock: The socket.
        unsent: Whether it holds bytes back that it has taken.
    """

    __slots__ = ("_poll", "closed", "sock")

    unsent = False

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self.sock = socket.socket(fileno=stream.get_extra_info("socket").detach())
        self.sock.setblocking(False)
        self.closed = False
        self._poll = select.poll()
        self._poll.register(self.sock.fileno(), select.POLLIN)

    @property
    def readable(self) -> bool:
        """Whether there is something to read, if only the end; the kernel is asked."""
        return self.closed or bool(self._poll.poll(0))

    def send(self, data: bytes | memoryview) -> int:
        """Hand over what the kernel takes at once; how many bytes that was."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def receive_now(self, most: int) -> bytes | None:
        """What there is to read; None for nothing, no bytes at the end."""
        try:
            return self.sock.recv(most)
        except BlockingIOError:
            return None

    async def receive(self, most: int, timeout: float | None) -> bytes:
        """Some bytes; none at the end.

        Raises:
            TimeoutError: Nothing came for `timeout` seconds.
            OSError: The connection is broken, or was closed by us.
        """
        while True:
            await self._wait(_trio().lowlevel.wait_readable, timeout)
            data = self.receive_now(most)
            if data is not None:
                return data

    async def until_writable(self, timeout: float | None, or_readable: bool = False) -> None:
        """Return when the kernel takes more, or else when there is something to read.

        Raises:
            TimeoutError: Neither within `timeout` seconds.
            OSError: The connection was closed by us.
        """
        await self._wait(_until_either if or_readable else _trio().lowlevel.wait_writable, timeout)

    async def checkpoint(self) -> None:
        """Give way to others, and to a cancellation: whoever sends without waiting does so in between."""
        await _trio().lowlevel.checkpoint()

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]], timeout: float | None) -> None:
        trio = _trio()
        if self.closed:
            raise OSError(CLOSED)
        try:
            with trio.move_on_after(math.inf if timeout is None else timeout) as scope:
                await ready(self.sock)
        except trio.ClosedResourceError:
            raise OSError(CLOSED) from None
        if scope.cancelled_caught:
            raise TimeoutError
        if self.closed:
            raise OSError(CLOSED)

    def close(self) -> None:
        """Close the socket, and wake whoever waits for it."""
        if not self.closed:
            self.closed = True
            _trio().lowlevel.notify_closing(self.sock)
            self.sock.close()

    def drop(self) -> None:
        """Close the socket in this process; nobody here uses it."""
        self.closed = True
        self.sock.close()


def _trio() -> Any:
    import trio  # those who get here have it

    return trio


async def _until_either(sock: socket.socket) -> None:
    trio = _trio()
    lowlevel = trio.lowlevel

    async def first(ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        with suppress(trio.ClosedResourceError):  # that is something as well
            await ready(sock)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, lowlevel.wait_readable)
        nursery.start_soon(first, lowlevel.wait_writable)
