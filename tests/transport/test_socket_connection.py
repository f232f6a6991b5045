"""The native engine where whoever uses a connection sends and receives itself: on trio, and in threads."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from lbclient._async.http11 import Lines, Outgoing
from lbclient._async.network import CutOff
from lbclient._async.socket_connection import SocketConnection
from lbclient._async.wire import Wire
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import Connection, Handler
from tests.servers.raw import greet, read_forever, reply, respond, stall
from tests.transport.test_native import (
    OK,
    TOO_LARGE,
    UPGRADE,
    client,
    connections_of,
    endless,
    switch,
    transport_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")

MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    """asyncio has a connection of its own."""
    return "trio"


@pytest.fixture(params=["plain", "TLS"])
def tls(
    request: pytest.FixtureRequest, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What makes a raw server speak TLS, and a client."""
    if request.param == "plain":
        return {}, {}
    return {"tls": server_ssl_context}, {"verify": client_ssl_context}


Tls = tuple[dict[str, Any], dict[str, Any]]


# While a request is sent


async def test_an_answer_between_two_parts_of_the_body_is_seen_before_the_next_one_is_sent(
    raw_server: MakeRawServer, tls: Tls
) -> None:
    def refuse(connection: Connection) -> None:
        connection.read()
        connection.send(TOO_LARGE)
        connection.fin()

    server = raw_server(refuse, **tls[0])
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x"
            if asked == 2:
                server.wait_until(lambda server: (server.accepted, server.open) == (1, 0))
                time.sleep(0.05)

    async with client(server.url, **tls[1]) as http:
        response = await http.post("/", content=body())
        assert (response.status_code, response.text) == (413, "no")
        assert asked <= 3
        assert connections_of(http) == []


