"""The native engine: HTTP/1.1 without httpcore, anyio's streams or h11 in between.

What its connections are made of depends on who waits for them: `native_asyncio.py` for asyncio and uvloop,
`native_sockets.py` for trio and, in the twins, for threads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, cast

import httpx

from lbclient._async.connections import OPEN, Connections
from lbclient._async.engine import Answer, PooledEngine, Progress
from lbclient._async.errors import as_httpx
from lbclient._async.http11 import Head, Outgoing
from lbclient._async.http11_connection import Body, HTTP11Connection
from lbclient._async.native_stream import NativeStream
from lbclient._async.retarget import Target
from lbclient._async.streams import Lease
from lbclient._async.tracing import Events, is_watched
from lbclient.core.backend import Backend
from lbclient.core.facts import Header

_Timeouts = Mapping[str, float | None]


class NativeEngine(PooledEngine):
    """Speaks HTTP/1.1: over TCP, TLS and Unix sockets."""

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
        events = Events(request) if is_watched(request) else None
        told: dict[str, Any] = {}
        connection: HTTP11Connection | None = None
        written = received = 0
        try:
            if progress.fresh:
                connections.distrust()
            method = request.method.encode("ascii")
            outgoing = Outgoing(method, target.path + request.url.raw_path, target.lines(headers))
            taken = connections.at_once() or await connections.take(timeouts.get("pool"))
            if taken is OPEN:
                connection = await self._open(connections, target, request, timeouts, progress, events)
            else:
                connection = cast(HTTP11Connection, taken)
            if progress.claim is not None:
                progress.claim()
            written, received = connection.written, connection.received
            connection.inform(request.extensions.get("on_informational"))
            if events is None:
                await connection.send(outgoing, progress.body, timeouts.get("write"))
                head = await connection.receive(timeouts.get("read"))
            else:
                sent = target.request(request, target.headers(headers), progress.body, timeouts)
                told = {"request": sent}
                head = await _exchange(connection, outgoing, progress.body, timeouts, events, told)
        except BaseException as exc:
            if connection is not None:
                progress.unsent = connection.written == written
                progress.stale = connection.served > 0 and connection.received == received
                await connections.give_back(connection)
            mapped = as_httpx(exc) if isinstance(exc, Exception) else exc
            if mapped is exc:
                raise
            raise mapped from exc
        body: AsyncIterable[bytes] = Body(connection, timeouts.get("read"))
        if events is not None:
            body = _TracedBody(body, events, told)
        return Answer(
            head.status,
            target.rewrite_location(head.status, head.headers, request),
            body,
            {
                "http_version": head.http_version,
                "reason_phrase": head.reason,
                "network_stream": NativeStream(connection),
            },
            Lease(connections, connection),
        )

    @abstractmethod
    async def _open(
        self,
        connections: Connections,
        target: Target,
        request: httpx.Request,
        timeouts: _Timeouts,
        progress: Progress,
        events: Events | None,
    ) -> HTTP11Connection:
        """Use the right to open a connection; whatever happens, the right is spent."""


async def watched(
    events: Events | None,
    name: str,
    info: Mapping[str, Any],
    step: Callable[[], Awaitable[None]],
    connection: HTTP11Connection,
) -> None:
    """Take a step of connecting, and tell of it those who watch."""
    if events is None:
        await step()
    else:
        await events.around(name, info, step, NativeStream(connection))


async def _exchange(
    connection: HTTP11Connection,
    outgoing: Outgoing,
    stream: httpx.AsyncByteStream,
    timeouts: _Timeouts,
    events: Events,
    told: Mapping[str, Any],
) -> Head:
    """Send and receive, step by step, with somebody watching."""

    async def send_head() -> None:
        connection.send_head(outgoing)

    try:
        await events.around("http11.send_request_headers", told, send_head)
        await events.around(
            "http11.send_request_body",
            told,
            lambda: connection.send_body(outgoing, stream, timeouts.get("write")),
        )
        return await events.around(
            "http11.receive_response_headers", told, lambda: connection.receive(timeouts.get("read"))
        )
    except Exception:
        await _tell_closed(events)
        raise


async def _tell_closed(events: Events) -> None:
    await events.tell("http11.response_closed.started", {})
    await events.tell("http11.response_closed.complete", {"return_value": None})


class _TracedBody:
    """A body, with somebody watching."""

    def __init__(self, body: AsyncIterable[bytes], events: Events, told: Mapping[str, Any]) -> None:
        self._body = body
        self._events = events
        self._told = told
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        name = "http11.receive_response_body"
        await self._events.tell(f"{name}.started", self._told)
        try:
            async for part in self._body:
                yield part
        except BaseException as exc:
            await self._events.tell(f"{name}.failed", {"exception": exc})
            raise
        await self._events.tell(f"{name}.complete", {"return_value": None})

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await _tell_closed(self._events)
