"""`connect`: one connection to one backend of a pool, as an anyio byte stream that is in flight until it is closed."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from lbclient.core.backend import Backend
from lbclient.core.checks import check_number
from lbclient.core.explain import Record
from lbclient.core.facts import Facts
from lbclient.core.pool import Pool
from lbclient.core.ticket import Ticket
from lbclient.l4.dial import Dial, dial
from lbclient.l4.errors import CutOff
from lbclient.l4.fleet import Fleet, fleet_of
from lbclient.l4.sockets import connected_socket, kind_of, shut

_T = TypeVar("_T")

TIMEOUT = 10.0
_ENDED = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
GOODBYE_WITHIN = 1.0  # seconds; TLS says goodbye, and not everybody answers


class StreamAttribute(anyio.TypedAttributeSet):
    """What the streams of `connect` know besides `anyio.abc.SocketAttribute` (and `anyio.streams.tls.TLSAttribute`)."""

    backend: Backend = anyio.typed_attribute()
    """Who is at the other end."""
    record: Record = anyio.typed_attribute()
    """Whom `connect` tried, and why."""


Replace: TypeAlias = "Callable[[Ticket, OSError], Awaitable[BackendStream]]"


class BackendStream(ByteStream):
    """One connection. Not to be made: `connect` does.

    A reset, and a peer that vanished, count against the backend; what the caller does, and a drain, never do. A
    connection that breaks before a byte has passed either way is replaced by another one, and nobody notices.
    """

    def __init__(
        self, sock: socket.socket, ticket: Ticket, fleet: Fleet, record: Record, replace: Replace | None
    ) -> None:
        self._socket = sock
        self._ticket = ticket
        self._fleet = fleet
        self._record = record
        self._replace = replace  # None once a byte has passed
        self._replacing = anyio.Lock()
        self._error: OSError | None = None
        self._reading = anyio.ResourceGuard("reading from")
        self._writing = anyio.ResourceGuard("writing to")
        self._reason: str | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "cut off" if self._reason else "open"
        return f"<BackendStream {self._ticket.state.url}, {state}>"

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Some bytes.

        Raises:
            anyio.EndOfStream: There are no more.
            CutOff: A drain has closed the connection.
            anyio.BrokenResourceError: The connection broke.
            anyio.ClosedResourceError: It was closed here.
        """
        with self._reading:
            data = await self._once_ready(anyio.wait_readable, lambda sock: sock.recv(max_bytes))
        if data:
            self._replace = None
            return data
        if self._reason is not None:
            raise CutOff(self._reason)
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        """All of `item`; raises as `receive` does."""
        with self._writing, memoryview(item) as view:
            sent = 0
            while True:
                rest = view[sent:]
                sent += await self._once_ready(anyio.wait_writable, partial(_send, rest))
                if sent:
                    self._replace = None
                if sent >= len(view):
                    return

    async def _once_ready(
        self, wait: Callable[[socket.socket], Awaitable[None]], call: Callable[[socket.socket], _T]
    ) -> _T:
        """The result of a call that does not block, once it can be made; a checkpoint either way."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._closed:
            if self._error is not None:  # the kernel says it once; what is broken must not look like an end
                raise self._broken(self._error)
            sock = self._socket
            try:
                result = call(sock)
            except (BlockingIOError, InterruptedError):
                with suppress(anyio.ClosedResourceError):  # it was closed, or replaced
                    await wait(sock)
            except OSError as exc:
                if not await self._goes_elsewhere(sock, exc):
                    self._error = exc
                    raise self._broken(exc) from exc
            else:
                await anyio.lowlevel.cancel_shielded_checkpoint()
                return result
        raise anyio.ClosedResourceError

    def _broken(self, exc: OSError) -> Exception:
        if self._reason is not None:
            return CutOff(self._reason)
        self._ticket.failed(kind_of(exc))
        error = anyio.BrokenResourceError(f"{self._ticket.state.url}: {exc.strerror or exc}")
        error.lbclient = self._record  # type: ignore[attr-defined]  # as on all errors of lbclient's
        return error

    async def _goes_elsewhere(self, sock: socket.socket, exc: OSError) -> bool:
        """Whether there is another connection in the place of the one that broke."""
        async with self._replacing:
            if self._socket is not sock:
                return True  # whoever waited for the opposite direction has seen to it
            if self._replace is None or self._reason is not None:
                return False
            try:
                other = await self._replace(self._ticket, exc)
            except OSError:  # nobody else takes it: what broke first is told
                return False
            if self._closed:
                await other.aclose()
                return True
            self._fleet.leave(self._ticket, self)
            anyio.notify_closing(sock)
            sock.close()
            self._take_over(other)
            return True

    def _take_over(self, other: BackendStream) -> None:
        self._socket, self._ticket, self._record = other._socket, other._ticket, other._record
        self._reason = None
        other._closed = True
        self._fleet.replace(self._ticket, other, self)
        if other._reason is not None:
            self.cut(other._reason)

    async def send_eof(self) -> None:
        """No more bytes will be sent; those of the backend still come."""
        with self._writing:
            if self._closed:
                raise anyio.ClosedResourceError
            await anyio.lowlevel.checkpoint()
            self._replace = None  # another one would not know of it
            with suppress(OSError):  # it is gone: whoever reads is told
                self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close the connection: it is not in flight any more."""
        if not self._closed:
            anyio.notify_closing(self._socket)
            self.discard()
            if self._reason is None:
                self._ticket.release()
            else:
                self._ticket.failed("local")
        await anyio.lowlevel.checkpoint()

    def cut(self, reason: str) -> None:
        """See `fleet.Cuttable`."""
        self._reason = reason
        shut(self._socket)

    def discard(self) -> None:
        """Close the socket."""
        self._closed = True
        self._fleet.leave(self._ticket, self)
        self._socket.close()

    def __del__(self) -> None:
        if not self._closed:
            self._closed = True
            self._socket.close()
            self._ticket.abandon()
            message = f"a connection to {self._ticket.state.url} was never closed; use `async with`"
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """What `extra` tells: see `StreamAttribute` and `anyio.abc.SocketAttribute`."""
        return {
            StreamAttribute.backend: lambda: self._ticket.backend,
            StreamAttribute.record: lambda: self._record,
            SocketAttribute.family: lambda: self._socket.family,
            SocketAttribute.local_address: self._socket.getsockname,
            SocketAttribute.remote_address: self._socket.getpeername,
            SocketAttribute.raw_socket: lambda: self._socket,
        }


