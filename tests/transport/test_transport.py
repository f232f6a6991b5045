"""The transport as a user of httpx sees it: what is sent, what comes back, what is in flight, what is refused."""

from __future__ import annotations

import gc
import io
import json
import ssl
import weakref
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from trustme import CA

import lbclient
from lbclient import AsyncBalancedTransport, Backend, Connect, HttpProbe, NoBackendAvailable, Pool, Record
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import free_port
from tests.servers.raw import (
    Connection,
    after_request,
    fin,
    fin_mid_body,
    reply,
    reset,
    reset_mid_body,
    respond,
    stall,
)
from tests.transport.engines import anyio_backend as anyio_backend  # over every engine

LOGICAL = "http://orders"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"


def client(transport: AsyncBalancedTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url=LOGICAL, **options)


def record(response: httpx.Response) -> Record:
    found = response.extensions["lbclient"]
    assert isinstance(found, Record)
    return found


def in_flight(transport: AsyncBalancedTransport) -> int:
    return sum(status.in_flight for pool in transport.pools.values() for status in pool.status().backends)


def collect(things: list[httpx.Response]) -> None:
    things.clear()
    gc.collect()  # httpx ties a response and its stream into a cycle


def refused() -> str:
    return f"http://127.0.0.1:{free_port()}"


# Spreading


