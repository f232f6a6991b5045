"""The sidecar's server against ASGI apps and clients of every kind: framing, trailers, pipelines, and who leaves."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lbclient import Pool
from lbclient.asgi import ReverseProxy
from lbclient.asgi.types import App, Receive, Scope, Send
from tests.asgi.conftest import answer_or_not
from tests.asgi.hosting import Host, RawClient, ask
from tests.conftest import MakeRawServer
from tests.servers import Connection
from tests.servers.raw import respond

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
WAIT = 20.0  # seconds, for what takes a moment

Served = Callable[[App], Host]


@pytest.fixture
def served() -> Iterator[Callable[..., Host]]:
    """Serves apps by the sidecar's protocol."""
    hosts: list[Host] = []

    def one(app: App, **options: Any) -> Host:
        hosts.append(Host(app, http="sidecar", lifespan="off", **options))
        return hosts[-1]

    yield one
    for host in hosts:
        host.stop()


def says(*messages: dict[str, Any]) -> App:
    """An app that sends just this."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def part(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def trailers(*headers: tuple[bytes, bytes], more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": headers, "more_trailers": more}


def until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def all_of(client: RawClient) -> bytes:
    """What comes until the server closes."""
    data = b""
    while more := client.socket.recv(65536):
        data += more
    return data


# Responses


def test_trailers_reach_the_client_that_wants_them(served: Served, raw_server: MakeRawServer) -> None:
    """Whether they are there with the rest of the response or come later; and nobody else (RFC 9110, 6.5.1)."""

    def late(connection: Connection) -> None:
        while connection.read_request():
            connection.send(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n"
            )
            time.sleep(0.05)
            connection.send(b"0\r\nX-Sum: 294\r\nContent-MD5: x\r\nHost: no\r\n\r\n")

    for handler, found in ((answer_or_not, b"x-sum: 294\r\n"), (late, b"x-sum: 294\r\ncontent-md5: x\r\n")):
        host = served(ReverseProxy([raw_server(handler).url]))
        wanted = b"GET /raw/trailers HTTP/1.1\r\nhost: h\r\nconnection: te, close\r\nte: trailers\r\n\r\n"
        with RawClient(host.port) as client:
            client.say(wanted)
            head, _, body = all_of(client).partition(b"\r\n\r\n")
        assert b"\r\ntrailer: x-sum\r\n" in head + b"\r\n"
        assert body == b"3\r\nabc\r\n0\r\n" + found + b"\r\n"
        with RawClient(host.port) as client:
            client.say(wanted.replace(b"te: trailers\r\n", b""))
            head, _, body = all_of(client).partition(b"\r\n\r\n")
        assert b"trailer" not in head
        assert body == b"3\r\nabc\r\n0\r\n\r\n"


def test_http_1_0_gets_no_chunks(served: Served, raw_server: MakeRawServer) -> None:
    host = served(ReverseProxy([raw_server(answer_or_not).url]))
    with RawClient(host.port) as client:
        client.say(b"GET /raw/trailers HTTP/1.0\r\nhost: h\r\nte: trailers\r\nconnection: keep-alive\r\n\r\n")
        head, _, body = all_of(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"\r\nconnection: close" in head
    assert body == b"abc"


@pytest.mark.parametrize("way", ["at once", "by messages"])
def test_who_asks_for_the_head_gets_no_body(served: Served, raw_server: MakeRawServer, way: str) -> None:
    def handler(connection: Connection) -> None:
        while connection.read_request():
            connection.send(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n")

    host = served(_without_at_once(ReverseProxy([raw_server(handler).url]), way))
    with RawClient(host.port) as client:
        for method in (b"HEAD", b"GET"):
            reply = client.ask(method + b" / HTTP/1.1\r\nhost: h\r\n\r\n")
            assert (reply.status, reply.value(b"content-length"), reply.body) == (304, b"5", b"")


def _without_at_once(app: App, way: str) -> App:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Any) -> None:
            await send(message)

        await app(scope, receive, send if way == "at once" else sending)

    return wrapped


def _failing(words: str) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError(words)

    return app


@pytest.mark.parametrize(
    "app",
    [
        _failing("a bug"),
        says(),
        says(part(b"abc")),
        says(start(200, (b"x", b"a\r\nb: c"))),
        says(start(200, (b"x", b"a\0b"))),
        says(start(200, (b"x", b"a\nb"))),
        says(start(200, (b"transfer-encoding", b"chunked"))),
    ],
)
def test_an_app_that_says_nothing_or_nonsense(served: Served, app: App) -> None:
    with RawClient(served(app).port) as client:
        reply = client.ask(GET)
        assert (reply.status, reply.body, reply.value(b"connection")) == (
            500,
            b"Internal Server Error",
            b"close",
        )
        assert client.socket.recv(1) == b""


@pytest.mark.parametrize(
    "messages",
    [
        (start(200, (b"content-length", b"5")), part(b"abc")),
        (start(200, (b"content-length", b"5")), part(b"abcdef")),
        (start(200, (b"content-length", b"5")), part(b"abc", True), start()),
        (start(), part(b"abc", True)),
        (start(), part(b"abc", True), trailers((b"x", b"a\r\nb: c"))),
    ],
)
def test_a_response_that_is_not_whole_gets_no_proper_ending(
    served: Served, messages: tuple[dict[str, Any], ...]
) -> None:
    reply = ask(served(says(*messages)).port, GET)
    assert (reply.status, reply.whole) == (200, False)


def test_responses_of_an_app(served: Served) -> None:
    with_trailers = start(299, trailers=True), part(b"abc"), trailers(more=True), trailers((b"x", b"y"))
    with RawClient(served(says(*with_trailers)).port) as client:
        reply = client.ask(GET)
        assert (reply.status, reply.body, reply.whole) == (299, b"abc", True)
        assert client.ask(GET).whole, "and the connection goes on"
    known = start(200, (b"content-length", b"3"), trailers=True), part(b"abc"), trailers((b"x", b"y"))
    with RawClient(served(says(*known)).port) as client:
        assert [client.ask(GET).body for _ in range(2)] == [b"abc", b"abc"]
    closing = says(start(799, (b"connection", b"x, close"), (b"content-length", b"0")), part(b""))
    reply = ask(served(closing).port, GET)
    assert (reply.status, reply.values(b"connection")) == (799, [b"x, close"])


def test_after_the_end_an_app_hears_that_the_client_has_left(served: Served) -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])
        await send(start(200, (b"content-length", b"0")))
        await send(part(b""))
        heard.append((await receive())["type"])
        with pytest.raises(RuntimeError, match="after the end"):
            await send(part(b""))

    with RawClient(served(app).port) as client:
        assert client.ask(GET).status == 200
        assert client.ask(GET).status == 200
    until(lambda: heard == ["http.request", "http.disconnect"] * 2)


# Requests


def test_what_follows_a_body_is_not_taken_for_headers(served: Served, raw_server: MakeRawServer) -> None:
    backend = raw_server(respond())
    host = served(ReverseProxy([backend.url]))
    with RawClient(host.port) as client:
        for behind in (b"x-admin: yes\r\n", b"host: other\r\ncookie: a=1\r\n"):
            client.say(
                b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n" + behind
            )
            client.say(b"\r\n")
            assert client.hear(b"POST").status == 200
    sent = b"".join(backend.requests)
    assert sent.count(b"POST / HTTP/1.1") == 2
    assert not any(word in sent for word in (b"x-admin", b"other", b"a=1"))


def test_requests_that_were_sent_without_waiting(served: Served, raw_server: MakeRawServer) -> None:
    """They are answered in their order, and informational responses go to whom they are for."""
    host = served(ReverseProxy([raw_server(answer_or_not).url]))
    with RawClient(host.port) as client:
        client.say(
            b"".join(b"GET /raw/%s HTTP/1.1\r\nhost: h\r\n\r\n" % each for each in (b"a", b"hints", b"b"))
        )
        client.socket.settimeout(WAIT)
        said = b""
        while said.count(b"HTTP/1.1 200 OK") < 3:
            said += client.socket.recv(65536)
    assert re.findall(rb"HTTP/1.1 (...) ", said) == [b"200", b"102", b"103", b"103", b"200", b"200"]


def test_who_leaves_with_requests_under_way_frees_the_backend(
    served: Served, raw_server: MakeRawServer
) -> None:
    """Also where more had been sent behind the one that is served."""
    for behind in (b"", GET, GET * 3):
        pool = Pool([raw_server(answer_or_not).url])
        backend = pool.status().backends[0]
        with RawClient(served(ReverseProxy(pool)).port) as client:
            client.say(b"GET /raw/silent HTTP/1.1\r\nhost: h\r\n\r\n" + behind)
            until(lambda pool=pool: pool.status().backends[0].in_flight == 1)  # type: ignore[misc]
        until(lambda pool=pool: pool.status().backends[0].in_flight == 0)  # type: ignore[misc]
        assert backend.failures == 0


def test_who_does_not_read_is_not_answered_any_more(served: Served, raw_server: MakeRawServer) -> None:
    """Answers that are there at once wait for the client as all others do."""
    size = 10_000
    asked = 3000  # more than what systems and we keep of answers
    backend = raw_server(respond(body=b"x" * size))
    host = served(ReverseProxy([backend.url]))
    with RawClient(host.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        threading.Thread(target=client.say, args=(GET * asked,), daemon=True).start()
        before = -1
        while len(backend.requests) != before:  # until it stands still
            before = len(backend.requests)
            time.sleep(0.5)
        assert before < asked
        came = 0
        while came < asked * size:
            came += len(client.socket.recv(1 << 20))
        until(lambda: len(backend.requests) == asked)


def test_idle_connections_are_closed_and_used_ones_are_not(served: Callable[..., Host]) -> None:
    host = served(says(start(200, (b"content-length", b"0")), part(b"")), timeout_keep_alive=1)
    with RawClient(host.port) as client:
        for _ in range(4):
            assert client.ask(GET).status == 200
            time.sleep(0.4)
        began = time.monotonic()
        assert client.socket.recv(1) == b""
        assert time.monotonic() - began < WAIT
