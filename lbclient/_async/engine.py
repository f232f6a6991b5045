"""One attempt carried out: a request to one backend, over its own connections (or a transport of the caller's).

An engine belongs to one event loop. It answers with a response, or raises; after a failure its `Progress` tells what is
proven about it.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, cast

import anyio
import httpcore
import httpx

from lbclient._async.connections import OPEN, Connections
from lbclient._async.errors import as_httpx
from lbclient._async.http2 import GoingAway, HTTP2Connection, NotProcessed
from lbclient._async.httpcore_connection import HTTP11Connection, HttpcoreConnection
from lbclient._async.network import open_stream
from lbclient._async.retarget import Target
from lbclient._async.streams import Lease
from lbclient.core.backend import Backend
from lbclient.core.connect import Connect
from lbclient.core.facts import Header
from lbclient.core.outcome import Ending

Faster: TypeAlias = Literal["a later one", "another"]


class Progress:
    """What an attempt may use, and how far it got.

    Attributes:
        body: What to send.
        connect_within: Seconds that connecting may take, if that is less than the caller's own timeout.
        fresh: No connection that has been idle.
        claim: To be called when there is a connection and nothing has been sent yet; raises when another attempt of the
            same request was faster.
        unsent: Nothing of the request has been handed to a connection.
        stale: The connection had been idle after other requests, and ended without a byte since.
        said: What is known of the ending besides: what an HTTP/2 server said of the request (REFUSED, LEAVING), or that
            our own event loop could not connect (STARVED).
        beaten: Another attempt of the same request was faster: one that began later and had connected while this one
            had not, or just another.
    """

    __slots__ = ("beaten", "body", "claim", "connect_within", "fresh", "said", "stale", "unsent")

    def __init__(
        self,
        body: httpx.AsyncByteStream,
        connect_within: float | None = None,
        fresh: bool = False,
        claim: Callable[[], None] | None = None,
    ) -> None:
        self.body = body
        self.connect_within = connect_within
        self.fresh = fresh
        self.claim = claim
        self.unsent = True
        self.stale = False
        self.said: Ending | None = None
        self.beaten: Faster | None = None

    def connect_timeout(self, timeouts: Mapping[str, float | None]) -> float | None:
        """Seconds that connecting may take; None for no limit."""
        own = timeouts.get("connect")
        most = self.connect_within
        return own if most is None else most if own is None else min(own, most)


class Answer:
    """What an engine brings back."""

    __slots__ = ("extensions", "headers", "lease", "status", "stream")

    def __init__(
        self,
        status: int,
        headers: list[Header],
        stream: AsyncIterable[bytes],
        extensions: dict[str, Any],
        lease: Lease | None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.stream = stream
        self.extensions = extensions
        self.lease = lease


class Engine(Protocol):
    """Carries attempts out."""

    async def send(
        self,
        backend: Backend,
        request: httpx.Request,
        headers: list[Header],
        timeouts: Mapping[str, float | None],
        progress: Progress,
    ) -> Answer:
        """The response's head, and its body to come.

        Raises:
            httpx.HTTPError: As httpx's own transport would; `progress` says what it proves.
        """
        ...

    def counts(self) -> dict[str, tuple[int, int]]:
        """Connections (open, idle) by backend."""
        ...

    async def keep(self, urls: frozenset[str]) -> None:
        """Let go of backends that are no longer members."""
        ...

    async def cut(self, url: str, reason: str) -> int:
        """Close a backend's connections, also those in use; how many requests that cut off."""
        ...

    async def aclose(self) -> None:
        """Close everything."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether there is any connection of ours."""
        ...

    def drop(self, also_in_use: bool = False) -> None:
        """Close without awaiting what nobody uses; see `Connections.drop`."""
        ...