async def test_requests_spread_over_real_servers(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    transport = AsyncBalancedTransport([server.url for server in fleet], algorithm="round_robin")
    async with client(transport) as http:
        names = [(await http.get("/whoami")).text for _ in range(9)]
    assert sorted(names) == sorted([server.name for server in fleet] * 3)
    assert [server.count() for server in fleet] == [3, 3, 3]


async def test_the_record_says_who_and_why(servers: SharedServers) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport(
        [one.url, other.url, "http://127.0.0.1:1"], algorithm="round_robin", name="api"
    )
    transport.pools["api"].report_probe("http://127.0.0.1:1", False)
    async with client(transport) as http:
        response = await http.get("/whoami")
    found = record(response)
    assert found.backend in (one.url, other.url)
    assert found.pool == "api"
    assert not found.sticky
    (attempt,) = found.attempts
    assert attempt.backend == found.backend
    assert attempt.outcome == "200"
    assert attempt.candidates == (one.url, other.url)
    assert attempt.loads == (0, 0)
    assert attempt.skipped == {"http://127.0.0.1:1": "failing its probe"}
    assert f"1. {found.backend}: 200 after" in found.explain()
    assert "not http://127.0.0.1:1: failing its probe" in found.explain()
    assert json.loads(json.dumps(found.as_dict()))["attempts"][0]["backend"] == found.backend


# The caller's request is never touched


async def test_url_cookies_redirects_and_history_stay_logical(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    transport = AsyncBalancedTransport([server.url for server in fleet])
    async with client(transport, follow_redirects=True) as http:
        response = await http.get("/redirect", params={"to": "/set-cookie"})
        assert response.url == f"{LOGICAL}/set-cookie"
        assert [hop.url.host for hop in response.history] == ["orders"]
        assert response.request.headers["host"] == "orders"
        assert {cookie.domain for cookie in http.cookies.jar} <= {"orders.local", "orders", ".orders"}
        assert (await http.get("/echo")).url == f"{LOGICAL}/echo"
        request = http.build_request("GET", "/whoami")
        before = (str(request.url), request.headers.raw, dict(request.extensions))
        await http.send(request)
        assert (str(request.url), request.headers.raw, dict(request.extensions)) == before


async def test_path_and_query_go_over_the_wire_untouched(raw_server: MakeRawServer) -> None:
    server = raw_server(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    async with client(AsyncBalancedTransport([server.url])) as http:
        await http.get(httpx.URL(LOGICAL + "/a%2Fb//c?q=%20x+y&e="))
    assert server.requests[0].startswith(b"GET /a%2Fb//c?q=%20x+y&e= HTTP/1.1\r\n")


async def test_a_path_prefix_goes_before_the_path(raw_server: MakeRawServer) -> None:
    server = raw_server(reply(MOVED % b"/v2/next?x=1"))
    async with client(AsyncBalancedTransport([server.url + "/v2/"])) as http:
        response = await http.get("/items")
    assert server.requests[0].startswith(b"GET /v2/items HTTP/1.1\r\n")
    assert response.headers["location"] == "/next?x=1"


@pytest.mark.parametrize(
    ("backend", "pool", "host"),
    [
        ({}, {}, "127.0.0.1:{port}"),
        ({"host": "api.internal"}, {}, "api.internal"),
        ({}, {"preserve_host": True}, "orders"),
        ({"host": "api.internal"}, {"preserve_host": True}, "api.internal"),
    ],
)
async def test_the_host_header(
    raw_server: MakeRawServer, backend: dict[str, str], pool: dict[str, bool], host: str
) -> None:
    server = raw_server(respond())
    transport = AsyncBalancedTransport([Backend(server.url, **backend)], **pool)  # type: ignore[arg-type]
    async with client(transport) as http:
        await http.get("/")
    expected = host.format(port=server.port).encode()
    assert b"\r\nHost: " + expected + b"\r\n" in server.requests[0]
    assert server.requests[0].lower().count(b"\r\nhost:") == 1


async def test_a_request_without_a_host_gets_one(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    request = httpx.Request("GET", LOGICAL)
    del request.headers["host"]
    async with AsyncBalancedTransport([server.url]) as transport:
        response = await transport.handle_async_request(request)
        await response.aclose()
    assert b"Host: 127.0.0.1:" in server.requests[0]


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("{url}/next", "http://orders/next"),
        ("{url}", "http://orders"),
        ("{url}?page=2", "http://orders?page=2"),
        ("{url}9/next", "{url}9/next"),
        ("https://elsewhere/next", "https://elsewhere/next"),
        ("/next", "/next"),
        ("next", "next"),
        ("//elsewhere/next", "//elsewhere/next"),
    ],
)
async def test_a_location_at_the_backends_own_origin_becomes_logical(
    raw_server: MakeRawServer, location: str, seen: str
) -> None:
    server = raw_server()
    url = server.url
    server.script = [reply(MOVED % location.format(url=url).encode())]
    async with client(AsyncBalancedTransport([url])) as http:
        response = await http.get("/")
    assert response.headers["location"] == seen.format(url=url)


async def test_a_location_that_is_no_redirect_is_left_alone(raw_server: MakeRawServer) -> None:
    server = raw_server(
        reply(b"HTTP/1.1 200 OK\r\nLocation: http://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n")
    )
    async with client(AsyncBalancedTransport([server.url])) as http:
        assert (await http.get("/")).headers["location"] == "http://127.0.0.1/x"


# Bodies


async def test_bodies_stream_both_ways(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 1000

    async with client(AsyncBalancedTransport([server.url])) as http:
        response = await http.post("/echo", content=body())
        assert response.json()["length"] == 50_000
        async with http.stream("GET", "/stream", params={"chunks": 20, "size": 1000}) as streamed:
            parts = [len(part) async for part in streamed.aiter_raw()]
        assert sum(parts) == 20_000


async def test_in_flight_until_the_end_of_the_body(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url])
    async with client(transport) as http:
        async with http.stream("GET", "/stream", params={"chunks": 3, "size": 10}) as response:
            assert in_flight(transport) == 1
            assert transport.connections() == {server.url: (1, 0)}
            await response.aread()
            assert in_flight(transport) == 0
            assert transport.connections() == {server.url: (1, 1)}
            await response.aclose()
        assert in_flight(transport) == 0
    assert transport.pools["default"].status().backends[0].successes == 1


async def test_the_latency_is_the_time_to_the_headers_and_not_to_the_end_of_the_body(
    servers: SharedServers,
) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url])
    async with client(transport) as http:
        response = await http.get("/stream", params={"chunks": 5, "size": 10, "delay": 0.2})
    latency = transport.pools["default"].status().backends[0].latency
    assert latency is not None
    assert latency < response.elapsed.total_seconds() / 2


async def test_a_client_entered_in_one_task_is_closed_in_another(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url], probe=HttpProbe("/health", interval=5))
    http = client(transport)

    async def enter() -> None:
        await http.__aenter__()

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
    await transport.wait_until_ready()
    assert (await http.get("/whoami")).status_code == 200
    await http.__aexit__(None, None, None)


