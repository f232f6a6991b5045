"""A socket that does not block, and waiting for it in a thread; any other thread may close it.

Closing a socket does not wake the thread that waits for it, and its number may soon be that of another file. So who
closes a wire that is in use shuts it down, which wakes everybody, and who leaves it last closes it.
"""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import httpcore

from lbclient._sync.blocking import block

if TYPE_CHECKING:
    from lbclient._sync.secure_wire import SecureWire

AnyWire: TypeAlias = "Wire | SecureWire"
CLOSED = "the connection was closed by us"
LONGEST_MS = 2**31 - 1  # that poll(2) can wait


class Wire:
    """A connected socket.

    Args:
        stream: httpcore's, without TLS; its socket is taken out of it.

    Attributes:
        closed: Whether we have closed it.
        sock: The socket.
        unsent: Whether it holds bytes back that it has taken.
    """

    __slots__ = ("_lock", "_reading", "_users", "closed", "sock")

    unsent = False

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self.sock = socket.socket(fileno=stream.get_extra_info("socket").detach())
        self.sock.setblocking(False)
        self.closed = False
        self._users = 0
        self._lock = threading.Lock()
        self._reading = self._poll_for(select.POLLIN)

    def _poll_for(self, events: int) -> select.poll:
        poll = select.poll()
        poll.register(self.sock.fileno(), events)
        return poll

    @property
    def readable(self) -> bool:
        """Whether there is something to read, if only the end; the kernel is asked."""
        try:
            return self.closed or bool(self._reading.poll(0))
        except RuntimeError:  # another thread waits for it
            return False

    def send(self, data: bytes | memoryview) -> int:
        """Hand over what the kernel takes at once; how many bytes that was."""
        self._enter()
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        finally:
            self._leave()

    def receive_now(self, most: int) -> bytes | None:
        """What there is to read; None for nothing, no bytes at the end."""
        self._enter()
        try:
            return self.sock.recv(most)
        except BlockingIOError:
            return None
        finally:
            self._leave()

    def receive(self, most: int, timeout: float | None) -> bytes:
        """Some bytes; none at the end.

        Raises:
            TimeoutError: Nothing came for `timeout` seconds.
            OSError: The connection is broken, or was closed by us.
        """
        self._enter()
        try:
            while True:
                block(self._until_readable, timeout, self.interrupt)
                with suppress(BlockingIOError):
                    return self.sock.recv(most)
        finally:
            self._leave()

    def _until_readable(self, timeout: float | None) -> None:
        if not self._reading.poll(None if timeout is None else min(timeout * 1000, LONGEST_MS)):
            raise TimeoutError

    def until_writable(self, timeout: float | None, or_readable: bool = False) -> None:
        """Return when the kernel takes more, or else when there is something to read.

        Raises:
            TimeoutError: Neither within `timeout` seconds.
            OSError: The connection was closed by us.
        """
        self._enter()
        try:
            poll = self._poll_for(select.POLLOUT | (select.POLLIN if or_readable else 0))

            def wait(left: float | None) -> None:
                if not poll.poll(None if left is None else min(left * 1000, LONGEST_MS)):
                    raise TimeoutError

            block(wait, timeout, self.interrupt)
        finally:
            self._leave()

    def checkpoint(self) -> None:
        """Give way to a cancellation: whoever sends without waiting does so in between."""
        block(_nothing, None, self.interrupt)

    def _enter(self) -> None:
        with self._lock:
            if self.closed:
                raise OSError(CLOSED)
            self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self.closed and not self._users:
                self.sock.close()

    def interrupt(self) -> None:
        """Wake whoever uses it: nothing more will come, and nothing can be sent. From any thread."""
        with self._lock:
            self._shut_down()

    def _shut_down(self) -> None:
        if self._users:
            with suppress(OSError):  # the other side was faster
                self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and wake whoever waits for it. From any thread."""
        with self._lock:
            self.closed = True  # first: who is woken finds out why
            self._shut_down()
            if not self._users:
                self.sock.close()

    def drop(self) -> None:
        """Close the socket in this process, without a shutdown, which a parent would feel, and without the lock."""
        self.closed = True
        self.sock.close()


def _nothing(timeout: float | None) -> None:
    pass
