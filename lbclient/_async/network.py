"""Opening a connection to a backend, and knowing afterwards what went over it.

We connect ourselves, and hand httpcore's connection classes a stream that is ready. So closing a handshake that was
cancelled is ours (httpcore closes on `Exception` only, which leaks the socket), the protocol is known before anybody
waits for it, and "was anything sent?" is answered by counting our own writes instead of guessing from an exception.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import anyio
import httpcore

from lbclient._async.sockets import RAW_FAILURES, drop, holds_bytes, network
from lbclient.core.backend import Backend
from lbclient.core.connect import SocketOption
from lbclient.core.errors import DrainTimeout

_Step: TypeAlias = Callable[..., Awaitable[httpcore.AsyncNetworkStream]]
Trace: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[None]]


class CutOff(DrainTimeout, httpcore.ReadError):
    """What the user of a stream gets that a drain has closed."""


class CountedStream(httpcore.AsyncNetworkStream):
    """A network stream that knows how much has gone each way.

    Attributes:
        written: Bytes handed to the socket; counted before they are, because a cancelled write may have sent them.
        received: Bytes that came.
        cut: Why a drain has closed it; None for whatever else went wrong.
    """

    __slots__ = ("_stream", "cut", "received", "written")

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self.written = 0
        self.received = 0
        self.cut: str | None = None

    @property
    def holds_bytes(self) -> bool:
        """Whether bytes wait between the socket and the reader, where the kernel cannot tell of them."""
        return holds_bytes(self._stream)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Some bytes; none at the end."""
        try:
            data = await self._stream.read(max_bytes, timeout)
        except httpcore.NetworkError as exc:
            if self.cut is not None:
                raise CutOff(self.cut) from exc
            raise
        except (
            ssl.SSLError
        ) as exc:  # what came was no TLS; neither anyio nor httpcore says so in its own words
            raise httpcore.ReadError(str(exc)) from exc
        if not data and self.cut is not None:
            raise CutOff(self.cut)
        self.received += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of `buffer`."""
        self.written += len(buffer)
        try:
            await self._stream.write(buffer, timeout)
        except (httpcore.NetworkError, *RAW_FAILURES) as exc:
            if self.cut is not None:
                raise CutOff(self.cut) from exc
            if isinstance(exc, httpcore.NetworkError):
                raise
            # likewise, and the server's close inside TLS
            raise httpcore.WriteError(str(exc) or "the server has closed the connection") from exc

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def drop(self) -> None:
        """Close the socket at once: nobody in this process uses it any more."""
        drop(self._stream)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """TLS inside this stream, for an upgraded connection."""
        return await self._stream.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        """The socket, its addresses, the TLS object, and whether the kernel has something to read."""
        return self._stream.get_extra_info(info)


async def open_stream(
    backend: Backend,
    *,
    ssl_context: ssl.SSLContext | None,
    timeout: float | None,
    port: int | None = None,
    server_hostname: str | None = None,
    local_address: str | None = None,
    socket_options: Iterable[SocketOption] | None = None,
    trace: Trace | None = None,
) -> CountedStream:
    """A connection to `backend`: TCP or its Unix socket, with TLS inside when there is an `ssl_context`.

    Args:
        backend: Whom to connect to.
        ssl_context: TLS, or None for plain text.
        timeout: Seconds for all of it; None for no limit.
        port: Instead of the backend's own.
        server_hostname: Whom the certificate has to name; the backend's host when left out.
        local_address: The address to connect from.
        socket_options: For `socket.setsockopt`.
        trace: httpcore's trace extension.

    Raises:
        httpcore.ConnectError: Refused, unknown, or the handshake failed.
        httpcore.ConnectTimeout: It took longer than `timeout`.
    """
    deadline = anyio.current_time() + timeout if timeout is not None else None
    name, connecting, to = way_to(backend, port, timeout, local_address, socket_options)
    stream = await _traced(trace, name, connecting, to)
    if ssl_context is not None:
        try:
            left = None if deadline is None else max(0.0, deadline - anyio.current_time())
            secured = {
                "ssl_context": ssl_context,
                "server_hostname": server_hostname or backend.hostname,
                "timeout": left,
            }
            stream = await _traced(trace, "connection.start_tls", stream.start_tls, secured)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            raise
    return CountedStream(stream)


def way_to(
    backend: Backend,
    port: int | None,
    timeout: float | None,
    local_address: str | None,
    socket_options: Iterable[SocketOption] | None,
) -> tuple[str, _Step, dict[str, Any]]:
    """How to connect to `backend`: httpcore's name for it, what does it, and its arguments; see `open_stream`."""
    if backend.uds is not None:
        to = {"path": backend.uds, "timeout": timeout, "socket_options": socket_options}
        return "connection.connect_unix_socket", network().connect_unix_socket, to
    to = {
        "host": backend.hostname,
        "port": port or backend.port,
        "timeout": timeout,
        "local_address": local_address,
        "socket_options": socket_options,
    }
    return "connection.connect_tcp", network().connect_tcp, to


async def _traced(
    trace: Trace | None,
    name: str,
    step: _Step,
    kwargs: dict[str, Any],
) -> httpcore.AsyncNetworkStream:
    """Take a step of connecting, with the trace events that httpcore would have given."""
    if trace is None:
        return await step(**kwargs)
    await trace(f"{name}.started", kwargs)
    try:
        stream = await step(**kwargs)
    except BaseException as exc:
        await trace(f"{name}.failed", {"exception": exc})
        raise
    try:
        await trace(f"{name}.complete", {"return_value": stream})
    except BaseException:
        with anyio.CancelScope(shield=True):
            await stream.aclose()  # nobody else has it yet
        raise
    return stream