async def test_a_response_that_has_ended_needs_no_garbage_collector(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    async with client(AsyncBalancedTransport([server.url])) as http:
        await http.get("/whoami")
        gc.collect()
        gc.disable()
        try:
            response = await http.get("/whoami")
            read = weakref.ref(response)
            async with http.stream("GET", "/whoami") as response:
                left_unread = weakref.ref(response)
            del response
            assert read() is None
            assert left_unread() is None
        finally:
            gc.enable()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx's generators, on trio
async def test_a_body_left_unread_is_given_up_and_blames_nobody(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url])
    async with client(transport) as http:
        async with http.stream("GET", "/stream", params={"chunks": 1000, "size": 10000}) as response:
            await anext(response.aiter_raw())
        assert in_flight(transport) == 0
        assert transport.connections() == {server.url: (0, 0)}
        assert (await http.get("/whoami")).status_code == 200
    assert transport.pools["default"].status().backends[0].failures == 0


@pytest.mark.parametrize(
    ("handler", "error"), [(reset_mid_body, httpx.ReadError), (fin_mid_body, httpx.RemoteProtocolError)]
)
async def test_a_body_that_breaks_blames_the_backend_and_says_which(
    raw_server: MakeRawServer, handler: Any, error: type[Exception]
) -> None:
    server = raw_server(handler)
    transport = AsyncBalancedTransport([server.url, server.url + "/other"], algorithm="first")
    async with client(transport) as http:
        with pytest.raises(error) as caught:
            await http.get("/")
        assert in_flight(transport) == 0
    assert caught.value.lbclient.backend == server.url  # type: ignore[attr-defined]
    assert any(server.url in note for note in caught.value.__notes__)
    assert [status.failures for status in transport.pools["default"].status().backends] == [1, 0]
    assert len(server.requests) == 1


async def test_a_response_dropped_without_close_is_told_and_leaves_nothing_behind(
    servers: SharedServers,
) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url], connect=Connect(max_connections=1))
    async with client(transport) as http:
        dropped = [await http.send(http.build_request("GET", "/stream"), stream=True)]
        with pytest.warns(ResourceWarning, match="was never closed"):
            collect(dropped)
        assert in_flight(transport) == 0
        assert (await http.get("/whoami")).status_code == 200


# Failing over


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_when_nothing_was_sent_any_method_goes_to_another_backend(
    servers: SharedServers, method: str
) -> None:
    (server,) = servers("uvicorn", 1)
    dead = refused()
    transport = AsyncBalancedTransport([dead, server.url], algorithm="first")
    async with client(transport) as http:
        response = await http.request(method, "/echo", content=b"body" if method == "POST" else None)
    assert response.json()["method"] == method
    first, second = record(response).attempts
    assert (first.backend, second.backend) == (dead, server.url)
    assert first.outcome.startswith("connect (ConnectError")
    assert second.skipped == {dead: "already tried"}
    assert server.count() == 1


async def test_a_body_that_can_be_read_only_once_survives_a_failover(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)

    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    transport = AsyncBalancedTransport([refused(), server.url], algorithm="first")
    async with client(transport) as http:
        assert (await http.post("/echo", content=body())).json()["length"] == 4
        assert (await http.post("/echo", files={"f": io.BytesIO(b"file")})).json()["length"] > 4


async def test_at_most_three_backends_are_tried() -> None:
    dead = [refused() for _ in range(5)]
    transport = AsyncBalancedTransport(dead, algorithm="round_robin")
    async with client(transport) as http:
        with pytest.raises(httpx.ConnectError) as caught:
            await http.get("/")
    attempts = caught.value.lbclient.attempts  # type: ignore[attr-defined]
    assert len({attempt.backend for attempt in attempts}) == 3
    assert "attempt 3" in caught.value.__notes__[0]
    assert all(attempt.backend in caught.value.__notes__[0] for attempt in attempts)
    assert in_flight(transport) == 0


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (after_request(reset), httpx.ReadError),
        (after_request(fin), httpx.RemoteProtocolError),
        (after_request(stall), httpx.ReadTimeout),
    ],
)
async def test_once_something_was_sent_it_is_not_sent_again(
    raw_server: MakeRawServer, handler: Any, error: type[Exception]
) -> None:
    server, other = raw_server(handler), raw_server(respond())
    transport = AsyncBalancedTransport([server.url, other.url], algorithm="first")
    async with client(transport, timeout=httpx.Timeout(5, read=0.3)) as http:
        with pytest.raises(error) as caught:
            await http.post("/", content=b"pay")
    assert caught.value.lbclient.backend == server.url  # type: ignore[attr-defined]
    assert len(server.requests) == 1
    assert other.accepted == 0
    assert transport.pools["default"].status().backends[0].failures == 1


