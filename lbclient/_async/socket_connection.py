"""One HTTP/1.1 connection over a wire: whoever uses it sends and receives itself, in the same task or thread.

A request is sent as far as the kernel takes it, and only then is something waited for; so most requests wait once, for
their response. What is left over is sent by whoever waits for that, step by step (`_send_on`): one step hands over what
there is, or makes the next part of the body, or waits until the server reads *or says* something. So an early answer is
seen, and a server that answers as it reads gets its answer taken, without a second task. Only a body that makes its
next part wait keeps the response waiting as well.

A write that fails is no error of its own: it ends the sending, and what the server said before it closed, or how it
ended, is read.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import httpcore
import httpx

from lbclient._async.http11 import Outgoing
from lbclient._async.http11_connection import CLOSED, ONE_WRITE, HTTP11Connection, framed
from lbclient._async.network import CutOff
from lbclient._async.secure_wire import SecureWire
from lbclient._async.wire import AnyWire

HEAD_READ = 64 * 1024
BODY_READ = 256 * 1024


class SocketConnection(HTTP11Connection):
    """A connection of the native engine on trio, and in threads.

    Attributes:
        wire: What it goes over; None until it is connected.
    """

    __slots__ = ("_body", "_outgoing", "_pending", "_reset", "_sending", "_write_timeout", "wire")

    def __init__(self) -> None:
        super().__init__()
        self.wire = cast(AnyWire, None)
        self._sending = False  # there is something left to send, and somebody who wants it
        self._pending = memoryview(b"")  # of the request: what the kernel has not taken yet
        self._body: AsyncIterator[bytes] | None = None  # what follows that
        self._outgoing: Outgoing
        self._reset: OSError | None = None
        self._write_timeout: float | None = None

    # What the owner of the connections asks

    @property
    def dead(self) -> bool:
        """See `Connection`: the kernel is asked."""
        return self._over or self.wire.readable

    async def aclose(self) -> None:
        """See `Connection`; waits for nothing."""
        self.abort()

    def abort(self) -> None:
        """Close the socket, and wake whoever uses it."""
        self._over = True
        if self.wire is not None:
            self.wire.close()

    def drop(self) -> None:
        """See `Connection`."""
        self._over = True
        self.wire.drop()

    # Sending

    async def send(self, outgoing: Outgoing, stream: Any, timeout: float | None) -> None:
        """See `HTTP11Connection`."""
        if type(stream) is not httpx.ByteStream:
            self.send_head(outgoing)
            await self.send_body(outgoing, stream, timeout)
            return
        body = framed(outgoing, stream)
        self._begin(outgoing)
        if len(body) <= ONE_WRITE:
            self._hand_over(outgoing.head + body)
        else:
            self._hand_over(outgoing.head)
            if self._sending:
                self._hand_over(body)
        self._body = None
        if self._pending or self.wire.unsent:
            self._write_timeout = timeout
            await self._send_until_answered()
        elif self._sending:
            self._sending = False
            self._sent = True

    def send_head(self, outgoing: Outgoing) -> None:
        """See `HTTP11Connection`."""
        self._begin(outgoing)
        self._hand_over(outgoing.head)

    async def send_body(self, outgoing: Outgoing, stream: Any, timeout: float | None) -> None:
        """See `HTTP11Connection`."""
        self._outgoing = outgoing
        self._body = aiter(stream)
        self._write_timeout = timeout
        await self._send_until_answered()

    def _begin(self, outgoing: Outgoing) -> None:
        early = self._greeting() if not self.turn else b""
        super()._begin(outgoing)
        self._sending = True
        if early:
            self._reader.reusable = False
            self._take_in(early)

    def _greeting(self) -> bytes:
        """What came before the first request: why the server will not serve us."""
        if self._over or not self.wire.readable:
            return b""
        try:
            data = self.wire.receive_now(HEAD_READ)
        except OSError:
            data = b""
        self._over = data == b""
        return data or b""

    async def _send_until_answered(self) -> None:
        reader = self._reader
        while self._sending and reader.head is None:
            await self._send_on()

    async def _send_on(self) -> None:
        """One step of sending."""
        if self._pending or self.wire.unsent:
            self._push()
            if self._sending and (self._pending or self.wire.unsent):
                try:
                    await self.wire.until_writable(self._write_timeout, or_readable=True)
                except TimeoutError:
                    words = f"the server read nothing for {self._write_timeout:.3g} s"
                    raise httpcore.WriteTimeout(words) from None
                except OSError as exc:
                    raise self._broken(exc) from exc
                self._listen()
        elif self._body is None:
            self._sending = False
            self._sent = True
        else:
            await self.wire.checkpoint()
            data = await self._next_part(self._body)
            self._listen()
            if self._sending and data:
                self._hand_over(data)

    async def _next_part(self, body: AsyncIterator[bytes]) -> bytes:
        try:
            try:
                part = await anext(body)
            except StopAsyncIteration:
                self._body = None
                return self._outgoing.end()
            return self._outgoing.part(part)
        except BaseException as exc:
            self._stop_sending()
            if isinstance(exc, Exception):
                self._error = exc
            raise

    def _hand_over(self, data: bytes) -> None:
        self.written += len(data)
        if self._pending:
            self._pending = memoryview(bytes(self._pending) + data)
            return
        try:
            taken = self.wire.send(data)
        except OSError as exc:
            self._write_failed(exc)
        else:
            if taken < len(data):
                self._pending = memoryview(data)[taken:]

    def _push(self) -> None:
        """Hand to the kernel what it takes at once of what it has not taken before."""
        try:
            while taken := self.wire.send(self._pending):
                self._pending = self._pending[taken:]
                if not self._pending:
                    break
        except OSError as exc:
            self._write_failed(exc)

    def _listen(self) -> None:
        """Take in what the server has said meanwhile, if only that it has had enough."""
        try:
            data = self.wire.receive_now(HEAD_READ)
        except OSError as exc:
            self._fail(self._broken(exc))
        else:
            if data is not None:
                self._take_in(data)
        if self._refused or self._over:
            self._stop_sending()

    def _write_failed(self, exc: OSError) -> None:
        self._stop_sending()
        if isinstance(exc, ConnectionResetError):
            self._reset = exc  # the kernel says so once: what is read from now on ends quietly

    def _stop_sending(self) -> None:
        self._sending = False
        self._pending = memoryview(b"")
        self._body = None

    async def all_sent(self) -> None:
        """See `HTTP11Connection`."""
        while self._sending:
            await self._send_on()
        if self._error is not None:
            raise self._error

    # Receiving

    async def more(self, timeout: float | None) -> None:
        """See `HTTP11Connection`."""
        if self._error is not None:
            raise self._error
        if self._sending:
            await self._send_on()
            return
        try:
            data = await self.wire.receive(HEAD_READ if self._reader.head is None else BODY_READ, timeout)
        except TimeoutError:
            raise httpcore.ReadTimeout(f"nothing came for {timeout:.3g} s") from None
        except OSError as exc:
            self._fail(self._broken(exc))
            raise cast(Exception, self._error) from exc
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        try:
            if data:
                self.received += len(data)
                self._reader.feed(data)
                return
            self._over = True
            if self._cut is not None or self.wire.closed:
                self._error = self._broken(None)
            elif self._reset is not None and self._reader.head is None:
                self._error = self._broken(self._reset)
            else:
                self._reader.end()
        except httpcore.RemoteProtocolError as exc:
            self._fail(exc)

    def _fail(self, error: Exception) -> None:
        self._over = True
        self._error = error

    def _broken(self, exc: OSError | None) -> Exception:
        """What the request under way gets when its connection breaks, or is closed by us."""
        if self._cut is not None:
            return CutOff(self._cut)
        if self.wire.closed or exc is None:
            return httpcore.ReadError(CLOSED)
        return httpcore.ReadError(str(exc) or type(exc).__name__)

    # After 101 or CONNECT

    async def write(self, data: bytes, timeout: float | None) -> None:
        """See `HTTP11Connection`."""
        wire, rest = self.wire, memoryview(data)
        self.written += len(data)
        try:
            while True:
                rest = rest[wire.send(rest) :]
                if not rest and not wire.unsent:
                    return
                await wire.until_writable(timeout)
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(f"the server read nothing for {timeout:.3g} s") from exc
        except OSError as exc:
            if self._cut is not None:
                raise CutOff(self._cut) from exc
            raise httpcore.WriteError(str(exc) or type(exc).__name__) from exc

    async def start_tls(
        self, context: ssl.SSLContext, server_hostname: str | None, timeout: float | None
    ) -> None:
        """See `HTTP11Connection`."""
        try:
            secured = SecureWire(self.wire, context, server_hostname)
            await secured.shake_hands(timeout)
        except BaseException as exc:
            self.abort()
            if isinstance(exc, TimeoutError):
                raise httpcore.ConnectTimeout(f"no TLS within {timeout:.3g} s") from exc
            if isinstance(exc, OSError):
                raise httpcore.ConnectError(str(exc)) from exc
            raise
        self.wire = secured

    def get_extra_info(self, name: str) -> Any:
        """See `HTTP11Connection`."""
        wire = self.wire
        if name == "ssl_object":
            return wire.tls if isinstance(wire, SecureWire) else None
        while isinstance(wire, SecureWire):
            wire = wire.below
        if name == "socket":
            return wire.sock
        with suppress(OSError):  # it has been closed
            if name == "client_addr":
                return wire.sock.getsockname()
            if name == "server_addr":
                return wire.sock.getpeername()
        return None
