"""What people put around a transport, or beneath it: tracing, caches, mocks, WebSockets and event streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lbclient import AsyncBalancedTransport, BalancedTransport, Pool
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import after_request, fin, reply, reset, respond

ORDERS = "http://orders"
CACHEABLE = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\nevent: end\ndata: two\n\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def in_flight(pool: Pool) -> int:
    return sum(backend.in_flight for backend in pool.status().backends)


# OpenTelemetry's instrumentation of httpx


@pytest.fixture
def spans() -> Iterator[Any]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    exporter.provider = provider  # type: ignore[attr-defined]
    yield exporter
    provider.shutdown()


async def test_opentelemetry_sees_one_span_a_request_however_many_attempts(
    raw_server: MakeRawServer, spans: Any
) -> None:
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    bad, good = raw_server(after_request(reset)), raw_server(respond())
    transport = AsyncBalancedTransport([bad.url, good.url], algorithm="first")
    async with httpx.AsyncClient(transport=transport, base_url=ORDERS) as http:
        HTTPXClientInstrumentor.instrument_client(http, tracer_provider=spans.provider)
        response = await http.get("/42")
    assert len(response.extensions["lbclient"].attempts) == 2
    (span,) = spans.get_finished_spans()
    assert span.attributes["http.url"] == f"{ORDERS}/42", "the logical one"
    parents = [request.lower().count(b"\r\ntraceparent: ") for request in bad.requests + good.requests]
    assert parents == [1, 1], "and every attempt carries its context"


def test_opentelemetry_around_the_sync_client(raw_server: MakeRawServer, spans: Any) -> None:
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    server = raw_server(respond())
    with httpx.Client(transport=BalancedTransport([server.url]), base_url=ORDERS) as http:
        HTTPXClientInstrumentor.instrument_client(http, tracer_provider=spans.provider)
        http.get("/")
    assert len(spans.get_finished_spans()) == 1
    assert b"\r\ntraceparent: " in server.requests[0].lower()


# Event streams and WebSockets


async def test_httpx_sse(raw_server: MakeRawServer) -> None:
    import httpx_sse

    pool = Pool([raw_server(reply(EVENTS)).url])
    async with (
        httpx.AsyncClient(transport=AsyncBalancedTransport(pool)) as http,
        httpx_sse.aconnect_sse(http, "GET", ORDERS) as stream,
    ):
        assert in_flight(pool) == 1
        assert [(event.event, event.data) async for event in stream.aiter_sse()] == [
            ("message", "one"),
            ("end", "two"),
        ]
    assert in_flight(pool) == 0


def test_httpx_sse_with_the_sync_client(raw_server: MakeRawServer) -> None:
    import httpx_sse

    transport = BalancedTransport([raw_server(reply(EVENTS)).url])
    with httpx.Client(transport=transport) as http, httpx_sse.connect_sse(http, "GET", ORDERS) as stream:
        assert [event.data for event in stream.iter_sse()] == ["one", "two"]


def test_httpx_ws_with_the_sync_client(servers: SharedServers) -> None:
    import httpx_ws

    socket: httpx_ws.WebSocketSession
    pool = Pool([server.url for server in servers("uvicorn", 2)])
    with httpx.Client(transport=BalancedTransport(pool), base_url=ORDERS) as http:
        with httpx_ws.connect_ws("/ws", http) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
            assert in_flight(pool) == 1
        assert in_flight(pool) == 0


# A cache around it


def test_hishel_keeps_what_may_be_kept_and_asks_nobody_for_it(
    raw_server: MakeRawServer, tmp_path: Path
) -> None:
    from hishel import SqliteStorage
    from hishel.httpx import CacheTransport

    server, other = raw_server(reply(CACHEABLE, then=fin)), raw_server(reply(CACHEABLE, then=fin))
    pool = Pool([server.url, other.url], algorithm="first")
    storage = SqliteStorage(database_path=tmp_path / "cache.db")
    cached = CacheTransport(BalancedTransport(pool), storage=storage, rfc=True)
    with httpx.Client(transport=cached, base_url=ORDERS) as http:
        answers = [http.get("/") for _ in range(3)]
    storage.close()
    assert [answer.text for answer in answers] == ["ok"] * 3
    assert len(server.requests) + len(other.requests) == 1
    assert in_flight(pool) == 0


# A mock beneath it


async def test_respx_answers_for_backends() -> None:
    import respx

    router = respx.MockRouter(assert_all_called=True)
    router.get("http://a/orders/42").mock(side_effect=httpx.ConnectError)
    router.get("http://b/orders/42").respond(json={"order": 42})
    transport = AsyncBalancedTransport(
        ["http://a", "http://b"],
        algorithm="first",
        inner=lambda backend: httpx.MockTransport(router.async_handler),
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        response = await http.get("/orders/42")
    assert response.json() == {"order": 42}
    assert [attempt.backend for attempt in response.extensions["lbclient"].attempts] == [
        "http://a",
        "http://b",
    ]
    router.assert_all_called()


def test_respx_with_the_sync_client() -> None:
    import respx

    router = respx.MockRouter()
    router.get("http://a/").respond(204)
    transport = BalancedTransport(["http://a"], inner=lambda backend: httpx.MockTransport(router.handler))
    with httpx.Client(transport=transport) as http:
        assert http.get("http://shop/").status_code == 204