async def test_what_is_the_callers_own_doing_blames_nobody_and_goes_nowhere_else(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(respond())
    transport = AsyncBalancedTransport([server.url, server.url + "/x"])

    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise ZeroDivisionError

    async with client(transport) as http:
        with pytest.raises(httpx.LocalProtocolError):
            await http.get("/", headers=[(b"x-bad", b"a\x00b")])
        with pytest.raises(ZeroDivisionError):
            await http.post("/", content=broken())
        with pytest.raises(httpx.LocalProtocolError):
            await http.post("/", content=b"abc", headers={"content-length": "10"})
        assert in_flight(transport) == 0
        assert (await http.get("/")).status_code == 200
    assert [status.failures for status in transport.pools["default"].status().backends] == [0, 0]


async def test_nobody_available_is_a_connect_error_that_says_why() -> None:
    transport = AsyncBalancedTransport(["http://a:1", "http://b:1"], fail_open=False)
    for url in ("http://a:1", "http://b:1"):
        transport.pools["default"].report_probe(url, False)
    async with client(transport) as http:
        with pytest.raises(
            httpx.ConnectError, match="http://a:1: failing its probe; http://b:1: failing"
        ) as caught:
            await http.get("/")
    assert isinstance(caught.value, NoBackendAvailable)
    found = caught.value.lbclient  # type: ignore[attr-defined]
    assert found.backend is None
    assert "not http://a:1: failing its probe" in found.explain()


# Timeouts


async def test_a_full_backend_is_a_pool_timeout_and_goes_to_another_one(raw_server: MakeRawServer) -> None:
    busy, free = raw_server(after_request(stall)), raw_server(respond())
    transport = AsyncBalancedTransport(
        [busy.url, free.url], algorithm="first", connect=Connect(max_connections=1)
    )
    async with (
        client(transport, timeout=httpx.Timeout(5, pool=0.05)) as http,
        anyio.create_task_group() as group,
    ):
        group.start_soon(http.get, "/")
        while not busy.requests:
            await anyio.sleep(0.01)
        response = await http.post("/", content=b"x")
        assert record(response).backend == free.url
        assert record(response).attempts[0].outcome.startswith("full (PoolTimeout")
        group.cancel_scope.cancel()
    assert transport.pools["default"].status().backends[0].failures == 0


async def test_the_clients_own_timeouts_hold_when_there_is_nobody_else(raw_server: MakeRawServer) -> None:
    server = raw_server(after_request(stall))
    async with client(AsyncBalancedTransport([server.url]), timeout=0.1) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/")


# Extensions


async def test_a_callers_trace_gets_its_events_connecting_included(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    events: list[str] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        events.append(name)

    async with client(AsyncBalancedTransport([server.url])) as http:
        await http.get("/", extensions={"trace": trace})
    assert events[:4] == [
        "connection.connect_tcp.started",
        "connection.connect_tcp.complete",
        "http11.send_request_headers.started",
        "http11.send_request_headers.complete",
    ]
    assert "http11.receive_response_body.complete" in events


async def test_a_failed_connect_is_traced_too() -> None:
    events: list[str] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        events.append(name)

    async with client(AsyncBalancedTransport([refused()], retry=None)) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/", extensions={"trace": trace})
    assert events == ["connection.connect_tcp.started", "connection.connect_tcp.failed"]


@pytest.mark.parametrize("step", ["connection.connect_tcp.complete", "connection.start_tls.complete"])
async def test_a_trace_that_raises_while_connecting_leaves_no_socket_behind(
    raw_server: MakeRawServer, ca: CA, client_ssl_context: ssl.SSLContext, step: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    server = raw_server(respond(), tls=context)

    async def trace(name: str, info: dict[str, Any]) -> None:
        if name == step:
            raise ValueError("enough")

    connect = Connect(verify=client_ssl_context)
    transport = AsyncBalancedTransport([server.url], connect=connect)
    async with client(transport) as http:
        with pytest.raises(ValueError, match="enough"):
            await http.get("/", extensions={"trace": trace})
        with anyio.fail_after(5):
            while server.open:
                await anyio.sleep(0.01)
        assert transport.connections() == {server.url: (0, 0)}


async def test_who_is_connecting_while_the_transport_closes_leaves_no_socket_behind(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(respond())
    transport = AsyncBalancedTransport([server.url])

    async def trace(name: str, info: dict[str, Any]) -> None:
        if name == "connection.connect_tcp.complete":
            await transport.aclose()

    async with client(transport) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/", extensions={"trace": trace})
        with anyio.fail_after(5):
            while server.open or not server.accepted:
                await anyio.sleep(0.01)
    assert transport.connections() == {server.url: (0, 0)}


async def test_websockets_through_httpx_ws_are_in_flight_until_they_close(servers: SharedServers) -> None:
    import httpx_ws

    socket: httpx_ws.AsyncWebSocketSession
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url])
    async with client(transport) as http:
        async with httpx_ws.aconnect_ws("/ws", http) as socket:
            await socket.send_text("hello")
            assert await socket.receive_text() == "hello"
            assert in_flight(transport) == 1
        assert in_flight(transport) == 0
    status = transport.pools["default"].status().backends[0]
    assert (status.successes, status.failures) == (1, 0)


async def test_the_callers_own_key_decides_under_a_hashing_algorithm(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    transport = AsyncBalancedTransport([server.url for server in fleet], algorithm="rendezvous")
    async with client(transport) as http:
        for key in ("a", "b", "c"):
            told = [await http.get("/whoami", extensions={"lbclient": {"key": key}}) for _ in range(5)]
            assert len({response.text for response in told}) == 1


async def test_a_client_ip_is_a_key_that_a_caller_can_tell(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    transport = AsyncBalancedTransport([server.url for server in fleet], algorithm="ip_hash")
    async with client(transport) as http:
        seen = {
            address: {
                (await http.get("/whoami", extensions={"lbclient": {"client_ip": address}})).text
                for _ in range(4)
            }
            for address in (f"10.0.0.{n}" for n in range(40))
        }
    assert all(len(names) == 1 for names in seen.values())
    assert len(set.union(*seen.values())) == 3


# Passive health through real responses


async def test_a_backend_that_answers_500_is_ejected(raw_server: MakeRawServer) -> None:
    bad, good = raw_server(respond(500)), raw_server(respond())
    transport = AsyncBalancedTransport([bad.url, good.url], algorithm="round_robin")
    async with client(transport) as http:
        statuses = [(await http.get("/")).status_code for _ in range(40)]
    assert statuses.count(500) == 5
    assert transport.pools["default"].status().backends[0].ejected


@pytest.mark.parametrize("after", ["2", "Wed, 21 Oct 2099 07:28:00 GMT"])
async def test_retry_after_is_honoured_as_seconds_and_as_a_date(
    raw_server: MakeRawServer, after: str
) -> None:
    answer = f"HTTP/1.1 503 No\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n".encode()
    busy, free = raw_server(reply(answer)), raw_server(respond())
    transport = AsyncBalancedTransport([busy.url, free.url], algorithm="first", retry=None)
    async with client(transport) as http:
        assert (await http.get("/")).status_code == 503
        assert (await http.get("/")).status_code == 200
    status = transport.pools["default"].status().backends[0]
    assert status.ejected
    assert status.ejected_for <= 2 if after == "2" else 290 < status.ejected_for <= 300


@pytest.mark.parametrize("after", ["soon", "-1", ""])
async def test_a_retry_after_that_says_nothing_does_nothing(raw_server: MakeRawServer, after: str) -> None:
    answer = f"HTTP/1.1 503 No\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n".encode()
    busy, free = raw_server(reply(answer)), raw_server(respond())
    transport = AsyncBalancedTransport([busy.url, free.url], algorithm="first")
    async with client(transport) as http:
        await http.get("/")
    assert not transport.pools["default"].status().backends[0].ejected


# Transports of the caller's own


async def test_an_inner_transport_for_each_backend() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-host", headers[b"host"])]})
        await send({"type": "http.response.body", "body": scope["raw_path"]})

    transport = AsyncBalancedTransport(
        ["http://a:1/v1", "http://b:2"],
        inner=lambda backend: httpx.ASGITransport(app),
        algorithm="round_robin",
    )
    async with client(transport) as http:
        responses = [await http.get("/items") for _ in range(2)]
    assert {(r.headers["x-host"], r.text) for r in responses} == {("a:1", "/v1/items"), ("b:2", "/items")}
    assert all(response.url == f"{LOGICAL}/items" for response in responses)


@pytest.mark.parametrize("engine", ["native", "httpcore"])
async def test_the_connection_comes_up_with_the_response(raw_server: MakeRawServer, engine: Any) -> None:
    server = raw_server(respond())
    transport = AsyncBalancedTransport([server.url], connect=Connect(engine=engine))
    async with client(transport) as http, http.stream("GET", "/") as response:
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)


async def test_what_an_inner_transport_says_of_a_response_comes_up_with_it() -> None:
    said = {"network_stream": object(), "http_version": b"HTTP/9"}
    answer = httpx.MockTransport(lambda request: httpx.Response(200, extensions=said))
    transport = AsyncBalancedTransport(["http://a"], inner=lambda backend: answer)
    async with client(transport) as http:
        extensions = (await http.get("/")).extensions
    assert {name: extensions[name] for name in said} == said


async def test_an_inner_transports_failures_are_judged_by_their_kind() -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a":
            raise httpx.ConnectError("refused")
        if request.url.host == "b":
            raise httpx.ReadError("reset")
        return httpx.Response(200)

    transport = AsyncBalancedTransport(
        ["http://a", "http://b", "http://c"], inner=lambda b: httpx.MockTransport(fail), algorithm="first"
    )
    async with client(transport) as http:
        with pytest.raises(httpx.ReadError) as caught:
            await http.post("/")
    found = caught.value.lbclient  # type: ignore[attr-defined]
    assert [attempt.backend for attempt in found.attempts] == ["http://a", "http://b"]
    assert transport.connections() == {"http://a": (0, 0), "http://b": (0, 0), "http://c": (0, 0)}


async def test_inner_transports_are_made_for_newcomers_and_closed_once() -> None:
    class Closing(httpx.AsyncBaseTransport):
        closed = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text=request.url.host)

        async def aclose(self) -> None:
            self.closed += 1

    shared = Closing()
    transport = AsyncBalancedTransport(["http://a"], inner=lambda backend: shared, algorithm="round_robin")
    async with client(transport) as http:
        transport.pools["default"].add("http://b")
        assert {(await http.get("/")).text for _ in range(2)} == {"a", "b"}
        transport.pools["default"].remove("http://a")
        assert (await http.get("/")).text == "b"
    assert shared.closed == 1


async def test_the_inner_transport_of_one_that_left_is_closed_when_it_is_free() -> None:
    class Parted(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"first"
            yield b"second"

    class Named(httpx.AsyncBaseTransport):
        def __init__(self, backend: Backend) -> None:
            self.name = backend.hostname

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Parted())

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "a":
                raise OSError("which is no concern of the next request")

    closed: list[str] = []
    transport = AsyncBalancedTransport(["http://a", "http://b", "http://c"], algorithm="first", inner=Named)
    async with client(transport) as http:
        async with http.stream("GET", "/"):
            transport.pools["default"].remove("http://a")
            await http.get("/")
            assert closed == []  # an answer of a's is still being read
        transport.pools["default"].remove("http://b")
        await http.get("/")
        assert sorted(closed) == ["a", "b"]
    assert sorted(closed) == ["a", "b", "c"]


# Membership


async def test_the_connections_of_one_that_left_are_closed_when_they_are_free(servers: SharedServers) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url, other.url], algorithm="first")
    async with client(transport) as http:
        async with http.stream("GET", "/stream", params={"chunks": 3}) as response:
            await http.get("/whoami")
            assert transport.connections()[one.url] == (2, 1)
            transport.pools["default"].remove(one.url)
            assert (await http.get("/whoami")).text == other.name
            await response.aread()
        assert response.status_code == 200
        assert transport.connections() == {other.url: (1, 1)}