async def test_large_bodies_go_both_ways_at_once(raw_server: MakeRawServer, tls: Tls) -> None:
    """The server reads no more than its answer is taken."""
    size, part = 8 * MIB, bytes(range(256)) * 256

    def echo(connection: Connection) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.read()
        data = head.partition(b"\r\n\r\n")[2]
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            connection.send(data)
            left -= len(data)
            if left and not (data := connection.read()):
                return
        connection.wait_for_client_close()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(size // len(part)):
            yield part

    expected = hashlib.sha256(part * (size // len(part))).hexdigest()
    server = raw_server(echo, **tls[0])
    async with client(server.url, **tls[1]) as http:
        contents: tuple[Any, ...] = (part * (size // len(part)), body())
        for content in contents:
            got = hashlib.sha256()
            headers = {"Content-Length": str(size)}
            async with http.stream("POST", "/", content=content, headers=headers) as response:
                async for data in response.aiter_raw():
                    got.update(data)
            assert got.hexdigest() == expected
            assert transport_of(http).connections() == {server.url: (1, 1)}
            break_off = connections_of(http)[0]
            await break_off.aclose()  # the server serves one request a connection


async def test_bodies_of_many_sizes_through_tls(
    servers: SharedServers, client_ssl_context: ssl.SSLContext
) -> None:
    (server,) = servers("uvicorn", 1, tls=True)
    async with client(server.url, verify=client_ssl_context) as http:
        for size in (0, 1, 16_384, 65_536, 65_537, 3_000_000):
            body = bytes(i % 251 for i in range(size))
            told = (await http.post("/echo", content=body)).json()
            assert (told["length"], told["sha256"]) == (size, hashlib.sha256(body).hexdigest())
        assert transport_of(http).connections() == {server.url: (1, 1)}


async def test_a_peer_that_reads_nothing_is_a_write_timeout_through_tls_too(
    raw_server: MakeRawServer, tls: Tls
) -> None:
    server = raw_server(stall, **tls[0])
    async with client(server.url, timeout=httpx.Timeout(5, write=0.2), **tls[1]) as http:
        for content in (b"x" * 30_000_000, endless()):
            with pytest.raises(httpx.WriteTimeout, match="read nothing"):
                await http.post("/", content=content)
        assert connections_of(http) == []


async def test_a_body_that_fails_while_its_response_is_read_fails_the_response(
    raw_server: MakeRawServer,
) -> None:
    def answer_and_read(connection: Connection) -> None:
        connection.read()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        read_forever(connection)

    server = raw_server(answer_and_read)

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        time.sleep(0.1)
        yield b"def"
        raise ZeroDivisionError

    async with client(server.url) as http:
        async with http.stream("POST", "/", content=body()) as response:
            with pytest.raises(ZeroDivisionError):
                await response.aread()
        (status,) = transport_of(http).pools["default"].status().backends
        assert (status.in_flight, status.failures) == (0, 0), "and that is not the server's fault"
        assert connections_of(http) == []


async def test_a_response_that_has_ended_waits_for_its_request(raw_server: MakeRawServer) -> None:
    def answer_early(connection: Connection) -> None:
        for _ in range(2):
            connection.wait_until_readable()
            connection.send(OK)
            connection.read_request()

    server = raw_server(answer_early)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"
            time.sleep(0.05)

    async with client(server.url) as http:
        for _ in range(2):
            assert (await http.post("/", content=body())).text == "ok"
        assert server.accepted == 1


async def test_a_head_that_the_kernel_does_not_take_at_once_is_sent_all_the_same(
    raw_server: MakeRawServer, tls: Tls
) -> None:
    server = raw_server(respond(), **tls[0])
    # Over TLS the tickets that follow the handshake are no answer.
    option = (socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with client(server.url, socket_options=[option], **tls[1]) as http:
        for content in (None, b"x" * 100_000, b"x" * 10):
            response = await http.post("/", headers={"A": "b" * 60_000}, content=content)
            assert response.text == "ok"
        assert server.accepted == 1


# While a response comes


@pytest.mark.parametrize("then", [stall, Connection.fin])
async def test_the_end_of_tls_is_the_end_of_a_body_without_a_length(
    raw_server: MakeRawServer,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    then: Handler,
) -> None:
    def answer(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        if then is stall:
            assert isinstance(connection.socket, ssl.SSLSocket)
            connection.socket.settimeout(0.2)
            with contextlib.suppress(OSError):
                connection.socket.unwrap()
        then(connection)

    server = raw_server(answer, tls=server_ssl_context)
    async with client(server.url, verify=client_ssl_context) as http:
        assert len((await http.get("/")).content) == 100_000
        assert connections_of(http) == []


async def test_what_is_no_http_ends_in_words_however_often_one_asks(raw_server: MakeRawServer) -> None:
    halfway = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n"
    server = raw_server(reply(halfway, then=stall))
    async with client(server.url) as http, http.stream("GET", "/") as response:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        parts = aiter(response.stream)
        assert await anext(parts) == b"ok"
        for _ in range(2):
            connection = connections_of(http)[0]
            with pytest.raises(httpcore.RemoteProtocolError, match="illegal chunk size"):
                await connection.more(5)


# TLS


async def test_a_handshake_that_fails_says_why_and_leaves_no_socket(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    secure = raw_server(respond(), tls=server_ssl_context)
    plain = raw_server(greet(b"this is no TLS at all", then=read_forever))
    gone, silent = raw_server(Connection.fin), raw_server(stall)
    scenes = [
        (secure.port, True, httpx.ConnectError, "certificate verify failed"),
        (plain.port, client_ssl_context, httpx.ConnectError, "(?i)wrong.version.number|record layer"),
        (gone.port, client_ssl_context, httpx.ConnectError, "closed the connection"),
        (silent.port, client_ssl_context, httpx.ConnectTimeout, "within"),
    ]
    for port, verify, kind, words in scenes:
        timeout = httpx.Timeout(5, connect=0.3)
        async with client(f"https://localhost:{port}", verify=verify, timeout=timeout) as http:
            with pytest.raises(kind, match=words):
                await http.get("/")
            assert connections_of(http) == []
    for server in (secure, plain, gone):
        assert server.wait_until(lambda server: server.open == 0)


async def test_tls_inside_tls(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    size = 3_000_000

    def tunnel(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = server_ssl_context.wrap_bio(incoming, outgoing, server_side=True)

        def until(step: Any) -> Any:
            while True:
                result, wants = None, False
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    wants = True
                if outgoing.pending:
                    connection.send(outgoing.read())
                if not wants:
                    return result
                incoming.write(connection.read())

        until(inner.do_handshake)
        left = size
        while left:
            data = until(lambda: inner.read(65_536))
            left -= len(data)
            until(lambda data=data: inner.write(data.upper()))

    server = raw_server(tunnel, tls=server_ssl_context)
    async with (
        client(server.url, verify=client_ssl_context) as http,
        http.stream("CONNECT", "/") as response,
    ):
        stream = await response.extensions["network_stream"].start_tls(client_ssl_context, "localhost", 5)
        got = b""

        async def write() -> None:
            await stream.write(b"x" * size, timeout=5)

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            while len(got) < size:
                got += await stream.read(65_536, timeout=5)
        assert got == b"X" * size
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"


# After 101


async def test_what_was_switched_to_inside_tls_reads_and_writes_at_once(
    raw_server: MakeRawServer, tls: Tls
) -> None:
    size = 3_000_000

    def echo(connection: Connection) -> None:
        total = 0
        while total < size:
            data = connection.read()
            total += len(data)
            connection.send(data)
        connection.wait_for_client_close()

    server = raw_server(switch(echo), **tls[0])
    async with client(server.url, **tls[1]) as http, http.stream("GET", "/", headers=UPGRADE) as response:
        stream = response.extensions["network_stream"]
        got = 0

        async def write() -> None:
            await stream.write(b"x" * size, timeout=5)

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            while got < size:
                got += len(await stream.read(10_000, timeout=5))
    assert stream.get_extra_info("server_addr") is None, "it has been closed"


# The connection by itself


GET = Outgoing(b"GET", b"/", Lines([(b"Host", b"a")]))


class Pair:
    """A connection, and the other end of its socket."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.connection = SocketConnection()
        self.connection.wire = Wire(Stream(ours))


class Stream(httpcore.AsyncNetworkStream):
    """Has a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def get_extra_info(self, info: str) -> Any:
        return self._sock


async def test_bytes_that_nobody_asked_for_and_a_request_that_is_not_whole_bar_the_next_one() -> None:
    pair = Pair()
    connection, peer = pair.connection, pair.peer
    with peer:
        peer.send(OK + b"surplus")
        await connection.send(GET, httpx.ByteStream(b""), 1)
        assert (await connection.receive(1)).status == 200
        assert connection.take() == b"ok"
        assert not connection.reusable
        assert connection.get_extra_info("unheard of") is None
        await connection.aclose()
        assert connection.dead


async def test_what_came_before_the_request_answers_it_and_ends_the_connection() -> None:
    pair = Pair()
    with pair.peer:
        pair.peer.send(OK)
        await pair.connection.send(GET, httpx.ByteStream(b""), 1)
        assert (await pair.connection.receive(1)).status == 200
        assert pair.connection.take() == b"ok"
        assert not pair.connection.reusable
        await pair.connection.aclose()


async def test_over_one_that_has_ended_nothing_is_sent() -> None:
    pair = Pair()
    pair.peer.close()
    with pytest.raises(httpcore.RemoteProtocolError, match="disconnected"):
        await pair.connection.send(GET, httpx.ByteStream(b""), 1)
    assert pair.connection.written == 0
    await pair.connection.aclose()


async def test_a_write_that_fails_is_told_of_by_what_is_read() -> None:
    pair = Pair()
    connection = pair.connection
    with pair.peer:
        pair.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await connection.send(GET, httpx.ByteStream(b""), 1)
        await connection.receive(1)
        pair.peer.recv(1000)
        pair.peer.send(TOO_LARGE)
    await connection.send(post(3), httpx.ByteStream(b"abc"), 1)
    assert (await connection.receive(1)).status == 413
    assert connection.take() == b"no"
    assert not connection.reusable
    await connection.aclose()


async def test_a_body_that_a_server_takes_as_fast_as_it_comes_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    monkeypatch.setattr(Wire, "send", lambda self, data: len(data))
    with pair.peer, anyio.move_on_after(0.05) as scope:
        await pair.connection.send(post(1 << 50), endless(), None)
    assert scope.cancelled_caught
    assert not pair.connection.reusable
    await pair.connection.aclose()


def post(size: int, *headers: tuple[bytes, bytes]) -> Outgoing:
    return Outgoing(b"POST", b"/", Lines([(b"Host", b"a"), (b"Content-Length", b"%d" % size), *headers]))


async def test_a_head_and_a_body_that_the_kernel_takes_in_pieces() -> None:
    pair = Pair()
    size = 100_000
    request = post(size, (b"A", b"b" * 1_000_000))
    left = len(request.head) + size

    def read_all() -> None:
        nonlocal left
        while left:
            left -= len(pair.peer.recv(65_536))
            time.sleep(0.0005)
        pair.peer.send(OK)

    reading = threading.Thread(target=read_all)
    with pair.peer:
        reading.start()
        await pair.connection.send(request, httpx.ByteStream(b"x" * size), 5)
        assert (await pair.connection.receive(5)).status == 200
        reading.join()
        assert pair.connection.take() == b"ok"
        assert pair.connection.reusable
        await pair.connection.aclose()


@pytest.mark.parametrize("cut", [None, "the grace period is over"])
@pytest.mark.parametrize("doing", ["sending", "reading", "writing"])
async def test_closing_wakes_who_waits_and_says_by_whom(doing: str, cut: str | None) -> None:
    pair = Pair()
    connection = pair.connection
    raised: list[Exception] = []
    size = 10_000_000

    async def wait() -> None:
        try:
            if doing == "sending":
                await connection.send(post(size), httpx.ByteStream(b"x" * size), None)
                await connection.receive(None)
            elif doing == "reading":
                await connection.read(1, None)
            else:
                await connection.write(b"x" * size, None)
        except httpcore.NetworkError as exc:
            raised.append(exc)

    with pair.peer:
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(0.05)
            if cut is not None:
                connection.cut(cut)
            await connection.aclose()
    if cut is not None:
        assert isinstance(raised[0], CutOff)
        assert cut in str(raised[0])
    else:
        assert type(raised[0]) is (httpcore.WriteError if doing == "writing" else httpcore.ReadError)
        assert "closed" in str(raised[0])


async def test_what_broke_before_the_first_request_is_not_written_to() -> None:
    pair = Pair()
    pair.peer.close()
    await pair.connection.aclose()
    pair.connection.drop()
    for _ in range(2):
        with pytest.raises(httpcore.RemoteProtocolError, match="disconnected"):
            await pair.connection.send(GET, httpx.ByteStream(b""), 1)
    assert pair.connection.dead


async def test_nothing_more_is_read_or_sent_after_an_error_of_the_bodys() -> None:
    pair = Pair()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        pair.peer.send(OK)
        yield b"y"
        raise ZeroDivisionError

    with pair.peer:
        await pair.connection.send(post(9), body(), 1)
        assert (await pair.connection.receive(1)).status == 200
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await pair.connection.all_sent()
        assert not pair.connection.reusable
        await pair.connection.aclose()
