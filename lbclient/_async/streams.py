"""The response body: the ticket and the connection are held until it ends, and given back exactly once."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress

import anyio
import httpx

from lbclient._async.body import OnceBody
from lbclient._async.connections import Connection, Connections
from lbclient._async.errors import DeadlineExceeded, as_httpx, ending_of_body, explained
from lbclient._async.http11_connection import Body
from lbclient.core.attempts import SOON
from lbclient.core.explain import Record
from lbclient.core.outcome import ENDINGS, Ending
from lbclient.core.ticket import Ticket

DISCARD_WITHIN = 0.1  # seconds


class Lease:
    """A response's hold on its connection."""

    __slots__ = ("connection", "connections")

    def __init__(self, connections: Connections, connection: Connection) -> None:
        self.connections = connections
        self.connection = connection

    async def cut(self) -> None:
        """The connection cannot be trusted any more: close it, unless others share it."""
        if not self.connection.shared:
            with anyio.CancelScope(shield=True):
                await self.connection.aclose()
        await self.connections.give_back(self.connection)

    def abandon(self) -> None:
        """From a finalizer, where nothing can be awaited."""
        self.connections.abandon(self.connection)


class BalancedStream(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a response, as its transport gives it, and what has to happen when it ends.

    Args:
        source: httpcore's stream, or that of a transport of the caller's.
        ticket: In flight until the end.
        record: For the exceptions, and for the response.
        lease: The connection; None for a transport of the caller's, which sees to its own.
        left: Seconds until the request's deadline, when it has one.
        sent: What is sent meanwhile, where that may raise: a server may answer before it has read all of it.

    Attributes:
        response: What it is the body of, until it ends. httpx wraps the body in something that holds the response, a
            ring with all that hangs on it; freed by the garbage collector it costs 6 % of a request at 10 in flight,
            13 % at 100. httpx2 makes no ring.
    """

    response: httpx.Response | None = None

    def __init__(
        self,
        source: AsyncIterable[bytes],
        ticket: Ticket,
        record: Record,
        lease: Lease | None,
        left: Callable[[], float] | None = None,
        sent: OnceBody | None = None,
    ) -> None:
        self._source = source
        self._ticket = ticket
        self.record = record
        self._lease = lease
        self._left = left
        self._sent = sent
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._parts = aiter(self._source)
        return self

    async def __anext__(self) -> bytes:
        # An iterator and no generator, which the event loop would have to keep book of: 2 us.
        try:
            part = await anext(self._parts)
            if self._left is not None and self._left() <= 0:
                raise DeadlineExceeded("the deadline of the request passed while its response was read")
        except StopAsyncIteration:
            raise
        except Exception as exc:
            mapped = as_httpx(exc)
            self._ticket.failed(ENDINGS[self._ending_of(mapped)].failure)
            if isinstance(mapped, httpx.TimeoutException) and self._left is not None and self._left() <= SOON:
                mapped = DeadlineExceeded(
                    f"the deadline of the request passed while its response was read: {mapped}"
                )
            explained(mapped, self.record)
            if mapped is exc:
                raise
            raise mapped from exc
        return part

    def _ending_of(self, exc: Exception) -> Ending:
        if self._sent is not None and self._sent.raised:
            return Ending.OURS
        if self._lease is not None and self._lease.connections.ended:
            return Ending.CUT
        return ending_of_body(exc)

    def whole(self) -> bytes | None:
        """All of the body, when all of it has come already: nothing is left but to close. None when it has not."""
        source = self._source
        if type(source) is not Body or (self._left is not None and self._left() <= 0):
            return None
        return source.whole()

    async def aclose(self) -> None:
        """The end of the body, or the caller's loss of interest in it."""
        if not self._open:
            return
        self._open = False
        close = getattr(self._source, "aclose", None)
        try:
            try:
                if close is not None:
                    await close()
            except BaseException:
                # Cancelled inside, httpcore's connection stays active for ever and a second close does nothing.
                if self._lease is not None:
                    await self._lease.cut()
                raise
            lease = self._lease
            if lease is not None and (doomed := lease.connections.put(lease.connection)):
                await lease.connections.close_all(doomed)
        finally:
            self._ticket.release()  # last: who waits for nothing in flight finds the connection given back
            if self.response is not None:
                self._untie(self.response)

    def _untie(self, response: httpx.Response) -> None:
        self.response = None
        if getattr(response.stream, "_response", None) is response:  # and no wrapper of a caller
            response.stream = self

    async def discard(self, read: bool) -> None:
        """Nobody wants it.

        Args:
            read: It is short: read it to its end, because then its connection can be kept.
        """
        try:
            if read:
                with anyio.move_on_after(DISCARD_WITHIN):
                    async for _ in self._source:
                        pass
        except Exception:  # noqa: BLE001  # whatever it is, it is the end of this response, and nobody asks for it
            self._ticket.failed("reset")
        finally:
            with anyio.CancelScope(shield=True), suppress(Exception):  # its connection is closed, then
                await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self._open = False
            self._ticket.abandon()
            if self._lease is not None:
                self._lease.abandon()
            message = f"a response from {self._ticket.state.url} was never closed; use `async with client.stream(...)`"
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)