async def test_a_backend_declared_anew_is_seen_by_the_next_request(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = AsyncBalancedTransport([server.url])
    async with client(transport) as http:
        await http.get("/")
        transport.pools["default"].update([Backend(server.url, host="api.internal")])
        await http.get("/")
    assert b"Host: api.internal" in server.requests[1]
    assert server.accepted == 1


# What is wrong with a request


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/42", "'/42' has no 'http://' or 'https://'; .* give the client a base_url"),
        ("ftp://orders/42", "'ftp://orders/42' has 'ftp://' instead of 'http://' or 'https://'"),
    ],
)
async def test_a_url_that_is_not_https_is_refused_as_httpx_does(url: str, words: str) -> None:
    transport = AsyncBalancedTransport(["http://127.0.0.1:1"])
    async with httpx.AsyncClient(transport=transport) as http:
        with pytest.raises(httpx.UnsupportedProtocol, match=words) as caught:
            await http.get(url)
        assert str(caught.value.request.url) == url
    assert transport.pools["default"].status().backends[0].picks == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ("tenant-7", TypeError, r'request.extensions\["lbclient"\] is .*; write a dict'),
        ({"idempotent": "no"}, TypeError, "idempotent is 'no'; write True or False"),
        ({"deadline": -1}, ValueError, "deadline is -1; write a number above 0"),
    ],
)
async def test_what_a_request_asks_of_the_balancer_is_checked(
    options: object, error: type[Exception], words: str
) -> None:
    transport = AsyncBalancedTransport(["http://127.0.0.1:1"])
    async with client(transport) as http:
        with pytest.raises(error, match=words):
            await http.get("/", extensions={"lbclient": options})
    assert transport.pools["default"].status().backends[0].picks == 0