class PooledEngine:
    """The connections of every backend, whatever speaks over them.

    Args:
        connect: Limits and protocols.
        preserve_host: Backends see the logical host.
        ssl_context: Makes the pool's one context, when somebody needs it.
    """

    def __init__(
        self, connect: Connect, preserve_host: bool, ssl_context: Callable[[], ssl.SSLContext]
    ) -> None:
        self._connect = connect
        self._preserve_host = preserve_host
        self._ssl_context = ssl_context
        self._backends: dict[str, tuple[Backend, Target, Connections]] = {}
        self._lock = threading.Lock()  # guards changes of it
        self._ended = False

    def _of(self, backend: Backend) -> tuple[Target, Connections]:
        known = self._backends.get(backend.url)
        if known is not None and known[0] is backend:
            return known[1], known[2]
        with self._lock:
            if self._ended:
                raise RuntimeError("this balanced transport was closed meanwhile")
            known = self._backends.get(backend.url)  # another thread may have been faster
            target = Target(backend, self._preserve_host)
            same_place = known is not None and _place(known[0]) == _place(backend)
            connections = (
                known[2] if known is not None and same_place else Connections(backend.url, self._connect)
            )
            self._backends[backend.url] = (backend, target, connections)
        return target, connections

    def counts(self) -> dict[str, tuple[int, int]]:
        """See `Engine`."""
        backends = list(self._backends.items())  # of another thread's loop, perhaps, which goes on meanwhile
        return {url: connections.counts() for url, (_, _, connections) in backends}

    async def keep(self, urls: frozenset[str]) -> None:
        """See `Engine`."""
        with self._lock:
            left = [self._backends.pop(url)[2] for url in list(self._backends) if url not in urls]
        with anyio.CancelScope(shield=True):  # nobody else knows them any more
            for connections in left:
                await connections.close_idle()

    async def cut(self, url: str, reason: str) -> int:
        """See `Engine`."""
        known = self._backends.pop(url, None)
        return 0 if known is None else await known[2].cut(reason)

    async def aclose(self) -> None:
        """See `Engine`."""
        with self._lock:
            self._ended = True
            ending = list(self._backends.values())
        for _, _, connections in ending:
            await connections.aclose()

    @property
    def is_open(self) -> bool:
        """See `Engine`."""
        return any(connections.is_open for _, _, connections in self._backends.values())

    def drop(self, also_in_use: bool = False) -> None:
        """See `Engine`."""
        for _, _, connections in list(self._backends.values()):
            connections.drop(also_in_use)


class HttpcoreEngine(PooledEngine):
    """Speaks HTTP/1.1 and HTTP/2 through httpcore's public connection classes."""

    async def send(
        self,
        backend: Backend,
        request: httpx.Request,
        headers: list[Header],
        timeouts: Mapping[str, float | None],
        progress: Progress,
    ) -> Answer:
        """See `Engine`."""
        target, connections = self._of(backend)
        retargeted = target.request(request, target.headers(headers), progress.body, timeouts)
        if progress.fresh:
            connections.distrust()
        while True:
            try:
                taken = await connections.take(timeouts.get("pool"))
            except Exception as exc:
                raise as_httpx(exc) from exc
            connection: HttpcoreConnection | None = None
            written = received = 0
            try:
                if taken is OPEN:
                    within = progress.connect_timeout(timeouts)
                    connection = await self._open(connections, target, request, within)
                else:
                    assert isinstance(taken, HttpcoreConnection)
                    connection = taken
                if progress.claim is not None:
                    progress.claim()
                written, received = connection.stream.written, connection.stream.received
                response = await connection.core.handle_async_request(retargeted)
            except httpcore.ConnectionNotAvailable:
                # HTTP/2: it ran out of streams or began to close between our look at it and its own.
                await connections.give_back(connection or taken)
                continue
            except BaseException as exc:
                if connection is not None:
                    core, stream = connection.core, connection.stream
                    if isinstance(core, HTTP2Connection):  # whose streams count each other's bytes
                        progress.unsent = not core.sent(retargeted)
                        progress.stale = core.quiet
                    else:
                        progress.unsent = stream.written == written
                        progress.stale = connection.served > 0 and stream.received == received
                if isinstance(exc, NotProcessed):
                    progress.said = Ending.REFUSED
                elif isinstance(exc, GoingAway):
                    progress.said = Ending.LEAVING
                await _drop(connections, connection)
                mapped = as_httpx(exc) if isinstance(exc, Exception) else exc
                if mapped is exc:
                    raise
                raise mapped from exc
            assert isinstance(response.stream, AsyncIterable)
            return Answer(
                response.status,
                target.rewrite_location(response.status, response.headers, request),
                response.stream,
                cast("Any", response).extensions,
                Lease(connections, connection),
            )

    async def _open(
        self,
        connections: Connections,
        target: Target,
        request: httpx.Request,
        timeout: float | None,
    ) -> HttpcoreConnection:
        """Use the right to open a connection; whatever happens, the right is spent."""
        connect = self._connect
        deadline = None if timeout is None else anyio.current_time() + timeout
        try:
            stream = await open_stream(
                target.backend,
                ssl_context=self._ssl_context() if target.secure else None,
                timeout=timeout,
                server_hostname=target.server_name(request),
                local_address=connect.local_address,
                socket_options=connect.socket_options,
                trace=request.extensions.get("trace"),
            )
        except BaseException:
            await connections.give_back(OPEN)
            raise
        tls = stream.get_extra_info("ssl_object") if target.secure else None
        http2 = (tls is not None and tls.selected_alpn_protocol() == "h2") or not connect.http1
        core: HTTP11Connection | HTTP2Connection
        try:
            if http2:
                core = shared = HTTP2Connection(target.origin, stream)
                await shared.start(None if deadline is None else max(0.0, deadline - anyio.current_time()))
            else:
                core = HTTP11Connection(target.origin, stream)
            connection = HttpcoreConnection(core, stream)
            connections.opened(connection)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            await connections.give_back(OPEN)
            raise
        return connection