@dataclass(eq=False)
class BackendTLSStream(TLSStream):
    """TLS over one. Closing it does not wait for a peer that does not answer the goodbye."""

    async def aclose(self) -> None:
        """Say goodbye, and close the connection."""
        try:
            with anyio.move_on_after(GOODBYE_WITHIN), suppress(*_ENDED):
                await super().aclose()
        finally:
            with anyio.CancelScope(shield=True):
                await self.transport_stream.aclose()


async def connect(
    pool: Pool,
    *,
    key: bytes | str | None = None,
    tls: ssl.SSLContext | bool | None = None,
    timeout: float = TIMEOUT,
) -> ByteStream:
    """A connection to one backend of the pool, in flight until it is closed. On asyncio and trio.

    A backend that refuses, does not take the connection in time, or fails the TLS handshake is passed over for
    another one, as the pool's `Retry` says: at most 3 attempts when that says nothing. So is, without TLS, one that
    breaks before a byte has passed either way, also when the stream was handed out. After that nothing is tried again.

    In a pool with a probe the first call starts probing, in a daemon thread, until `close`; inside
    `async with probing(pool)` it is a task of this event loop.

    Args:
        pool: Of "tcp://" backends; HTTP URLs work too, and only say where to connect.
        key: What affinities and hashing algorithms hash.
        tls: True for TLS as the pool's `Connect` says, or a context; the certificate has to name the backend's
            `host`, or else its URL's. None for the bare connection, whatever the URL's scheme.
        timeout: Seconds (> 0) for all of it: waiting for room in a full pool, every attempt, the handshakes. While
            another backend is left to try, one attempt takes no longer than `Connect.connect_timeout`.

    Returns:
        A stream that also knows `StreamAttribute.backend` and `.record`.

    Raises:
        NoBackendAvailable: Nobody may be picked (it is a `ConnectionError`).
        TimeoutError: It took longer than `timeout`, or the last backend tried did not take the connection in time.
        OSError: The last attempt's, with a note that names the backends tried and the record as `.lbclient`.
        ValueError, TypeError: An argument is out of its range.
    """
    fleet = fleet_of(pool)
    check_number("timeout", timeout, above=0)
    context = context_of(fleet, tls)
    fleet.probe_in_a_thread()
    dialing = Dial(fleet, facts_of(key), timeout)

    async def establish(ticket: Ticket) -> BackendStream:
        backend = stream_backend(ticket)
        sock = await connected_socket(backend, pool.connect)
        stream = BackendStream(sock, ticket, fleet, dialing.record, replace if context is None else None)
        if context is not None:
            try:
                secured.append(await _handshake(stream, backend, context))
            except BaseException:
                stream.discard()
                raise
        return stream

    async def replace(ticket: Ticket, exc: OSError) -> BackendStream:
        return await dial(dialing, establish, (ticket, exc))

    secured: list[TLSStream] = []
    stream = await dial(dialing, establish)
    return secured[-1] if secured else stream


def _send(data: memoryview, sock: socket.socket) -> int:
    return sock.send(data)


async def _handshake(stream: BackendStream, backend: Backend, context: ssl.SSLContext) -> TLSStream:
    name = backend.server_name or backend.hostname
    try:
        return await BackendTLSStream.wrap(stream, server_side=False, hostname=name, ssl_context=context)
    except (anyio.BrokenResourceError, anyio.EndOfStream) as exc:
        reason = exc.__cause__ if isinstance(exc.__cause__, OSError) else None
        raise reason or ConnectionResetError("the connection ended within the TLS handshake") from exc


def facts_of(key: bytes | str | None) -> Facts:
    """What there is to know of a caller's connection. Until it stands, nothing is sent that may not be sent again."""
    return Facts(method="CONNECT", options={"idempotent": True, "key": key})


def context_of(fleet: Fleet, tls: object) -> ssl.SSLContext | None:
    """The context that `tls=` stands for.

    Raises:
        TypeError: It is something else.
    """
    if tls is None or tls is False:
        return None
    if tls is True:
        return fleet.ssl_context()
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls is {tls!r}; write True, an ssl.SSLContext, or None for the bare connection")
    return tls


def stream_backend(ticket: Ticket) -> Backend:
    """Whom to connect to.

    Raises:
        ValueError: It does not listen for connections.
    """
    backend = ticket.backend
    if backend.scheme == "udp":
        raise ValueError(
            f"{backend.url} takes datagrams, not connections; write 'tcp://', or use UDPForwarder"
        )
    return backend