@pytest.mark.parametrize(
    "raised",
    [ValueError("mine"), OSError("disk"), httpx.ReadError("of another server"), httpx.ReadTimeout("late")],
    ids=lambda raised: type(raised).__name__,
)
async def test_what_the_callers_body_raises_blames_nobody(servers: SharedServers, raised: Exception) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url, server.url + "/other"], algorithm="first")

    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        raise raised

    async with client(transport) as http:
        with pytest.raises(type(raised)) as caught:
            await http.put("/echo", content=body())
    assert caught.value is raised
    (attempt,) = raised.lbclient.attempts  # type: ignore[attr-defined]
    assert attempt.outcome.startswith("ours")
    assert [status.failures for status in transport.pools["default"].status().backends] == [0, 0]
    assert in_flight(transport) == 0


async def test_nor_does_a_body_that_raises_after_the_answer_has_begun(raw_server: MakeRawServer) -> None:
    def answer_early(connection: Connection) -> None:
        connection.read()
        connection.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbeg")
        stall(connection)

    transport = AsyncBalancedTransport([raw_server(answer_early).url])

    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        await anyio.sleep(0.1)
        raise httpx.ReadError("of another server")

    async with client(transport) as http:
        with pytest.raises(httpx.ReadError, match="of another server"):
            await http.put("/", content=body())
    assert transport.pools["default"].status().backends[0].failures == 0
    assert in_flight(transport) == 0


