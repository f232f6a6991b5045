"""Connections of a backend: who gets which, what is never reused, and that nothing is left behind."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Backend, Connect
from lbclient._async.connections import OPEN, Connections
from lbclient._async.pool_io import PoolIO
from lbclient._async.turns import new_turn
from tests.conftest import MakeRawServer, SharedServers, StartServer
from tests.servers import Connection, full_backlog
from tests.servers.raw import after_request, reply, respond, stall
from tests.transport.engines import anyio_backend as anyio_backend  # over every engine

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ok(connection: Connection) -> None:
    while connection.read_request() is not None:
        connection.send(OK)


def client(transport: AsyncBalancedTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://orders", **options)


def balanced(*urls: str | Backend, **connect: Any) -> AsyncBalancedTransport:
    return AsyncBalancedTransport(urls, algorithm="first", connect=Connect(**connect))


def in_flight(transport: AsyncBalancedTransport) -> int:
    return sum(status.in_flight for status in transport.pools["default"].status().backends)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Any) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.005)


def books(transport: AsyncBalancedTransport, url: str) -> Connections:
    (engine,) = transport._ios["default"]._engines.values()
    return engine._backends[url][2]  # type: ignore[attr-defined, no-any-return]


# Reuse


async def test_the_connection_used_last_is_used_next(raw_server: MakeRawServer) -> None:
    server = raw_server(ok)
    transport = balanced(server.url)
    async with client(transport) as http:
        async with http.stream("GET", "/1") as one, http.stream("GET", "/2") as two:
            assert transport.connections() == {server.url: (2, 0)}
            await one.aread()
            await two.aread()
        assert transport.connections() == {server.url: (2, 2)}
        for _ in range(5):
            await http.get("/")
        assert transport.connections()[server.url][0] <= 2
        assert repr(books(transport, server.url)).endswith("idle, 0 waiting>")
    assert server.accepted == 2
    assert sorted(len(connection.requests) for connection in server.connections) == [1, 6]


@pytest.mark.parametrize("later", [False, True])
async def test_bytes_behind_a_response_never_answer_another_request(
    raw_server: MakeRawServer, later: bool
) -> None:
    stray = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    def poisonous(connection: Connection) -> None:
        while connection.read_request() is not None:
            if later:
                connection.send(OK)
                time.sleep(0.05)
                connection.send(stray)
            else:
                connection.send(OK + stray)

    server = raw_server(poisonous)
    transport = balanced(server.url)
    async with client(transport) as http:
        for _ in range(4):
            assert (await http.get("/")).text == "ok"
            await anyio.sleep(0.1 if later else 0)
    assert server.accepted == 4


async def test_bytes_behind_a_response_inside_tls_never_answer_another_request(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    def poisonous(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.send(OK)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    server = raw_server(poisonous, tls=server_ssl_context)
    async with client(balanced(server.url, verify=client_ssl_context)) as http:
        for _ in range(4):
            assert (await http.get("/")).text == "ok"
            await anyio.sleep(0.02)
    assert server.accepted == 4


async def test_connection_close_is_obeyed(raw_server: MakeRawServer) -> None:
    server = raw_server(reply(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
    transport = balanced(server.url)
    async with client(transport) as http:
        await http.get("/")
        assert transport.connections() == {server.url: (0, 0)}
        await http.get("/")
    assert server.accepted == 2


@pytest.mark.parametrize("blocked", [False, True], ids=["loop running", "loop blocked"])
async def test_a_connection_that_the_server_closed_while_idle_is_not_used(
    raw_server: MakeRawServer, blocked: bool
) -> None:
    def closes(connection: Connection) -> None:
        connection.read_request()
        connection.send(OK)
        time.sleep(0.05)
        connection.fin()

    server = raw_server(closes)
    async with client(balanced(server.url)) as http:
        for _ in range(3):
            assert (await http.post("/", content=b"x")).status_code == 200
            if blocked:
                time.sleep(0.2)
            else:
                await anyio.sleep(0.2)
    assert server.accepted == 3


async def test_an_idle_connection_expires(raw_server: MakeRawServer) -> None:
    server = raw_server(ok)
    async with client(balanced(server.url, keepalive_expiry=0.05)) as http:
        await http.get("/")
        await anyio.sleep(0.1)
        await http.get("/")
    assert server.accepted == 2


async def test_expired_connections_at_the_bottom_are_closed_by_those_who_give_back(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(ok)
    transport = balanced(server.url, keepalive_expiry=0.3)
    async with client(transport) as http:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(http.get, "/")
        opened = server.accepted
        for _ in range(30):
            await http.get("/")
            await anyio.sleep(0.02)
        assert transport.connections() == {server.url: (1, 1)}
    assert server.accepted == opened


async def test_at_most_max_idle_are_kept(raw_server: MakeRawServer) -> None:
    server = raw_server(ok)
    transport = balanced(server.url, max_idle=1)
    async with client(transport) as http:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(http.get, "/")
        assert transport.connections() == {server.url: (1, 1)}


# Limits and waiting


async def test_the_limit_holds_and_waiters_are_served_in_turn(raw_server: MakeRawServer) -> None:
    server = raw_server(respond(delay=0.03))
    transport = balanced(server.url, max_connections=1)
    order: list[int] = []

    async def ask(number: int) -> None:
        await http.get("/")
        order.append(number)

    async with client(transport) as http, anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(ask, number)
            await anyio.sleep(0.002)
    assert order == list(range(8))
    assert server.accepted == 1


async def test_a_pool_timeout_leaves_nothing_behind(raw_server: MakeRawServer) -> None:
    server = raw_server(after_request(stall))
    transport = balanced(server.url, max_connections=1)
    async with (
        client(transport, timeout=httpx.Timeout(5, pool=0.05)) as http,
        anyio.create_task_group() as group,
    ):
        group.start_soon(http.get, "/")
        await until(lambda: server.requests)
        with pytest.raises(httpx.PoolTimeout, match="its limit is max_connections=1"):
            await http.get("/")
        assert in_flight(transport) == 1
        assert len(books(transport, server.url)._waiters) == 0
        group.cancel_scope.cancel()


async def test_a_waiter_that_is_cancelled_when_it_is_granted_passes_the_connection_on() -> None:
    book = Connections("b", Connect(max_connections=1))
    assert await book.take(None) is OPEN
    got: list[object] = []

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            taken = await book.take(None)
            try:
                await anyio.lowlevel.checkpoint()  # it may have been too late to cancel the wait itself
            except BaseException:
                await book.give_back(taken)
                raise
            got.append(taken)

    first, second = anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(wait, first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(wait, second)
        await anyio.wait_all_tasks_blocked()
        book.put(OPEN)  # grants the first, synchronously
        first.cancel()
    assert got == [OPEN]
    assert book.counts() == (1, 0)


async def test_a_waiter_that_gives_up_is_forgotten() -> None:
    book = Connections("b", Connect(max_connections=1))
    await book.take(None)
    with anyio.move_on_after(0.01):
        await book.take(None)
    assert repr(book) == "<Connections b, 1 open, 0 idle, 0 waiting>"


# Ending


async def test_closing_ends_those_in_flight_and_those_who_wait(raw_server: MakeRawServer) -> None:
    server = raw_server(after_request(stall))
    transport = balanced(server.url, max_connections=1)
    ended: list[str] = []

    async def ask() -> None:
        try:
            await http.get("/", timeout=None)
        except httpx.HTTPError as exc:
            ended.append(type(exc).__name__)

    http = client(transport)
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(ask)
        await until(lambda: server.requests)
        await transport.aclose()
    assert sorted(ended) == ["ConnectError", "ReadError"]
    assert in_flight(transport) == 0
    assert transport.pools["default"].status().backends[0].failures == 0, "it was we who closed"
    await http.aclose()


async def test_a_body_that_we_closed_blames_nobody(raw_server: MakeRawServer) -> None:
    server = raw_server(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", then=stall))
    transport = balanced(server.url)
    http = client(transport)
    async with anyio.create_task_group() as group:

        async def read() -> None:
            with pytest.raises(httpx.ReadError):
                await http.get("/", timeout=None)

        group.start_soon(read)
        await until(lambda: server.requests)
        await anyio.sleep(0.05)
        await transport.aclose()
    assert transport.pools["default"].status().backends[0].failures == 0
    await http.aclose()


async def test_a_cancelled_tls_handshake_leaves_no_descriptor(raw_server: MakeRawServer) -> None:
    server = raw_server(stall)
    transport = balanced(server.url.replace("http:", "https:"))
    async with client(transport) as http:
        with anyio.move_on_after(0.05):
            await http.get("/")
        base = descriptors() - server.open
        for _ in range(10):
            with anyio.move_on_after(0.03):
                await http.get("/")
        await until(lambda: descriptors() - server.open <= base)
        assert transport.connections() == {server.url.replace("http:", "https:"): (0, 0)}


async def test_a_cancelled_connect_leaves_nothing_behind() -> None:
    with full_backlog() as port:
        transport = balanced(f"http://127.0.0.1:{port}")
        async with client(transport) as http:
            with anyio.move_on_after(0.02):
                await http.get("/")  # uvloop opens something for itself, once
            base = descriptors()
            for _ in range(5):
                with anyio.move_on_after(0.02):
                    await http.get("/")
            await until(lambda: descriptors() <= base)
            assert transport.connections() == {f"http://127.0.0.1:{port}": (0, 0)}
            assert in_flight(transport) == 0


async def test_cancelled_while_the_body_is_closed_the_connection_is_cut(raw_server: MakeRawServer) -> None:
    server = raw_server(ok)
    transport = balanced(server.url)
    async with client(transport) as http:
        for checkpoint in range(1, 6):
            response = await http.send(http.build_request("GET", "/"), stream=True)
            with anyio.CancelScope() as scope:
                if checkpoint % 2:
                    scope.cancel()
                await response.aclose()
        opened, idle = transport.connections()[server.url]
        assert opened == idle
        assert in_flight(transport) == 0
        assert (await http.get("/")).text == "ok"


async def test_dead_connections_are_closed_on_the_way_and_also_when_cancelled_there(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(ok)
    transport = balanced(server.url, keepalive_expiry=0.05)
    async with client(transport) as http:
        for _ in range(3):
            async with anyio.create_task_group() as group:
                group.start_soon(http.get, "/")
                group.start_soon(http.get, "/")
            await anyio.sleep(0.1)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await http.get("/")
        await until(lambda: server.open == 0)
        assert transport.connections() == {server.url: (0, 0)}
        assert (await http.get("/")).text == "ok"


# Where connections lead to, and how


async def test_a_black_holed_backend_costs_the_connect_timeout_and_no_more(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    with full_backlog() as port:
        transport = balanced(f"http://127.0.0.1:{port}", server.url, connect_timeout=0.1)
        async with client(transport, timeout=30) as http:
            response = await http.post("/echo", content=b"x")
    assert response.extensions["lbclient"].attempts[0].outcome.startswith("connect (ConnectTimeout: ")
    assert server.count() == 1


async def test_tls_is_verified_against_the_backend(
    servers: SharedServers, client_ssl_context: ssl.SSLContext
) -> None:
    (server,) = servers("uvicorn", 1, tls=True)
    async with client(balanced(server.url, verify=client_ssl_context)) as http:
        assert (await http.get("/whoami")).status_code == 200
    async with client(balanced(server.url)) as http:
        with pytest.raises(httpx.ConnectError, match=r"certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
            await http.get("/whoami")


@pytest.mark.parametrize(
    ("backend", "pool", "works"),
    [
        ({}, {}, True),
        ({"host": "api.lbclient.test"}, {}, True),
        ({"host": "elsewhere.test"}, {}, False),
        ({}, {"preserve_host": True}, False),
        ({"host": "api.lbclient.test:8443"}, {"preserve_host": True}, True),
    ],
)
async def test_the_certificate_has_to_name_whom_the_host_header_names(
    servers: SharedServers,
    client_ssl_context: ssl.SSLContext,
    backend: dict[str, str],
    pool: dict[str, Any],
    works: bool,
) -> None:
    (server,) = servers("uvicorn", 1, tls=True)
    transport = AsyncBalancedTransport(
        [Backend(server.url, **backend)],  # type: ignore[arg-type]
        connect=Connect(verify=client_ssl_context),
        **pool,
    )
    async with client(transport) as http:
        if works:
            assert (await http.get("/whoami")).status_code == 200
        else:
            with pytest.raises(httpx.ConnectError):
                await http.get("/whoami")
            named = await http.get("/whoami", extensions={"sni_hostname": "localhost"})
            assert named.status_code == 200


async def test_a_failed_handshake_goes_elsewhere(
    servers: SharedServers, raw_server: MakeRawServer, client_ssl_context: ssl.SSLContext
) -> None:
    (server,) = servers("uvicorn", 1, tls=True)
    plain = raw_server(ok)
    transport = balanced(plain.url.replace("http:", "https:"), server.url, verify=client_ssl_context)
    async with client(transport) as http:
        response = await http.post("/echo", content=b"x")
    assert response.extensions["lbclient"].attempts[0].outcome.startswith("connect (")


def test_a_pool_has_one_tls_context(client_ssl_context: ssl.SSLContext) -> None:
    io = PoolIO(AsyncBalancedTransport(["https://a"]).pools["default"], None)
    assert io.ssl_context() is io.ssl_context()


async def test_unix_sockets(start_server: StartServer, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = start_server("uvicorn", uds=path)
    transport = balanced(Backend("http://localhost", uds=path))
    async with client(transport) as http:
        assert (await http.get("/whoami")).text == server.name
    gone = balanced(Backend("http://localhost", uds=str(tmp_path / "none")))
    async with client(gone) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/")


async def test_local_address_and_socket_options(raw_server: MakeRawServer) -> None:
    server = raw_server(ok)
    transport = balanced(
        server.url, local_address="127.0.0.1", socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    )
    async with client(transport) as http, http.stream("GET", "/") as response:
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
        assert stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# An upgraded connection


async def test_an_upgraded_connection_is_handed_over_with_what_came_behind_the_101(
    raw_server: MakeRawServer,
) -> None:
    def echo(connection: Connection) -> None:
        connection.read_request()
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nearly"
        )
        connection.send(connection.read())
        connection.wait_for_client_close()

    server = raw_server(echo)
    transport = balanced(server.url)
    async with client(transport) as http:
        headers = {"upgrade": "echo", "connection": "upgrade"}
        async with http.stream("GET", "/", headers=headers) as response:
            assert response.status_code == 101
            stream = response.extensions["network_stream"]
            assert await stream.read(100) == b"early"
            await stream.write(b"late")
            assert await stream.read(100) == b"late"
            assert in_flight(transport) == 1
            with pytest.raises((httpcore.ConnectError, httpcore.ConnectTimeout)):
                await stream.start_tls(ssl.create_default_context(), "localhost", timeout=0.05)
        assert in_flight(transport) == 0
        assert transport.connections() == {server.url: (0, 0)}


# Loops


def test_a_second_event_loop_gets_connections_of_its_own(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = balanced(server.url)

    async def ask() -> int:
        http = client(transport)
        statuses = {(await http.get("/whoami")).status_code for _ in range(2)}
        for engine in transport._ios["default"]._engines.values():
            await engine.aclose()  # what a program that leaves a loop cannot do for it later
        return statuses.pop()

    assert [anyio.run(ask), anyio.run(ask), anyio.run(ask, backend="trio")] == [200, 200, 200]
    assert transport.pools["default"].status().backends[0].successes == 6


async def test_a_turn_that_is_granted_when_the_wait_is_over_grants_nothing() -> None:
    turn = new_turn()
    with pytest.raises(TimeoutError):
        await turn.wait(0.001)
    turn.grant()


async def test_a_turn_may_be_granted_before_it_is_waited_for() -> None:
    turn = new_turn()
    turn.grant()
    await turn.wait(None)
