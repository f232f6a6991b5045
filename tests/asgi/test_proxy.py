"""The reverse proxy between a client and real servers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from lbclient import AsyncBalancedTransport, Backend, CookieAffinity, HttpProbe, Pool, Route, Router
from lbclient.asgi import ReverseProxy, incoming
from tests.asgi.conftest import Serve
from tests.asgi.hosting import RawClient, ask
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import Connection, free_port
from tests.servers.raw import respond

GET = b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n"


@pytest.fixture(params=["h11", "httptools", "sidecar"])
def parser(request: pytest.FixtureRequest) -> str:
    """uvicorn's two parsers of HTTP/1.1, and the sidecar's server, to which the proxy speaks by shorter ways."""
    name: str = request.param
    return name


def sent_on(raw: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The request line and the headers that a backend got."""
    first, *lines = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return first, [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


def test_header_pairs_keep_their_order_and_their_duplicates(
    serve: Serve, raw_server: MakeRawServer, parser: str
) -> None:
    cookies = [("set-cookie", "a=1"), ("x-one", "1"), ("set-cookie", "b=2; Path=/x"), ("x-one", "2")]
    backend = raw_server(respond(headers=cookies))
    host = serve(ReverseProxy([backend.url], via=None), http=parser)
    reply = ask(
        host.port, b"GET / HTTP/1.1\r\nhost: h\r\nx-b: 1\r\nx-a: 2\r\nx-b: 3\r\nuser-agent: \xe9\r\n\r\n"
    )
    first, headers = sent_on(backend.requests[0])
    assert first == b"GET / HTTP/1.1"
    names = (b"x-b", b"x-a", b"user-agent")
    assert [pair for pair in headers if pair[0] in names] == [
        (b"x-b", b"1"),
        (b"x-a", b"2"),
        (b"x-b", b"3"),
        (b"user-agent", b"\xe9"),
    ]
    assert [pair for pair in reply.headers if pair[0] in (b"set-cookie", b"x-one")] == [
        (name.encode(), value.encode()) for name, value in cookies
    ]


@pytest.mark.parametrize(
    "target",
    [
        b"/a%2Fb//c/../d/./%7e?x=%20+&y=a%26b&&=?",
        b'/"<>^`{|}\\',
        b"/?a=1%00",
        b"/%e2%82%ac;v=1",
        b"//double",
        b"/%zz",
    ],
)
def test_path_and_query_are_passed_on_byte_for_byte(
    serve: Serve, raw_server: MakeRawServer, target: bytes
) -> None:
    backend = raw_server()
    host = serve(ReverseProxy([backend.url]), http="h11")
    assert ask(host.port, b"GET %s HTTP/1.1\r\nhost: h\r\n\r\n" % target).status == 200
    assert sent_on(backend.requests[0])[0] == b"GET %s HTTP/1.1" % target


def test_bodies_stream_both_ways(serve: Serve, servers: SharedServers, parser: str) -> None:
    (server,) = servers("uvicorn", 1)
    host = serve(ReverseProxy([server.url]), http=parser)
    with httpx.Client(base_url=host.url) as client:
        sized = client.post("/echo", content=b"x" * 300_000).json()
        assert sized["length"] == 300_000
        assert ["content-length", "300000"] in sized["headers"]
        chunked = client.post("/echo", content=(b"y" * 1000 for _ in range(50))).json()
        assert chunked["length"] == 50_000
        assert ["transfer-encoding", "chunked"] in chunked["headers"]
        assert client.get("/stream?chunks=20&size=1000").content == b"".join(
            bytes([ord("a") + index]) * 1000 for index in range(20)
        )
        assert client.head("/echo").headers["content-length"]
        assert client.get("/status/204").status_code == 204
        assert client.get("/status/304").status_code == 304
        assert client.post("/echo").json()["length"] == 0


def test_a_part_of_a_response_is_not_held_back(serve: Serve, raw_server: MakeRawServer) -> None:
    def trickle(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        connection.wait_for_client_close()

    host = serve(ReverseProxy([raw_server(trickle).url]))
    with httpx.Client(base_url=host.url) as client, client.stream("GET", "/") as response:
        assert next(response.iter_bytes()) == b"hi"


def test_what_breaks_off_at_the_backend_breaks_off_at_the_client(
    serve: Serve, raw_server: MakeRawServer, parser: str
) -> None:
    def chunked(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")

    def sized(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")

    for handler in (chunked, sized):
        host = serve(ReverseProxy([raw_server(handler).url]), http=parser)
        reply = ask(host.port, GET)
        assert (reply.status, reply.body, reply.whole) == (200, b"abc", False)


def never_answer(connection: Connection) -> None:
    connection.wait_for_client_close(20)


def dead_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_answers_of_our_own(serve: Serve, raw_server: MakeRawServer) -> None:
    silent = raw_server(lambda connection: connection.stall())
    mad = raw_server(lambda connection: connection.send(b"I do not speak HTTP\r\n\r\n"))
    gone = Pool([dead_url()], retry=None)
    gone.disable(next(iter(gone.status().backends)).url)
    proxies: dict[int, list[ReverseProxy]] = {
        502: [ReverseProxy([dead_url()]), ReverseProxy([mad.url])],
        503: [ReverseProxy(gone)],
        504: [ReverseProxy([silent.url], timeout=0.2), ReverseProxy([silent.url], deadline=0.2)],
        404: [ReverseProxy(Router([Route(path="/nowhere", to=Pool([silent.url]))]))],
    }
    for status, ones in proxies.items():
        for proxy in ones:
            reply = ask(serve(proxy).port, GET)
            assert reply.status == status
            assert b"127.0.0.1" not in reply.body
            assert bool(reply.values(b"retry-after")) == (status == 503)


def test_retries_go_to_another_backend(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    host = serve(ReverseProxy([dead_url(), server.url], algorithm="first"))
    with httpx.Client(base_url=host.url) as client:
        assert client.post("/echo", content=b"once").json()["length"] == 4


def test_a_client_that_leaves_frees_a_silent_backend(
    serve: Serve, raw_server: MakeRawServer, parser: str
) -> None:
    backend = raw_server(never_answer)
    proxy = ReverseProxy([backend.url])
    host = serve(proxy, http=parser)
    (pool,) = proxy.transport.pools.values()
    with RawClient(host.port) as client:
        client.say(GET)
        assert backend.wait_until(lambda server: server.open == 1)
        assert backend.wait_until(lambda server: b"GET" in server.received)
    assert backend.wait_until(lambda server: server.open == 0, within=1.0)
    assert backend.wait_until(lambda _: pool.status().backends[0].in_flight == 0)
    assert pool.status().backends[0].failures == 0


def test_a_client_that_leaves_in_the_middle_of_a_response_frees_the_backend(
    serve: Serve, raw_server: MakeRawServer
) -> None:
    def endless(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        connection.wait_for_client_close(20)

    backend = raw_server(endless)
    host = serve(ReverseProxy([backend.url]))
    with RawClient(host.port) as client:
        client.say(GET)
        client.socket.recv(10)
    assert backend.wait_until(lambda server: server.open == 0, within=1.0)


def test_a_client_that_leaves_in_the_middle_of_its_body_frees_the_backend(
    serve: Serve, raw_server: MakeRawServer
) -> None:
    backend = raw_server(never_answer)
    host = serve(ReverseProxy([backend.url]))
    with RawClient(host.port) as client:
        client.say(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nabc")
        assert backend.wait_until(lambda server: server.received.endswith(b"abc"))
    assert backend.wait_until(lambda server: server.open == 0, within=1.0)


@pytest.mark.parametrize("leaves", ["with a reset", "behind what it has sent", "one of many"])
def test_a_client_that_vanishes_while_the_backend_reads_nothing_frees_it(
    serve: Serve, raw_server: MakeRawServer, leaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if leaves == "one of many":
        monkeypatch.setattr(incoming, "MOST_FAR", 0)
    over = threading.Event()

    def unwilling(connection: Connection) -> None:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        over.wait(20)

    proxy = ReverseProxy([raw_server(unwilling).url])
    host = serve(proxy)
    (backend,) = proxy.transport.pools.values()
    try:
        with RawClient(host.port) as client:
            client.say(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000000\r\n\r\n")
            client.socket.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                while True:
                    client.say(b"x" * 65536)
            assert backend.status().backends[0].in_flight == 1
            if leaves != "behind what it has sent":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        deadline = time.monotonic() + 10
        while backend.status().backends[0].in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert backend.status().backends[0].in_flight == 0
        assert backend.status().backends[0].failures == 0
    finally:
        over.set()


def test_bodies_are_limited(serve: Serve, servers: SharedServers, parser: str) -> None:
    (server,) = servers("uvicorn", 1)
    host = serve(ReverseProxy([server.url], max_body=1000), http=parser)
    with httpx.Client(base_url=host.url) as client:
        assert client.post("/echo", content=b"x" * 1000).json()["length"] == 1000
        assert client.post("/echo", content=b"x" * 1001).status_code == 413
        assert client.get("/count").json()["count"] == 1, "it was not even begun"
        assert client.post("/echo", content=(b"y" * 100 for _ in range(11))).status_code == 413
        assert client.post("/echo", content=(b"y" * 100 for _ in range(10))).json()["length"] == 1000


def test_a_client_that_stalls_in_its_body_is_told(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(never_answer)
    host = serve(ReverseProxy([backend.url], body_timeout=0.1))
    reply = ask(host.port, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nabc")
    assert reply.status == 408
    assert reply.value(b"connection") == b"close"


def test_a_client_is_told_to_continue_when_a_backend_wants_its_body(
    serve: Serve, servers: SharedServers, parser: str
) -> None:
    (server,) = servers("uvicorn", 1)
    head = b"POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
    with RawClient(serve(ReverseProxy([server.url]), http=parser).port) as client:
        client.say(head)
        assert client.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"[:25]
        client.say(b"abc")
        assert b'"length": 3' in client.hear(b"POST").body
    with RawClient(serve(ReverseProxy([dead_url()]), http=parser).port) as client:
        client.say(head)
        assert client.hear(b"POST").status == 502, "and it need not send its body for that"


def test_lifespan_starts_the_probes_and_closes_the_transport(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    proxy = ReverseProxy([server.url], probe=HttpProbe("/health", interval=0.1, timeout=0.1))
    host = serve(proxy, lifespan="on")
    (pool,) = proxy.transport.pools.values()
    for _ in range(500):
        if pool.status().backends[0].check == "passing":
            break
        time.sleep(0.01)
    assert pool.status().backends[0].check == "passing"
    host.stop()
    with pytest.raises(RuntimeError, match="closed"):
        proxy.transport._check_open()


def test_without_lifespan_it_starts_when_it_is_used(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    proxy = ReverseProxy([server.url], probe=HttpProbe("/health", interval=0.1, timeout=0.1))
    host = serve(proxy, lifespan="off")
    assert httpx.get(f"{host.url}/whoami").text == server.name
    (pool,) = proxy.transport.pools.values()
    for _ in range(500):
        if pool.status().backends[0].check == "passing":
            return
        time.sleep(0.01)
    pytest.fail("nobody probes")


def test_browsers_stick_by_the_balancers_cookie(serve: Serve, servers: SharedServers) -> None:
    fleet = servers("uvicorn", 3)
    host = serve(ReverseProxy([one.url for one in fleet], algorithm="round_robin", affinity=CookieAffinity()))
    homes = []
    for _ in range(6):
        with httpx.Client(base_url=host.url) as browser:
            homes.append({browser.get("/whoami").text for _ in range(4)})
    assert all(len(home) == 1 for home in homes)
    assert len(set().union(*homes)) == 3, "each browser has its own home, and the proxy no jar"


def test_the_backends_own_location_becomes_the_clients(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(respond(302, headers=[("location", "LATER")]))
    port = backend.port
    backend.script[:] = [respond(302, headers=[("location", f"http://127.0.0.1:{port}/next?x=1")])]
    host = serve(ReverseProxy([backend.url]))
    assert ask(host.port, GET).value(b"location") == b"http://shop.example/next?x=1"


def test_a_given_transport_stays_open(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url])
    proxy = ReverseProxy(transport)
    assert proxy.transport is transport
    serve(proxy, lifespan="on").stop()
    transport._check_open()


def test_unix_sockets(serve: Serve, servers: SharedServers, tmp_path: Path) -> None:
    (server,) = servers("uvicorn", 1)
    host = serve(ReverseProxy([Backend(server.url)], preserve_host=True), http="h11")
    reply = ask(host.port, b"GET /echo HTTP/1.1\r\nhost: shop.example:81\r\n\r\n")
    assert b'["host", "shop.example:81"]' in reply.body


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trusted": "10.0.0.0/8"}, "write a collection"),
        ({"trusted": None}, "trusted is None; write a collection"),
        ({"trusted": ["everybody"]}, "write addresses and networks"),
        ({"client_from": "x-real-ip"}, "'x-forwarded-for' or 'forwarded'"),
        ({"via": "two words"}, "write a name"),
        ({"max_body": -1}, "0 or more"),
        ({"body_timeout": 0}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"deadline": 0}, "above 0"),
        ({"max_message": 0}, "1 or more"),
        ({"ping_timeout": 0}, "above 0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        ReverseProxy(["http://a"], **options)


def test_options_of_a_pool_do_not_go_with_a_transport() -> None:
    with pytest.raises(TypeError, match="preserve_host"):
        ReverseProxy(AsyncBalancedTransport(["http://a"]), preserve_host=True)