async def test_a_request_of_another_kind_of_client_is_refused() -> None:
    async with AsyncBalancedTransport(["http://127.0.0.1:1"]) as transport:
        request = httpx.Request("GET", LOGICAL)
        request.stream = object()  # type: ignore[assignment]
        with pytest.raises(TypeError, match="sync and async ones, do not mix"):
            await transport.handle_async_request(request)
    assert transport.pools["default"].status().backends[0].picks == 0


# Closed means closed


async def test_a_closed_transport_refuses() -> None:
    transport = AsyncBalancedTransport(["http://a"])
    await transport.aclose()
    await transport.aclose()
    assert repr(transport) == "<AsyncBalancedTransport <Pool 'default' adaptive, 1 of 1 pickable>, closed>"
    with pytest.raises(RuntimeError, match="this balanced transport is closed"):
        await transport.handle_async_request(httpx.Request("GET", LOGICAL))
    with pytest.raises(RuntimeError, match="closed"):
        await transport.__aenter__()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.wait_until_ready()


# Probes, in both homes


async def test_an_entered_client_probes_in_its_own_loop(servers: SharedServers) -> None:
    fleet = servers("uvicorn", 2)
    transport = AsyncBalancedTransport(
        [server.url for server in fleet], probe=HttpProbe("/health", interval=5)
    )
    async with client(transport):
        await transport.wait_until_ready()
        assert [s.check for s in transport.pools["default"].status().backends] == ["passing", "passing"]


async def test_a_client_that_was_never_entered_probes_in_a_thread(servers: SharedServers) -> None:
    fleet = servers("uvicorn", 2)
    transport = AsyncBalancedTransport(
        [server.url for server in fleet] + ["http://127.0.0.1:1"], probe=HttpProbe("/health", interval=5)
    )
    http = client(transport)
    await http.get("/whoami")
    await transport.wait_until_ready()
    checks = [status.check for status in transport.pools["default"].status().backends]
    assert checks == ["passing", "passing", "failing"]
    await http.aclose()


async def test_waiting_starts_the_probes_of_a_client_that_was_never_entered(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url], probe=HttpProbe("/health"))
    await transport.wait_until_ready()
    assert transport.pools["default"].status().backends[0].check == "passing"
    await transport.aclose()


