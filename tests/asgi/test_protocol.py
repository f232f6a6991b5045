"""The reverse proxy against ASGI itself: messages of servers that are not at hand, and of versions to come."""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Pool
from lbclient.asgi import ReverseProxy
from lbclient.asgi.types import Message, Scope
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import free_port
from tests.servers.raw import respond


class Server:
    """What a server does for one request.

    Args:
        bodies: What the client sends.
        gone_after: How many messages it takes before it has left, and sending fails.
    """

    def __init__(self, *bodies: bytes, gone_after: int | None = None) -> None:
        last = len(bodies) - 1
        self._coming = deque(
            {"type": "http.request", "body": body, "more_body": at < last}
            for at, body in enumerate(bodies or (b"",))
        )
        self._gone_after = gone_after
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self._coming:
            return self._coming.popleft()
        await anyio.sleep_forever()
        raise AssertionError

    async def send(self, message: Message) -> None:
        if self._gone_after is not None and len(self.sent) >= self._gone_after:
            raise OSError("the client has left")
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


def scope(method: str = "GET", path: str = "/", **more: Any) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"h")],
        "http_version": "1.1",
        "client": ("192.0.2.1", 1),
        **more,
    }


async def ask(target: Any, asked: Scope, server: Server | None = None, **options: Any) -> Server:
    """Ask a proxy of its own."""
    server = Server() if server is None else server
    async with AsyncBalancedTransport(target) as transport:
        await ReverseProxy(transport, **options)(asked, server.receive, server.send)
    return server


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # httpcore leaves generators open, of which trio warns
async def test_a_server_that_says_by_an_error_that_the_client_has_left(servers: SharedServers) -> None:
    """ASGI 2.4."""
    (backend,) = servers("uvicorn", 1)
    pool = Pool([backend.url])
    asked = scope(path="/stream", query_string=b"delay=0.02")  # so that it does not come at once
    for gone_after in (0, 1, 3):
        server = await ask(pool, asked, Server(gone_after=gone_after))
        assert len(server.sent) == gone_after
        status = pool.status().backends[0]
        assert (status.in_flight, status.failures) == (0, 0)
        pool = Pool([backend.url])
    nobody = await ask([f"http://127.0.0.1:{free_port()}"], asked, Server(gone_after=0))
    assert nobody.sent == []


async def test_the_record_is_in_the_scope(servers: SharedServers) -> None:
    (backend,) = servers("uvicorn", 1)
    asked = scope(path="/whoami")
    await ask([backend.url], asked)
    assert asked["state"]["lbclient"].backend == backend.url
    url = f"http://127.0.0.1:{free_port()}"
    asked = scope(path="/whoami")
    assert (await ask([url], asked)).status == 502
    assert {attempt.backend for attempt in asked["state"]["lbclient"].attempts} == {url}


async def test_http2_bodies_without_a_length(servers: SharedServers) -> None:
    (backend,) = servers("uvicorn", 1)
    for bodies, length in (((), 0), ((b"",), 0), ((b"abc",), 3), ((b"", b"abc", b"", b"de"), 5)):
        server = await ask([backend.url], scope("POST", "/echo", http_version="2"), Server(*bodies))
        assert f'"length": {length}'.encode() in server.body
        assert (b"transfer-encoding" in server.body) == (length > 0)


async def test_an_http2_client_is_told_nothing_of_connections() -> None:
    server = await ask(["http://a"], scope(http_version="2", headers=[(b"host", b"a"), (b"host", b"b")]))
    assert server.status == 400
    assert b"connection" not in dict(server.sent[0]["headers"])


async def test_options_of_the_server_itself() -> None:
    assert (await ask(["http://a"], scope("OPTIONS", "*"))).status == 204


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (scope("CONNECT", "h:443"), 405),
        (scope("TRACE"), 405),
        (scope("G(T"), 400),
        (scope(http_version="0.9"), 505),
        (scope(headers=[(b"host", b"h"), (b"x", b"a\x07")]), 400),
        (scope(headers=[(b"host", b"h"), (b"", b"a")]), 400),
        (scope(headers=[(b"host", b"h"), *([(b"x", b"y")] * 1001)]), 431),
        (scope(headers=[(b"host", b"h"), (b"x", b"y" * 70_000)]), 431),
        (scope(path="/" + "x" * 40_000), 414),
    ],
)
async def test_what_is_not_even_asked_of_a_backend(asked: Scope, status: int) -> None:
    assert (await ask(["http://a"], asked)).status == status


async def test_bugs_are_not_hidden() -> None:
    """An exception that is nobody's answer goes to the server."""

    class Buggy(AsyncBalancedTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise ZeroDivisionError

    proxy = ReverseProxy(Buggy(["http://a"]))
    server = Server()
    with pytest.raises(ZeroDivisionError):
        await proxy(scope(), server.receive, server.send)
    server = Server()  # whether the first one was listened to is a matter of time
    with pytest.raises(ZeroDivisionError):
        await proxy(scope(type="websocket"), server.receive, server.send)
    with pytest.raises(ValueError, match="a scope of type 'smtp'"):
        await proxy({"type": "smtp"}, server.receive, server.send)
    assert "AsyncBalancedTransport" in repr(proxy)


async def test_a_closed_proxy_is_no_answer_either(raw_server: MakeRawServer) -> None:
    backend = raw_server(respond())
    proxy = ReverseProxy([backend.url])
    await proxy.aclose()
    server = Server()
    with pytest.raises(RuntimeError, match="closed"):
        await proxy(scope(), server.receive, server.send)


async def test_no_via_and_nothing_rewritten_when_nobody_wants_it(raw_server: MakeRawServer) -> None:
    backend = raw_server(respond(302, headers=[("location", "/x"), ("set-cookie", "a=1; Path=/")]))
    asked = scope(path="/api/y", root_path="/api")
    plain = await ask([backend.url], asked, via=None, rewrite_location=False, rewrite_cookies=False)
    headers = dict(plain.sent[0]["headers"])
    assert (headers[b"location"], headers[b"set-cookie"]) == (b"/x", b"a=1; Path=/")
    assert b"via" not in headers
    assert b"\r\nvia:" not in backend.requests[0]
    rewritten = dict((await ask([backend.url], asked)).sent[0]["headers"])
    assert (rewritten[b"location"], rewritten[b"set-cookie"]) == (b"/api/x", b"a=1; Path=/api")
    assert rewritten[b"via"] == b"1.1 lbclient"


@pytest.mark.parametrize("gone_after", [0, 1])
async def test_a_websocket_whose_client_is_told_nothing_any_more(
    servers: SharedServers, gone_after: int
) -> None:
    (backend,) = servers("uvicorn", 1)
    pool = Pool([backend.url])
    server = Server(gone_after=gone_after)

    async def receive() -> Message:
        return {"type": "websocket.connect"} if not connected.is_set() else await talk()

    async def talk() -> Message:
        await anyio.sleep(0)
        return {"type": "websocket.receive", "text": "hello"}

    async def first() -> Message:
        message = await receive()
        connected.set()
        return message

    connected = anyio.Event()
    async with AsyncBalancedTransport(pool) as transport:
        with anyio.fail_after(20):
            await ReverseProxy(transport)(scope(path="/ws", type="websocket"), first, server.send)
    assert len(server.sent) == gone_after
    assert pool.status().backends[0].in_flight == 0
