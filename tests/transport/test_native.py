"""The native engine, on whatever it runs: what a server may do to it, and what it does to a server."""

from __future__ import annotations

import hashlib
import logging
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect, Pool
from lbclient._async.engine import HttpcoreEngine
from lbclient._async.http11_connection import HTTP11Connection
from lbclient._async.native import NativeEngine
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import Connection, Handler
from tests.servers.raw import (
    after_bytes,
    after_request,
    fin_before_headers,
    fin_mid_body,
    greet,
    read_forever,
    reply,
    reset,
    reset_before_headers,
    reset_mid_body,
    respond,
    stall,
)
from tests.transport.engines import native as anyio_backend  # noqa: F401  # on every loop

# Of bodies that are given up; asyncio does not say so.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")

MOST_UNREAD = 256 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"


def client(*urls: str, timeout: Any = 5.0, **connect: Any) -> httpx.AsyncClient:
    transport = AsyncBalancedTransport(
        urls, algorithm="first", retry=None, connect=Connect(**{"engine": "native", **connect})
    )
    return httpx.AsyncClient(transport=transport, base_url="http://orders", timeout=timeout)


def transport_of(http: httpx.AsyncClient) -> AsyncBalancedTransport:
    transport = http._transport
    assert isinstance(transport, AsyncBalancedTransport)
    return transport


def connections_of(http: httpx.AsyncClient) -> list[HTTP11Connection]:
    (engine,) = transport_of(http)._ios["default"]._engines.values()
    assert isinstance(engine, NativeEngine)
    found = [c for _, _, connections in engine._backends.values() for c in connections._all]
    assert all(isinstance(connection, HTTP11Connection) for connection in found)
    return found  # type: ignore[return-value]


async def endless(size: int = 65536) -> AsyncIterator[bytes]:
    while True:
        yield b"x" * size


async def parts(*each: bytes) -> AsyncIterator[bytes]:
    for part in each:
        yield part


async def test_informational_responses_come_before_the_response(raw_server: MakeRawServer) -> None:
    def hint(connection: Connection) -> None:
        while connection.read_request():
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n")
            connection.send(OK)

    server = raw_server(hint)
    told: list[tuple[int, list[tuple[bytes, bytes]]]] = []

    def tell(status: int, headers: list[tuple[bytes, bytes]]) -> None:
        told.append((status, headers))

    async with client(server.url) as http:
        assert (await http.get("/", extensions={"on_informational": tell})).text == "ok"
        assert told == [(103, [(b"Link", b"<a>")])]
        assert (await http.get("/")).text == "ok"
        assert len(told) == 1, "the next request of the connection has not asked"


# While a request is sent


def refuse_and_close(connection: Connection) -> None:
    connection.read()
    connection.send(TOO_LARGE)
    connection.fin()


def refuse_and_reset(connection: Connection) -> None:
    connection.read()
    connection.send(TOO_LARGE)
    time.sleep(0.05)
    connection.reset()


def refuse_and_stop_reading(connection: Connection) -> None:
    connection.read()
    connection.send(TOO_LARGE)
    connection.stall()


@pytest.mark.parametrize("refuse", [refuse_and_close, refuse_and_reset, refuse_and_stop_reading])
@pytest.mark.parametrize("kind", ["chunks", "length", "bytes"])
async def test_a_refusal_that_comes_while_the_body_is_sent_is_the_answer(
    raw_server: MakeRawServer, refuse: Handler, kind: str
) -> None:
    server = raw_server(refuse)
    content: Any = b"x" * 30_000_000 if kind == "bytes" else endless()
    headers = {"Content-Length": str(1 << 40)} if kind == "length" else {}
    async with client(server.url) as http:
        response = await http.post("/", content=content, headers=headers)
        assert (response.status_code, response.text) == (413, "no")
        assert connections_of(http) == []


