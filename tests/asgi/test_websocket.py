"""WebSockets through the proxy: a real client, a real server, and backends that misbehave."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from lbclient import CookieAffinity, Pool
from lbclient.asgi import ReverseProxy
from lbclient.asgi.types import Receive, Scope, Send
from tests.asgi.conftest import Hosted, Serve
from tests.asgi.hosting import Host, RawClient
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import ASGI_KINDS, Connection, Kind, free_port
from tests.servers.raw import Handler

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@contextmanager
def opened(host: Host, path: str = "/ws", **options: Any) -> Iterator[ClientConnection]:
    options = {"open_timeout": 20, "close_timeout": 5, "max_size": None, "proxy": None} | options
    with connect(f"ws://127.0.0.1:{host.port}{path}", **options) as socket:
        yield socket


def header(request: bytes, name: bytes) -> bytes:
    return request.lower().split(b"\r\n%s: " % name, 1)[1].split(b"\r\n", 1)[0]


def accepting(
    then: Callable[[Connection], None], *, accept: bytes | None = None, more: bytes = b""
) -> Handler:
    """A server that takes a handshake and goes on as it likes."""

    def handler(connection: Connection) -> None:
        request = connection.read_request()
        assert request is not None
        key = request.split(b"sec-websocket-key: ", 1)[1].split(b"\r\n", 1)[0]
        token = base64.b64encode(hashlib.sha1(key + ACCEPT_GUID).digest()) if accept is None else accept
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: %s\r\n%s\r\n" % (token, more)
        )
        then(connection)

    return handler


def frame(opcode: int, payload: bytes = b"", final: bool = True) -> bytes:
    """A frame as a server sends it."""
    assert len(payload) < 126
    return bytes([(0x80 if final else 0) | opcode, len(payload)]) + payload


def never_answer(connection: Connection) -> None:
    connection.wait_for_client_close(20)


def test_messages_go_both_ways(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    with opened(serve(ReverseProxy([server.url]))) as socket:
        for message in ("text", "\N{SNOWMAN}", "", b"bytes", b"", b"\0" * 200_000, "x" * 200_000):
            socket.send(message)
            assert socket.recv() == message


@pytest.mark.parametrize("implementation", ["wsproto", "websockets-sansio"])
def test_every_implementation_of_uvicorns(serve: Serve, servers: SharedServers, implementation: str) -> None:
    (server,) = servers("uvicorn", 1)
    with opened(serve(ReverseProxy([server.url]), ws=implementation), subprotocols=["chat"]) as socket:
        assert socket.subprotocol == "chat"
        socket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "asked to")


@pytest.mark.parametrize("kind", ASGI_KINDS)
@pytest.mark.parametrize("place", ["backend", "host"])
def test_every_server(
    serve: Serve, servers: SharedServers, hosted: Callable[[Kind], Hosted], kind: Kind, place: str
) -> None:
    if place == "backend":
        (backend,) = servers(kind, 1)
        port = serve(ReverseProxy([backend.url])).port
    else:
        backend, port = hosted(kind).backend, hosted(kind).port
    with connect(f"ws://127.0.0.1:{port}/ws", subprotocols=["a", "b"], proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "a"
        for message in ("name", "text", b"bytes" * 1000):
            socket.send(message)
            assert socket.recv() == (backend.name if message == "name" else message)
        socket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4001


def test_the_backend_chooses_the_subprotocol(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    host = serve(ReverseProxy([server.url]))
    with opened(host, subprotocols=["chat", "superchat"]) as socket:
        assert socket.subprotocol == "chat"
    with opened(host) as socket:
        assert socket.subprotocol is None


def test_a_handshake_of_its_own(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(
        accepting(lambda c: c.send(frame(8, b"\x03\xe8")), more=b"set-cookie: a=1\r\nx-b: 2\r\n")
    )
    with opened(serve(ReverseProxy([backend.url])), "/a%2Fb?q=%20", origin="http://o") as socket:
        assert socket.response is not None
        assert socket.response.headers["set-cookie"] == "a=1"
        assert socket.response.headers["x-b"] == "2"
    (request,) = backend.requests
    assert request.startswith(b"GET /a%2Fb?q=%20 HTTP/1.1\r\n")
    assert header(request, b"origin") == b"http://o"
    assert header(request, b"x-forwarded-proto") == b"ws"
    assert header(request, b"connection") == b"upgrade"
    assert b"sec-websocket-extensions" not in request.lower(), "each hop negotiates for itself"
    assert request.lower().count(b"sec-websocket-key") == 1


def test_what_the_client_says_at_the_end_reaches_the_backend(serve: Serve) -> None:
    seen: list[dict[str, Any]] = []

    async def backend(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            seen.append(dict(await receive()))

    host = serve(ReverseProxy([serve(backend).url]))
    with opened(host) as socket:
        socket.close(4242, "good bye")
    wait_until(lambda: bool(seen))
    assert (seen[0]["type"], seen[0]["code"], seen[0]["reason"]) == ("websocket.disconnect", 4242, "good bye")


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_in_flight_until_it_is_closed(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    pool = Pool([server.url])
    host = serve(ReverseProxy(pool))
    with opened(host) as socket:
        socket.send("x")
        socket.recv()
        assert pool.status().backends[0].in_flight == 1
    wait_until(lambda: pool.status().backends[0].in_flight == 0)


def test_a_client_that_vanishes_frees_the_backend(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(accepting(never_answer))
    host = serve(ReverseProxy([backend.url]))
    with RawClient(host.port) as client:
        client.say(HANDSHAKE)
        assert client.socket.recv(20).startswith(b"HTTP/1.1 101")
    assert backend.wait_until(lambda server: server.open == 0, within=10)


def test_a_client_that_leaves_a_silent_handshake_frees_the_backend(
    serve: Serve, raw_server: MakeRawServer
) -> None:
    backend = raw_server(never_answer)
    host = serve(ReverseProxy([backend.url]))
    with RawClient(host.port) as client:
        client.say(HANDSHAKE)
        assert backend.wait_until(lambda server: b"websocket" in server.received)
    assert backend.wait_until(lambda server: server.open == 0, within=1)


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_refusal_is_passed_on_as_the_answer_it_was(serve: Serve, raw_server: MakeRawServer) -> None:
    def refuse(connection: Connection) -> None:
        connection.read_request()
        connection.respond(401, b"who are you?", [("www-authenticate", "Basic")])

    with pytest.raises(InvalidStatus) as refused, opened(serve(ReverseProxy([raw_server(refuse).url]))):
        pass
    response = refused.value.response
    assert (response.status_code, response.body) == (401, b"who are you?")
    assert response.headers["www-authenticate"] == "Basic"


@pytest.mark.parametrize(
    "handler",
    [
        accepting(never_answer, accept=b""),
        accepting(never_answer, accept=b"d3Jvbmc="),
        accepting(never_answer, more=b"sec-websocket-extensions: permessage-deflate\r\n"),
        accepting(never_answer, more=b"sec-websocket-protocol: mine\r\n"),
        lambda connection: (
            connection.read_request()
            and connection.send(b"HTTP/1.1 101 No\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n")
        ),
        lambda connection: connection.read_request() and None,
    ],
)
def test_a_wrong_handshake_is_a_bad_gateway(serve: Serve, raw_server: MakeRawServer, handler: Any) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(serve(ReverseProxy([raw_server(handler).url]))):
        pass
    assert refused.value.response.status_code == 502


def test_nobody_there(serve: Serve) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    gone = Pool([url])
    gone.disable(url)
    for proxy, status in ((ReverseProxy([url]), 502), (ReverseProxy(gone), 503)):
        with pytest.raises(InvalidStatus) as refused, opened(serve(proxy)):
            pass
        assert refused.value.response.status_code == status


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", 1011),  # and then FIN
        (frame(8, b"\x0f\xa1bye"), 4001),
        (frame(8), 1000),
        (frame(3), 1011),  # no such opcode
        (frame(1, b"\xff"), 1011),
        (frame(2, b"x" * 60) + frame(2, b"x" * 101), 1009),
        (frame(2, b"x" * 60, final=False) + frame(0, b"x" * 60), 1009),
    ],
)
def test_how_a_backend_can_end_it(serve: Serve, raw_server: MakeRawServer, said: bytes, code: int) -> None:
    host = serve(ReverseProxy([raw_server(accepting(lambda c: c.send(said))).url], max_message=100))
    with opened(host) as socket, pytest.raises(ConnectionClosed) as closed:
        list(iter(socket.recv, None))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code


def test_fragments_become_one_message_and_pings_are_answered(serve: Serve, raw_server: MakeRawServer) -> None:
    def handler(connection: Connection) -> None:
        connection.send(frame(1, b"one, ", final=False) + frame(9, b"ping") + frame(0, b"two"))
        connection.read(6)
        connection.wait_for_client_close(20)

    backend = raw_server(accepting(handler))
    with opened(serve(ReverseProxy([backend.url]))) as socket:
        assert socket.recv() == "one, two"
        assert backend.wait_until(lambda server: b"\x8a\x84" in server.received), "a masked pong"


def test_a_backend_that_answers_no_ping_is_given_up(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(accepting(never_answer))
    host = serve(ReverseProxy([backend.url], ping_interval=0.05, ping_timeout=0.1))
    with opened(host) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert b"\x89\x80" in backend.received, "a masked ping"
    assert backend.wait_until(lambda server: server.open == 0)


def test_one_that_answers_is_not(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    with opened(serve(ReverseProxy([server.url], ping_interval=0.02, ping_timeout=5))) as socket:
        time.sleep(0.3)
        socket.send("still here")
        assert socket.recv() == "still here"


def test_a_client_that_does_not_read_slows_the_backend(serve: Serve, raw_server: MakeRawServer) -> None:
    sent = 0

    def flood(connection: Connection) -> None:
        nonlocal sent
        part = frame(2, b"x" * 120) * 500
        while True:
            connection.send(part)
            sent += len(part)

    backend = raw_server(accepting(flood))
    host = serve(ReverseProxy([backend.url]))
    with RawClient(host.port) as client:
        client.say(HANDSHAKE)
        before = -1
        while sent != before:
            before = sent
            time.sleep(0.5)
        assert sent < 30_000_000
    assert backend.wait_until(lambda server: server.open == 0, within=10)


def test_a_backend_that_does_not_read_slows_the_client(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(accepting(lambda connection: connection.stall()))
    host = serve(ReverseProxy([backend.url]))
    with RawClient(host.port, timeout=0.5) as client:
        client.say(HANDSHAKE)
        client.socket.recv(1000)
        message = b"\x82\xfe\xff\xff\0\0\0\0" + b"x" * 65535
        sent = 0
        with suppress(TimeoutError):
            while sent < 60_000_000:
                client.say(message)
                sent += len(message)
        assert sent < 30_000_000


def test_browsers_stick(serve: Serve, servers: SharedServers) -> None:
    fleet = servers("uvicorn", 3)
    proxy = ReverseProxy([one.url for one in fleet], algorithm="round_robin", affinity=CookieAffinity())
    host = serve(proxy)
    with opened(host) as socket:
        assert socket.response is not None
        cookie = socket.response.headers["set-cookie"].partition(";")[0]
        socket.send("name")
        home = socket.recv()
    for _ in range(4):
        with opened(host, additional_headers={"cookie": cookie}) as socket:
            socket.send("name")
            assert socket.recv() == home


def test_a_drain_that_cuts_it_off_asks_the_client_to_come_back(serve: Serve, servers: SharedServers) -> None:
    import asyncio

    (server,) = servers("uvicorn", 1)
    proxy = ReverseProxy([server.url])
    with opened(serve(proxy)) as socket:
        socket.send("x")
        socket.recv()
        report = asyncio.run(proxy.transport.drain(server.url, grace=0.1))
        assert report.closed == 1
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


async def test_without_the_extension_a_refusal_is_a_close() -> None:
    said = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "websocket", "path": "/", "raw_path": b"/", "headers": [], "http_version": "1.1"}
    await ReverseProxy(["http://127.0.0.1:1"])(scope, receive, send)
    assert said == [{"type": "websocket.close", "code": 1008}]


async def test_a_refusal_that_breaks_off_gets_no_second_answer(raw_server: MakeRawServer) -> None:
    def refuse(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 401 No\r\ncontent-length: 100\r\n\r\nwho are")

    said: list[str] = []
    comes = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        if not comes:
            await anyio.sleep_forever()
        return comes.pop()

    async def send(message: Any) -> None:
        said.append(message["type"])

    scope = {
        "type": "websocket",
        "path": "/",
        "raw_path": b"/",
        "headers": [(b"host", b"shop.example")],
        "http_version": "1.1",
        "extensions": {"websocket.http.response": {}},
    }
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await ReverseProxy([raw_server(refuse).url])(scope, receive, send)
    assert said == ["websocket.http.response.start", "websocket.http.response.body"]