async def test_not_ready_in_time_names_who_is_missing(raw_server: MakeRawServer) -> None:
    server = raw_server(after_request(stall))
    transport = AsyncBalancedTransport([server.url], probe=HttpProbe("/health"))
    async with client(transport):
        with pytest.raises(TimeoutError, match=server.url):
            await transport.wait_until_ready(0.1)
        with pytest.raises(TypeError, match="timeout is '10'; write a number of 0 or more"):
            await transport.wait_until_ready("10")  # type: ignore[arg-type]


# Construction


def test_an_option_that_no_pool_has_is_told_where_it_belongs() -> None:
    with pytest.raises(
        TypeError, match=r"verify is no option of a pool; write connect=Connect\(verify=...\)"
    ):
        AsyncBalancedTransport(["https://a"], verify=False)


@pytest.mark.parametrize(
    "files", [{"verify": "/nowhere/ca.pem"}, {"cert": ("/nowhere/a.pem", "/nowhere/key.pem")}]
)
def test_files_that_are_not_there_are_named(files: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"/nowhere/c?a.pem'.*; write "):
        AsyncBalancedTransport(["https://a"], connect=Connect(**files))


def test_a_pool_of_ones_own_takes_no_pool_options() -> None:
    pool = Pool(["http://a"], name="mine")
    assert AsyncBalancedTransport(pool).pools == {"mine": pool}
    with pytest.raises(TypeError, match=r"algorithm: options of a pool go to Pool\(...\)"):
        AsyncBalancedTransport(pool, algorithm="random")


@pytest.mark.parametrize("url", ["tcp://10.0.0.5:6379", "udp://10.0.0.5:53"])
def test_backends_that_do_not_speak_http_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=f"has {url}, and this transport speaks HTTP"):
        AsyncBalancedTransport(["http://10.0.0.4", url])


async def test_nor_does_a_swap_take_them() -> None:
    async with AsyncBalancedTransport(["http://10.0.0.4"]) as transport:
        with pytest.raises(ValueError, match=r"has tcp://10.0.0.5:6379, and this"):
            await transport.swap(["http://10.0.0.4", "tcp://10.0.0.5:6379"])
        with pytest.raises(TypeError, match="write a list of URLs or Backends"):
            await transport.swap("http://10.0.0.4")
        with pytest.raises(TypeError, match="backends is None; write a list of URLs or Backends"):
            await transport.swap(None)  # type: ignore[arg-type]
        assert (await transport.swap(url for url in ["http://10.0.0.4"])).swapped


async def test_one_that_comes_later_is_passed_over(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    pool = Pool([server.url], algorithm="first")
    async with client(AsyncBalancedTransport(pool)) as http:
        pool.update(["tcp://127.0.0.1:9", server.url])
        response = await http.post("/whoami", content=b"not idempotent")
        assert record(response).tried == 2
        assert "tcp://127.0.0.1:9 speaks no HTTP" in record(response).explain()
        pool.update(["tcp://127.0.0.1:9"])
        with pytest.raises(httpx.ConnectError, match="speaks no HTTP; write http://"):
            await http.get("/whoami")
        assert pool.status().backends[0].in_flight == 0


def test_what_is_wrong_with_a_list_is_said_by_its_pool() -> None:
    with pytest.raises(ValueError, match="has no backends"):
        AsyncBalancedTransport([])


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (httpx.AsyncHTTPTransport(), "write a function from Backend to transport"),
        ("http://proxy", "write a function from Backend to transport"),
        (
            lambda backend: object(),
            "no httpx.AsyncBaseTransport; transports of httpx and httpx2, and sync",
        ),
        (lambda backend: None, "inner returned None for http://a"),
    ],
)
def test_an_inner_that_is_no_factory_of_transports_is_refused(inner: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        AsyncBalancedTransport(["http://a"], inner=inner)


def test_transports_of_httpx2_do_not_mix() -> None:
    httpx2 = pytest.importorskip("httpx2")
    with pytest.raises(
        TypeError, match="transports of httpx and httpx2, and sync and async ones, do not mix"
    ):
        AsyncBalancedTransport(["http://a"], inner=lambda backend: httpx2.AsyncHTTPTransport())
    with pytest.raises(TypeError, match=r"inner is .* write a function from Backend to transport"):
        AsyncBalancedTransport(["http://a"], inner=httpx2.AsyncHTTPTransport())


def test_http2_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbclient._async.pool_io.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'lbclient\[http2\]'"):
        AsyncBalancedTransport(["http://a"], connect=Connect(http2=True))


def test_the_public_names_are_there() -> None:
    for name in lbclient.__all__:
        assert getattr(lbclient, name) is not None
