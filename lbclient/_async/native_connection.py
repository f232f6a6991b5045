"""One HTTP/1.1 connection that is itself the `asyncio.Protocol`: what the event loop tells it, and who waits for that.

What the loop calls (`data_received`, `connection_lost`, ...) only writes down what happened and wakes whoever waits;
what a request calls (`send`, `receive`, `Body`) looks at what is written down, and waits when it is not enough.
So there is no task, lock or event per request, and no moment at which a cancellation could find half a step done.

* **One waiter.** A request either sends or receives, so one future is enough. Two write and read at once: a connection
  that was handed over (after 101 or CONNECT), and a request whose body comes in parts, which is sent by a task of its
  own; for the response may begin before the request has ended, and a server that answers as it reads stops reading when
  nobody takes its answer. Who writes then has a future of its own.
* **One timer a connection, not one a wait.** A wait writes down when it is due. The timer that is running goes off at
  the earliest of these and is set anew when that one had moved on: 0.2 to 0.3 us a wait in place of 1.7.
* **Back-pressure both ways.** Reading is paused while more than `MOST_UNREAD` bytes wait for the caller, and a request
  waits while the transport holds more than it likes. Reading is *not* paused while a request is sent: so an early
  answer is seen, also that of a server which closes right behind it.
* **A connection ends once.** `_over` says that no request may start; `_error` is what the request under way gets.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from collections.abc import AsyncIterable
from math import inf
from types import MappingProxyType
from typing import Any, cast

import anyio
import httpcore
import httpx

from lbclient._async.http11 import Outgoing, State
from lbclient._async.http11_connection import (
    CLOSED,
    ONE_WRITE,
    REFUSES_FROM,
    HTTP11Connection,
    framed,
)
from lbclient._async.network import CutOff
from lbclient._async.patience import Patience

MOST_UNREAD = 256 * 1024  # bytes that wait for the caller before reading is paused
MOST_EARLY = 64 * 1024  # bytes that come before the first request
LAST_LOOK = 64 * 1024

_DONE, _SWITCHED = State.DONE, State.SWITCHED
_NAMES = MappingProxyType(
    {"ssl_object": "ssl_object", "client_addr": "sockname", "server_addr": "peername", "socket": "socket"}
)


class NativeConnection(HTTP11Connection, asyncio.Protocol):
    """A connection of the native engine on asyncio.

    Attributes:
        transport: The event loop's side of it.
    """

    __slots__ = (
        "_closed_by_us",
        "_drainer",
        "_due",
        "_early",
        "_loop",
        "_poll",
        "_reading_paused",
        "_sender",
        "_timer",
        "_unread",
        "_waiter",
        "_writing_paused",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.transport = cast(asyncio.Transport, None)  # until connection_made
        self._loop = loop
        self._sender: asyncio.Task[None] | None = None
        self._early = b""
        self._closed_by_us = False
        self._waiter: asyncio.Future[bool] | None = None
        self._drainer: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._unread = 0
        self._reading_paused = False
        self._writing_paused = False
        self._poll: select.poll | None = None

    # What the owner of the connections asks

    @property
    def reusable(self) -> bool:
        """See `Connection`."""
        return not self._writing_paused and super().reusable

    @property
    def dead(self) -> bool:
        """See `Connection`.

        The loop may have been busy since the server closed or sent something, so the kernel is asked: 0.6 us. A flag
        alone was wrong 5 times of 5 after a blocked loop.
        """
        if self._over:
            return True
        poll = self._poll
        if poll is None:
            poll = self._poll = select.poll()
            poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def aclose(self) -> None:
        """See `Connection`; never gives way to the event loop."""
        self.abort()

    def abort(self) -> None:
        """Close without lingering: `close()` would wait for the peer on TLS, and for a peer that reads."""
        self._closed_by_us = self._over = True
        if self._sender is not None:
            self._sender.cancel()
        if self.transport is not None:
            self.transport.abort()

    def drop(self) -> None:
        """See `Connection`."""
        self.abort()

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.received += len(data)
        reader = self._reader
        if reader.state is _DONE:
            self._unasked(data)
            return
        try:
            reader.feed(data)
        except httpcore.RemoteProtocolError as exc:
            self._error = exc
            self.abort()
        if reader.parts:
            self._unread += len(data)
            if self._unread > MOST_UNREAD and not self._reading_paused and not self._over:
                self._reading_paused = True
                self.transport.pause_reading()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)
        drainer = self._drainer
        if drainer is not None and not drainer.done():  # what came may make it pointless to send more
            drainer.set_result(True)

    def _unasked(self, data: bytes) -> None:
        """Before the first request a server may say why it will not serve us; later on nothing may come."""
        if self.turn == 0 and len(self._early) + len(data) <= MOST_EARLY:
            self._early += data
        else:
            self._reader.feed(data)
            self.abort()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. What was switched to on plain TCP may go on writing after the other side ended."""
        self._over = True
        if self._reader.state is _SWITCHED and self.transport.get_extra_info("sslcontext") is None:
            self._wake()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if exc is not None and not self._closed_by_us:
            self._look_once_more()
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._error is None and self._reader.state is not _DONE:
            self._error = self._end(exc)
        self._wake()

    def _look_once_more(self) -> None:
        """A failed write ends a connection; what the server said before it closed may still be in the kernel."""
        if self._reader.state is State.HEAD and self.transport.get_extra_info("sslcontext") is None:
            try:
                data = os.read(self.transport.get_extra_info("socket").fileno(), LAST_LOOK)
            except OSError:
                return
            if data:
                self.data_received(data)

    def _end(self, exc: Exception | None) -> Exception | None:
        """What the request under way gets."""
        if self._cut is not None:
            return CutOff(self._cut)
        if self._closed_by_us:
            return httpcore.ReadError(CLOSED)
        if exc is not None:
            error = httpcore.ReadError(str(exc) or type(exc).__name__)
            error.__cause__ = exc
            return error
        try:
            self._reader.end()
        except httpcore.RemoteProtocolError as error:
            return error
        return None

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writing_paused = False
        self._wake()

    def _wake(self) -> None:
        for waiting in (self._waiter, self._drainer):
            if waiting is not None and not waiting.done():
                waiting.set_result(True)

    # Waiting

    async def _wait(self, timeout: float | None) -> bool:
        """Until something has happened; False when nothing does within `timeout` seconds."""
        loop = self._loop
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        if timeout is None:
            self._due = inf
        else:
            self._due = due = loop.time() + timeout
            timer = self._timer
            if timer is None:
                self._timer = loop.call_at(due, self._tick)
            elif timer.when() > due:
                timer.cancel()
                self._timer = loop.call_at(due, self._tick)
        try:
            return await waiter
        finally:
            self._waiter = None

    def _tick(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._loop.time() >= self._due:
            waiter.set_result(False)
        elif self._due < inf:
            self._timer = self._loop.call_at(self._due, self._tick)

    # Sending

    async def send(self, outgoing: Outgoing, stream: Any, timeout: float | None) -> None:
        """See `HTTP11Connection`."""
        if type(stream) is not httpx.ByteStream:
            self.send_head(outgoing)
            await self.send_body(outgoing, stream, timeout)
            return
        body = framed(outgoing, stream)
        self._begin(outgoing)
        if not body:
            self._write(outgoing.head)
        elif len(body) <= ONE_WRITE:
            self._write(outgoing.head + body)
        else:
            self._write(outgoing.head)
            self._write(body)
        self._sent = True
        if self._writing_paused:
            await self._drain(timeout)

    def send_head(self, outgoing: Outgoing) -> None:
        """See `HTTP11Connection`."""
        self._begin(outgoing)
        self._write(outgoing.head)

    async def send_body(
        self, outgoing: Outgoing, stream: AsyncIterable[bytes], timeout: float | None
    ) -> None:
        """See `HTTP11Connection`."""
        self._sender = sender = self._loop.create_task(self._send_parts(outgoing, stream, timeout))
        sender.add_done_callback(self._sending_ended)
        reader = self._reader
        try:
            # A refusal ends the sending by itself, between two parts: what was read of the body is then still known.
            while not sender.done() and (reader.head is None or reader.head.status >= REFUSES_FROM):
                await self._wait(None)
        except BaseException:
            sender.cancel()
            with anyio.CancelScope(shield=True):  # whose body it is may clean up before the request has ended
                await asyncio.wait([sender])
            raise
        if sender.done() and not sender.cancelled():  # or the connection has ended, and `receive` says why
            sender.result()

    async def _send_parts(
        self, outgoing: Outgoing, stream: AsyncIterable[bytes], timeout: float | None
    ) -> None:
        async for part in stream:
            data = outgoing.part(part)
            if self._refused:
                return
            if data:
                self._write(data)
                if self._writing_paused:
                    await self._drain_beside(timeout)
        data = outgoing.end()
        if self._refused:
            return
        if data:
            self._write(data)
        self._sent = True
        if self._writing_paused:
            await self._drain_beside(timeout)

    def _sending_ended(self, sender: asyncio.Task[None]) -> None:
        self._sender = None
        if not sender.cancelled() and (exc := sender.exception()) is not None:
            self._error = cast(Exception, exc)
            self.abort()
        self._wake()

    async def all_sent(self) -> None:
        """See `HTTP11Connection`."""
        while self._sender is not None and not self._over:
            await self._wait(None)
        if self._error is not None:
            raise self._error

    def _begin(self, outgoing: Outgoing) -> None:
        super()._begin(outgoing)
        self._unread = 0
        if self._early:
            self._reader.reusable = False
            early, self._early = self._early, b""
            self.data_received(early)

    def _write(self, data: bytes) -> None:
        self.written += len(data)
        self.transport.write(data)

    @property
    def _refused(self) -> bool:
        """Whether there is no point in sending more: the connection has ended, or the answer is there and says no."""
        return super()._refused or self.transport.is_closing()

    async def _drain(self, timeout: float | None) -> None:
        while self._writing_paused and not self._over and not self._refused:
            before = self.transport.get_write_buffer_size()
            if not await self._wait(timeout) and self.transport.get_write_buffer_size() >= before:
                self._sent = False
                raise httpcore.WriteTimeout(f"the server read nothing for {timeout:.3g} s")

    async def _drain_beside(self, timeout: float | None) -> None:
        """As `_drain`, for who writes while somebody reads."""
        while self._writing_paused and not self._over and not self._refused:
            before = self.transport.get_write_buffer_size()
            self._drainer = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._drainer
            except TimeoutError:
                if self.transport.get_write_buffer_size() >= before:
                    self._sent = False
                    raise httpcore.WriteTimeout(f"the server read nothing for {timeout:.3g} s") from None
            finally:
                self._drainer = None

    # Receiving

    async def more(self, timeout: float | None) -> None:
        """See `HTTP11Connection`."""
        if self._error is not None:
            raise self._error
        if not await self._wait(timeout):
            raise httpcore.ReadTimeout(f"nothing came for {timeout:.3g} s")

    def take(self) -> bytes:
        """See `HTTP11Connection`."""
        data = super().take()
        self._unread = 0
        if self._reading_paused:
            self._reading_paused = False
            if not self._over:
                self.transport.resume_reading()
        return data

    # After 101 or CONNECT

    def _put_back(self, data: bytes) -> None:
        super()._put_back(data)
        self._unread = len(data)

    async def write(self, data: bytes, timeout: float | None) -> None:
        """See `HTTP11Connection`."""
        if self.transport.is_closing():
            raise httpcore.WriteError("the connection is closed")
        self._write(data)
        try:
            with anyio.fail_after(timeout):
                while self._writing_paused and not self.transport.is_closing():
                    self._drainer = self._loop.create_future()
                    await self._drainer
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(f"the server read nothing for {timeout:.3g} s") from exc
        finally:
            self._drainer = None

    # TLS

    async def start_tls(
        self, context: ssl.SSLContext, server_hostname: str | None, timeout: float | None
    ) -> None:
        """See `HTTP11Connection`."""
        await self.shake_hands(context, server_hostname, Patience(timeout, timeout))

    async def shake_hands(
        self, context: ssl.SSLContext, server_hostname: str | None, patience: Patience
    ) -> None:
        """See `start_tls`; with time that is used up already."""
        plain = self.transport
        with patience.step():
            try:
                if plain.is_closing():
                    raise ConnectionError("the connection is closed")
                secured = await self._loop.start_tls(plain, self, context, server_hostname=server_hostname)
                if secured is None:
                    raise ConnectionError("the connection was closed in the handshake")
            except BaseException:
                self.abort()
                raise
            self.transport = secured

    def get_extra_info(self, name: str) -> Any:
        """See `HTTP11Connection`."""
        known = _NAMES.get(name)
        return None if known is None else self.transport.get_extra_info(known)
