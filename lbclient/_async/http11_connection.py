"""A connection that speaks HTTP/1.1, as far as it does not matter what it is made of; and the body of a response."""

from __future__ import annotations

import ssl
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any

import httpcore
import httpx

from lbclient._async.connections import Connection
from lbclient._async.http11 import Head, Informed, Outgoing, ResponseReader, State
from lbclient.core.facts import Header

ONE_WRITE = 64 * 1024  # a body up to this size is copied behind its head: one system call, one segment
REFUSES_FROM = 300  # a final status that makes the rest of the request pointless (RFC 9112, 9.5)
GONE = "Server disconnected without sending a response."
CLOSED = "the connection was closed while the request was in flight"

_DONE, _SWITCHED = State.DONE, State.SWITCHED


class HTTP11Connection(Connection):
    """A connection of the native engine.

    Attributes:
        written: Bytes handed to the socket.
        received: Bytes that came.
        turn: Which request of the connection this is; a body that outlived its request sees that it did.
    """

    __slots__ = ("_cut", "_error", "_over", "_reader", "_sent", "received", "turn", "written")

    def __init__(self) -> None:
        super().__init__(shared=False)
        self.written = 0
        self.received = 0
        self.turn = 0
        self._reader = ResponseReader()
        self._sent = True  # all of the request
        self._over = False  # no request may start
        self._error: Exception | None = None  # what the request under way gets
        self._cut: str | None = None

    @property
    def reusable(self) -> bool:
        """See `Connection`."""
        reader = self._reader
        return (
            reader.state is _DONE and reader.reusable and self._sent and not self._over and not reader.parts
        )

    @property
    def trailers(self) -> list[Header]:
        """What followed the body of the last response."""
        return self._reader.trailers

    def inform(self, of_informational: Informed | None) -> None:
        """Whom to tell of the informational responses to the next request."""
        self._reader.on_informational = of_informational

    def cut(self, reason: str) -> None:
        """See `Connection`."""
        self._cut = reason

    @property
    def _refused(self) -> bool:
        """Whether the answer is there and says no: there is no point in sending more."""
        head = self._reader.head
        return head is not None and head.status >= REFUSES_FROM

    def _begin(self, outgoing: Outgoing) -> None:
        """A request starts.

        Raises:
            httpcore.RemoteProtocolError: The connection had ended before.
        """
        if self._over:
            raise httpcore.RemoteProtocolError(GONE)
        self.turn += 1
        self._sent = False
        reader = self._reader
        lines = outgoing.lines
        reader.start(outgoing.method, lines.upgrade)
        if lines.close:
            reader.reusable = False

    @abstractmethod
    async def send(self, outgoing: Outgoing, stream: Any, timeout: float | None) -> None:
        """Send a request, until all of it is handed over or its answer has begun.

        Args:
            outgoing: The request.
            stream: Its body.
            timeout: Seconds that the peer may take to read nothing.

        Raises:
            httpcore.LocalProtocolError: The body is not as long as it was said to be.
            httpcore.RemoteProtocolError: The connection had ended before.
            httpcore.WriteTimeout: The peer does not read.
        """

    @abstractmethod
    def send_head(self, outgoing: Outgoing) -> None:
        """The first half of `send`."""

    @abstractmethod
    async def send_body(self, outgoing: Outgoing, stream: Any, timeout: float | None) -> None:
        """The second half of `send`. When the response begins first, the rest is sent while that is read."""

    async def receive(self, timeout: float | None) -> Head:
        """The head of the response.

        Args:
            timeout: Seconds in which something has to come.

        Raises:
            httpcore.ReadError: The connection broke, or was closed by us.
            httpcore.RemoteProtocolError: It was closed by the server, or what came is no HTTP/1.1.
            httpcore.ReadTimeout: Nothing came.
        """
        reader = self._reader
        while (head := reader.head) is None:
            await self.more(timeout)
        return head

    @abstractmethod
    async def more(self, timeout: float | None) -> None:
        """Wait until something has come, or has happened; raises what `receive` raises."""

    @abstractmethod
    async def all_sent(self) -> None:
        """Until the request has ended, after its response has. Raises what ended the body."""

    def take(self) -> bytes:
        """What has come of the body."""
        parts = self._reader.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    # After 101 or CONNECT

    async def read(self, max_bytes: int, timeout: float | None) -> bytes:
        """Bytes of the other protocol; none at the end."""
        while not self._reader.parts:
            if self._over and self._error is None:
                return b""
            await self.more(timeout)
        data = self.take()
        if len(data) > max_bytes:
            self._put_back(data[max_bytes:])
        return data[:max_bytes]

    def _put_back(self, data: bytes) -> None:
        """What was taken and not used."""
        self._reader.parts.append(data)

    @abstractmethod
    async def write(self, data: bytes, timeout: float | None) -> None:
        """Bytes of the other protocol."""

    @abstractmethod
    async def start_tls(
        self, context: ssl.SSLContext, server_hostname: str | None, timeout: float | None
    ) -> None:
        """Speak TLS from now on. The socket is closed when it fails or is cancelled."""

    @abstractmethod
    def get_extra_info(self, name: str) -> Any:
        """The socket, its addresses, the TLS object; None for other names."""


class Body(AsyncIterator[bytes]):
    """The body of the response that has begun: an iterator and no generator, which the loop would keep book of.

    Iterating raises what `HTTP11Connection.receive` raises.

    Args:
        connection: Where it comes from.
        timeout: Seconds in which something has to come.
    """

    __slots__ = ("_connection", "_reader", "_timeout", "_turn")

    def __init__(self, connection: HTTP11Connection, timeout: float | None) -> None:
        self._connection = connection
        self._reader = connection._reader
        self._turn = connection.turn
        self._timeout = timeout

    async def __anext__(self) -> bytes:
        connection, reader = self._connection, self._reader
        while True:
            if connection.turn != self._turn:
                raise httpcore.ReadError("this response was closed")
            if reader.state is _SWITCHED:
                raise StopAsyncIteration
            if reader.parts:
                return connection.take()
            if reader.state is _DONE:
                if not connection._sent:
                    await connection.all_sent()
                raise StopAsyncIteration
            await connection.more(self._timeout)

    def whole(self) -> bytes | None:
        """All of it, when all of it has come already, and the request has been sent; None when not."""
        connection = self._connection
        if self._reader.state is _DONE and connection._sent and connection.turn == self._turn:
            return connection.take()
        return None


def framed(outgoing: Outgoing, stream: httpx.ByteStream) -> bytes:
    """A body that is in memory, as it follows its head.

    Raises:
        httpcore.LocalProtocolError: It is not as long as it was said to be.
    """
    body = b"".join(stream)
    return outgoing.part(body) + outgoing.end() if body or outgoing.has_body else body