async def test_a_peer_that_does_not_read_is_a_write_timeout_and_holds_the_body_back(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(stall)
    taken = 0

    async def count() -> AsyncIterator[bytes]:
        nonlocal taken
        async for part in endless():
            taken += len(part)
            yield part

    async with client(server.url, timeout=httpx.Timeout(5, write=0.2)) as http:
        with pytest.raises(httpx.WriteTimeout):
            await http.post("/", content=count())
        assert transport_of(http).connections() == {server.url: (0, 0)}
    assert taken < 30_000_000


async def test_a_peer_that_reads_slowly_is_none(raw_server: MakeRawServer) -> None:
    size = 20_000_000

    def slowly(connection: Connection) -> None:
        for _ in range(6):
            time.sleep(0.1)
            for _ in range(30):
                connection.read()
        while len(connection.received) < size:
            connection.read()
        connection.send(OK)

    server = raw_server(slowly)
    async with client(server.url, timeout=httpx.Timeout(5, write=0.4)) as http:
        assert (await http.post("/", content=b"x" * size)).text == "ok"


async def test_a_reset_while_the_body_is_sent_is_a_read_error(raw_server: MakeRawServer) -> None:
    server = raw_server(after_bytes(200_000, reset))
    async with client(server.url) as http:
        with pytest.raises(httpx.ReadError):
            await http.post("/", content=endless())


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
@pytest.mark.parametrize("kind", ["bytes", "chunks", "length"])
async def test_bodies_of_every_size_and_framing_arrive(servers: SharedServers, size: int, kind: str) -> None:
    (server,) = servers("uvicorn", 1)
    body = bytes(i % 251 for i in range(size))
    headers = {"Content-Length": str(size)} if kind == "length" else {}
    async with client(server.url) as http:
        for _ in range(2):
            content: Any = body if kind == "bytes" else parts(body[: size // 3], b"", body[size // 3 :])
            told = (await http.post("/echo", content=content, headers=headers)).json()
            assert (told["length"], told["sha256"]) == (size, hashlib.sha256(body).hexdigest())
        assert transport_of(http).connections() == {server.url: (1, 1)}


@pytest.mark.parametrize("kind", ["stream", "bytes"])
@pytest.mark.parametrize("length", ["1", "9"])
async def test_a_body_that_is_not_as_long_as_it_was_said_to_be(
    raw_server: MakeRawServer, kind: str, length: str
) -> None:
    server = raw_server(respond())
    async with client(server.url) as http:
        content: Any = b"xyz" if kind == "bytes" else parts(b"x", b"yz")
        with pytest.raises(
            httpx.LocalProtocolError, match=r"Too (little|much) data for declared Content-Length"
        ):
            await http.post("/", content=content, headers={"Content-Length": length})
        assert (await http.get("/")).text == "ok"
        opened, idle = transport_of(http).connections()[server.url]
        assert opened == idle
    assert transport_of(http).pools["default"].status().backends[0].failures == 0


async def test_a_body_that_raises_is_not_followed_by_another_request(raw_server: MakeRawServer) -> None:
    server = raw_server(after_request(read_forever))

    async def raises() -> AsyncIterator[bytes]:
        yield b"x"
        raise ZeroDivisionError

    async with client(server.url) as http:
        with pytest.raises(ZeroDivisionError):
            await http.post("/", content=raises())
        assert connections_of(http) == []


@pytest.mark.parametrize("name", ["a b", "a\r\nb", ""])
async def test_an_illegal_header_is_refused_before_anything_is_opened(
    raw_server: MakeRawServer, name: str
) -> None:
    server = raw_server(respond())
    async with client(server.url) as http:
        with pytest.raises(httpx.LocalProtocolError, match="Illegal header name"):
            await http.get("/", headers={name: "x"})
    assert server.accepted == 0


# While a response comes


async def test_a_body_that_nobody_reads_is_held_back(raw_server: MakeRawServer) -> None:
    size = 20_000_000

    def big(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        connection.send(b"x" * size)

    server = raw_server(big)
    async with client(server.url) as http, http.stream("GET", "/") as response:
        await anyio.sleep(0.3)
        (connection,) = connections_of(http)
        assert sum(map(len, connection._reader.parts)) <= MOST_UNREAD + 512 * 1024
        assert len(await response.aread()) == size


async def test_a_server_that_falls_silent_is_a_read_timeout_before_and_in_the_body(
    raw_server: MakeRawServer,
) -> None:
    silent = raw_server(after_request(stall))
    halfway = raw_server(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", then=stall))
    for server in (silent, halfway):
        async with client(server.url, timeout=httpx.Timeout(5, read=0.1)) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.get("/")
            assert connections_of(http) == []


async def test_the_read_timeout_is_for_silence_and_not_for_the_whole(raw_server: MakeRawServer) -> None:
    def drips(connection: Connection) -> None:
        connection.read_request()
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsomething":
            connection.send(bytes([byte]))
            time.sleep(0.01)

    server = raw_server(drips)
    async with client(server.url, timeout=httpx.Timeout(5, read=0.2)) as http:
        assert (await http.get("/")).text == "something"


async def test_one_that_outlived_its_request_reads_nothing_of_the_next_one(raw_server: MakeRawServer) -> None:
    server = raw_server(respond(body=b"secret"))
    async with client(server.url) as http:
        transport = transport_of(http)
        first = await transport.handle_async_request(http.build_request("GET", "/1"))
        assert isinstance(first.stream, httpx.AsyncByteStream)
        assert [part async for part in first.stream] == [b"secret"]
        await first.aclose()
        async with http.stream("GET", "/2") as second:
            with pytest.raises(httpx.ReadError, match="this response was closed"):
                async for _ in first.stream:
                    pass
            assert await second.aread() == b"secret"
    assert server.accepted == 1


async def test_what_was_not_read_to_its_end_is_not_used_again(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    async with client(server.url) as http:
        async with http.stream("GET", "/"):
            pass
        assert connections_of(http) == []
        await http.head("/")


@pytest.mark.parametrize(
    ("answer", "headers", "kept"),
    [
        (OK, {}, True),
        (OK, {"Connection": "close"}, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", {}, False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", {}, True),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            {},
            False,
        ),
        (b"HTTP/1.1 102 Wait\r\n\r\n" + OK, {}, True),
    ],
)
async def test_what_is_kept_for_the_next_request(
    raw_server: MakeRawServer, answer: bytes, headers: dict[str, str], kept: bool
) -> None:
    server = raw_server(reply(answer, then=stall))
    async with client(server.url) as http:
        response = await http.get("/", headers=headers)
        assert response.text == "ok"
        assert response.extensions["http_version"] == answer[:8]
        assert response.extensions["reason_phrase"] == b"OK"
        assert transport_of(http).connections()[server.url] == ((1, 1) if kept else (0, 0))


async def test_why_a_server_will_not_serve_us_may_come_before_the_request(raw_server: MakeRawServer) -> None:
    full = b"HTTP/1.1 503 Full\r\nContent-Length: 4\r\n\r\nfull"
    server = raw_server(greet(full, then=read_forever))
    async with client(server.url) as http:
        response = await http.get("/")
        assert (response.status_code, response.text) == (503, "full")


# The same as through httpcore

SCENES: dict[str, tuple[Handler, type[Exception]]] = {
    "reset before headers": (reset_before_headers, httpx.ReadError),
    "end before headers": (fin_before_headers, httpx.RemoteProtocolError),
    "reset in the body": (reset_mid_body, httpx.ReadError),
    "end in the body": (fin_mid_body, httpx.RemoteProtocolError),
    "no HTTP": (reply(b"SSH-2.0-x\r\n"), httpx.RemoteProtocolError),
    "a chunk that is none": (
        reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n"),
        httpx.RemoteProtocolError,
    ),
    "silence": (after_request(stall), httpx.ReadTimeout),
}


@pytest.mark.parametrize("engine", ["native", "httpcore"])
@pytest.mark.parametrize("scene", SCENES)
async def test_both_engines_say_the_same_about_what_went_wrong(
    raw_server: MakeRawServer, scene: str, engine: str
) -> None:
    handler, kind = SCENES[scene]
    server = raw_server(handler)
    async with client(server.url, engine=engine, timeout=httpx.Timeout(5, read=0.2)) as http:
        with pytest.raises(kind) as caught:
            await http.get("/")
        assert type(caught.value) is kind
        assert str(caught.value)
        assert transport_of(http).connections() == {server.url: (0, 0)}


async def events_of(url: str, engine: str, **request: Any) -> list[str]:
    told: list[str] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        told.append(name)

    async with client(url, engine=engine, timeout=httpx.Timeout(5, read=0.2)) as http:
        try:
            await http.request(url="/", extensions={"trace": trace}, **request)
        except httpx.HTTPError:
            told.append("raised")
    return told


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"nonsense"])
@pytest.mark.parametrize("request_", [{"method": "GET"}, {"method": "POST", "content": b"x"}])
async def test_both_engines_give_a_callers_trace_the_same_events(
    raw_server: MakeRawServer, answer: bytes, request_: dict[str, Any]
) -> None:
    server = raw_server(reply(answer))
    native = await events_of(server.url, "native", **request_)
    assert native == await events_of(server.url, "httpcore", **request_)
    assert native[:2] == ["connection.connect_tcp.started", "connection.connect_tcp.complete"]


async def test_the_debug_log_tells_every_step(
    raw_server: MakeRawServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = raw_server(respond())
    caplog.set_level(logging.DEBUG, "lbclient")
    async with client(server.url) as http:
        await http.get("/")
    told = [record.getMessage() for record in caplog.records if record.name == "lbclient.http11"]
    assert told[0].startswith("connection.connect_tcp.started host='127.0.0.1'")
    assert any(line.startswith("http11.receive_response_headers.complete return_value=") for line in told)
    assert told[-1] == "http11.response_closed.complete"


async def test_a_request_that_is_watched_is_the_same_request(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)

    async def trace(name: str, info: dict[str, Any]) -> None:
        pass

    async with client(server.url) as http:
        for extensions in ({}, {"trace": trace}):
            response = await http.post("/echo", content=b"x" * 100_000, extensions=extensions)
            assert response.status_code == 200
            assert set(response.extensions) == {"http_version", "reason_phrase", "network_stream", "lbclient"}
        assert transport_of(http).connections() == {server.url: (1, 1)}


async def test_the_stream_below_a_response_tells_of_its_socket(
    servers: SharedServers, client_ssl_context: ssl.SSLContext
) -> None:
    (plain,), (secure,) = servers("uvicorn", 1), servers("uvicorn", 1, tls=True)
    async with client(plain.url) as http, http.stream("GET", "/whoami") as response:
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("server_addr")[1] == httpx.URL(plain.url).port
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
        assert stream.get_extra_info("socket").fileno() > 0
        assert isinstance(stream.get_extra_info("is_readable"), bool)
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("unheard of") is None
    async with client(secure.url, verify=client_ssl_context) as http:
        response = await http.get("/whoami")
        assert response.extensions["network_stream"].get_extra_info("ssl_object").version() == "TLSv1.3"


# After 101 or CONNECT


async def test_a_tunnel_carries_tls(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    def tunnel(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        with server_ssl_context.wrap_socket(connection.socket, server_side=True) as secured:
            secured.sendall(secured.recv(100).upper())
            secured.recv(1)

    server = raw_server(tunnel)
    async with client(server.url) as http:
        async with http.stream("CONNECT", "/") as response:
            assert response.status_code == 200
            stream = await response.extensions["network_stream"].start_tls(client_ssl_context, "localhost")
            await stream.write(b"hello", timeout=5)
            assert await stream.read(100, timeout=5) == b"HELLO"
            assert stream.get_extra_info("ssl_object") is not None
        assert connections_of(http) == []


def switch(then: Handler) -> Handler:
    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
        then(connection)

    return handler


UPGRADE = {"Connection": "upgrade", "Upgrade": "x"}


async def test_what_was_switched_to_reads_and_writes_at_once(raw_server: MakeRawServer) -> None:
    size = 5_000_000

    def echo(connection: Connection) -> None:
        total = 0
        while total < size:
            data = connection.read()
            total += len(data)
            connection.send(data)
        connection.wait_for_client_close()

    server = raw_server(switch(echo))
    async with client(server.url) as http, http.stream("GET", "/", headers=UPGRADE) as response:
        stream = response.extensions["network_stream"]
        got = 0

        async def write() -> None:
            for _ in range(size // 100_000):
                await stream.write(b"x" * 100_000, timeout=5)
            await stream.write(b"")

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            while got < size:
                data = await stream.read(1000 if got == 0 else 65536, timeout=5)
                assert 0 < len(data) <= (1000 if got == 0 else 65536)
                got += len(data)


async def test_what_was_switched_to_has_timeouts_and_an_end(raw_server: MakeRawServer) -> None:
    def half(connection: Connection) -> None:
        connection.send(b"bye")
        time.sleep(0.3)
        connection.fin()

    server = raw_server(switch(half))
    async with client(server.url) as http, http.stream("GET", "/", headers=UPGRADE) as response:
        stream = response.extensions["network_stream"]
        assert await stream.read(100) == b"bye"
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(100, timeout=0.05)
        assert await stream.read(100, timeout=5) == b""
        await stream.aclose()
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"x")


async def test_what_was_switched_to_may_break(raw_server: MakeRawServer) -> None:
    server = raw_server(switch(after_bytes(1, reset)))
    async with client(server.url) as http, http.stream("GET", "/", headers=UPGRADE) as response:
        stream = response.extensions["network_stream"]

        async def write_and_read() -> None:
            await stream.write(b"x")
            await stream.read(100, timeout=5)

        with pytest.raises((httpcore.WriteError, httpcore.ReadError)):
            await write_and_read()


async def test_a_peer_that_does_not_read_what_was_switched_to(raw_server: MakeRawServer) -> None:
    server = raw_server(switch(stall))
    async with client(server.url) as http, http.stream("GET", "/", headers=UPGRADE) as response:
        stream = response.extensions["network_stream"]
        with pytest.raises(httpcore.WriteTimeout):
            await stream.write(b"x" * 30_000_000, timeout=0.1)


async def test_a_tunnel_to_one_that_speaks_no_tls(raw_server: MakeRawServer) -> None:
    server = raw_server(switch(lambda connection: connection.send(b"no TLS here" * 10)))
    silent = raw_server(switch(stall))
    for url, kind in ((server.url, httpcore.ConnectError), (silent.url, httpcore.ConnectTimeout)):
        async with client(url) as http, http.stream("GET", "/", headers=UPGRADE) as response:
            stream = response.extensions["network_stream"]
            await anyio.sleep(0.05)
            with pytest.raises(kind):
                await stream.start_tls(ssl.create_default_context(), "localhost", timeout=0.2)


# Which engine


async def test_auto_is_native_where_that_can_do_what_is_asked_for(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    for connect, kind in (
        (Connect(), NativeEngine),
        (Connect(engine="native"), NativeEngine),
        (Connect(engine="httpcore"), HttpcoreEngine),
        (Connect(http2=True), HttpcoreEngine),
    ):
        transport = AsyncBalancedTransport(Pool([server.url], connect=connect))
        async with httpx.AsyncClient(transport=transport) as http:
            await http.get("http://orders/")
            (engine,) = transport._ios["default"]._engines.values()
            assert isinstance(engine, kind)


# While a response is read


def echo_as_it_comes(connection: Connection) -> None:
    """Answers with what it reads, while it reads it, and reads no more than its answer is taken."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.read()
    head, _, part = head.partition(b"\r\n\r\n")
    left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
    while left:
        connection.send(part)
        left -= len(part)
        if left and not (part := connection.read()):
            return
    connection.wait_for_client_close()


async def test_a_request_goes_on_while_its_response_is_read(raw_server: MakeRawServer) -> None:
    size, part = 20_000_000, b"x" * 65_536

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, size, len(part)):
            yield part[: size - start]

    with anyio.fail_after(50):
        async with client(raw_server(echo_as_it_comes).url) as http:
            headers = {"content-length": str(size)}
            async with http.stream("POST", "/", content=body(), headers=headers) as response:
                assert sum([len(each) async for each in response.aiter_raw()]) == size
            (counts,) = http._transport.connections().values()  # type: ignore[attr-defined]
            assert counts == (1, 1), "and then the connection is kept"


async def test_a_server_that_answers_and_reads_no_more_times_out(raw_server: MakeRawServer) -> None:
    def deaf(connection: Connection) -> None:
        connection.read()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        connection.stall()

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async with client(raw_server(deaf).url) as http:
        timeout = httpx.Timeout(20, write=0.2)
        async with http.stream("POST", "/", content=body(), timeout=timeout) as response:
            with pytest.raises(httpx.WriteTimeout, match="read nothing"):
                await response.aread()