class InnerEngine:
    """Sends through transports of the caller's, one for each backend.

    Args:
        transport_of: Makes (once) the transport of a backend.
        preserve_host: Backends see the logical host.
    """

    def __init__(
        self, transport_of: Callable[[Backend], httpx.AsyncBaseTransport], preserve_host: bool
    ) -> None:
        self._transport_of = transport_of
        self._preserve_host = preserve_host

    async def send(
        self,
        backend: Backend,
        request: httpx.Request,
        headers: list[Header],
        timeouts: Mapping[str, float | None],
        progress: Progress,
    ) -> Answer:
        """See `Engine`. What was sent is only known from the kind of the exception."""
        target = Target(backend, self._preserve_host)
        retargeted = target.httpx_request(request, target.headers(headers), progress.body)
        timeouts = {**timeouts, "connect": progress.connect_timeout(timeouts)}
        retargeted.extensions = {**request.extensions, "timeout": timeouts}
        if progress.claim is not None:
            progress.claim()  # when it connects is not ours to see
        progress.unsent = False
        try:
            response = await self._transport_of(backend).handle_async_request(retargeted)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            progress.unsent = True
            raise
        return Answer(
            response.status_code,
            target.rewrite_location(response.status_code, response.headers.raw, request),
            response.stream,  # type: ignore[arg-type]  # an async transport's stream is an async one
            dict(response.extensions),
            None,
        )

    def counts(self) -> dict[str, tuple[int, int]]:
        """See `Engine`: what the caller's transports have open they do not tell."""
        return {}

    async def keep(self, urls: frozenset[str]) -> None:
        """See `Engine`: transports are not an engine's to close."""

    async def cut(self, url: str, reason: str) -> int:
        """See `Engine`: the connections are not ours to close."""
        return 0

    @property
    def is_open(self) -> bool:
        """See `Engine`."""
        return False

    def drop(self, also_in_use: bool = False) -> None:
        """See `Engine`: the connections are not ours to close."""

    async def aclose(self) -> None:
        """See `Engine`: the balanced transport closes them, once for all loops."""


async def _drop(connections: Connections, connection: HttpcoreConnection | None) -> None:
    """After a failed or cancelled attempt.

    httpcore does not always close: cancelled at its state lock, the connection stays new, neither closed nor idle, with
    an open socket.
    """
    if connection is None:
        return  # it never came to be, and the right to open it has been given back
    if not connection.shared and not connection.core.is_idle():
        with anyio.CancelScope(shield=True):
            await connection.aclose()
    await connections.give_back(connection)


def _place(backend: Backend) -> tuple[str, str, int, str | None]:
    """Where connections to a backend lead to."""
    return backend.scheme, backend.hostname, backend.port, backend.uds
