"""Rate limits: buckets in memory and in a real Redis."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lbclient.asgi import RateLimit, RateLimitMiddleware
from lbclient.asgi.types import Message, Receive, Scope, Send
from lbclient.core.facts import Facts
from tests.asgi.conftest import Serve
from tests.asgi.hosting import ask
from tests.servers import free_port


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
    await send({"type": "http.response.body", "body": b"ok"})


def slow(requests: int, **options: Any) -> RateLimit:
    """So slow that no token comes back while a test runs."""
    return RateLimit(requests=requests, per=100_000, **options)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis of the test's own."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(500):
            try:
                if ask_redis(port):
                    break
            except OSError:
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def ask_redis(port: int) -> bool:
    import socket

    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(10).startswith(b"+PONG")


def test_who_asks_too_often_is_told_when_to_come_back(serve: Serve) -> None:
    host = serve(RateLimitMiddleware(ok, slow(3, name="three")))
    with httpx.Client(base_url=host.url) as client:
        answers = [client.get("/") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[0].headers["ratelimit-policy"] == '"three";q=3;w=100000'
    assert answers[0].headers["ratelimit"].startswith('"three";r=2;t=')
    assert answers[0].headers["x-app"] == "1"
    assert 33_000 < int(answers[3].headers["retry-after"]) <= 33_334, "the next token, not the whole bucket"
    assert "retry-after" not in answers[0].headers


def test_a_token_comes_back(serve: Serve) -> None:
    host = serve(RateLimitMiddleware(ok, RateLimit(requests=20, burst=1)))
    with httpx.Client(base_url=host.url) as client:
        seen = [client.get("/").status_code for _ in range(2)]
        time.sleep(0.1)
        seen.append(client.get("/").status_code)
    assert seen[0] == seen[2] == 200


@pytest.mark.parametrize(
    ("limit", "requests", "statuses"),
    [
        (slow(1, path="/login"), ["GET /login", "GET /", "GET /%6cogin", "GET /"], [200, 200, 429, 200]),
        (slow(1, methods=("POST",)), ["POST /", "GET /", "POST /"], [200, 200, 429]),
        (
            slow(1, key="header:x-key"),
            ["GET / a", "GET / b", "GET / a", "GET /", "GET /"],
            [200, 200, 429, 200, 200],
        ),
        (slow(1, key="path"), ["GET /a", "GET /b", "GET /a?x"], [200, 200, 429]),
        (slow(1, key=lambda facts: "all"), ["GET / a", "GET / b"], [200, 429]),
        ([slow(5), slow(1, path="/a", name="a")], ["GET /a", "GET /a", "GET /b"], [200, 429, 200]),
    ],
)
def test_what_counts(serve: Serve, limit: Any, requests: list[str], statuses: list[int]) -> None:
    host = serve(RateLimitMiddleware(ok, limit))
    seen = []
    for request in requests:
        method, path, *key = request.split()
        seen.append(
            httpx.request(method, host.url + path, headers={"x-key": key[0]} if key else {}).status_code
        )
    assert seen == statuses


def test_only_a_trusted_proxy_says_whose_request_it_is(serve: Serve) -> None:
    def statuses(port: int) -> list[int]:
        asked = b"GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 203.0.113.%d\r\n\r\n"
        return [ask(port, asked % number).status for number in (1, 2, 1)]

    assert statuses(serve(RateLimitMiddleware(ok, slow(1))).port) == [200, 429, 429]
    trusting = RateLimitMiddleware(ok, slow(1), trusted=["127.0.0.0/8"])
    assert statuses(serve(trusting).port) == [200, 200, 429]


@pytest.mark.parametrize(
    ("address", "bucket"),
    [
        ("2001:db8:1:2:3::4", "default:2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "default:::ffff:192.0.2.1"),
        ("192.0.2.1", "default:192.0.2.1"),
        ("testclient", "default:testclient"),
    ],
)
def test_a_customer_has_a_network_of_ipv6_addresses(address: str, bucket: str) -> None:
    assert slow(1).bucket(Facts(options={"client_ip": address})) == bucket


def test_without_an_address_there_is_no_bucket() -> None:
    assert slow(1).bucket(Facts()) is None


def test_processes_share_a_limit_through_redis(serve: Serve, redis: str) -> None:
    hosts = [serve(RateLimitMiddleware(ok, slow(4), store=redis)) for _ in range(2)]
    statuses = [httpx.get(hosts[turn % 2].url).status_code for turn in range(6)]
    assert statuses == [200] * 4 + [429] * 2


def test_a_redis_that_is_gone_lets_requests_pass_or_not(serve: Serve) -> None:
    store = f"redis://127.0.0.1:{free_port()}/0"
    assert httpx.get(serve(RateLimitMiddleware(ok, slow(1), store=store)).url).status_code == 200
    closed = httpx.get(serve(RateLimitMiddleware(ok, slow(1), store=store, fail_open=False)).url)
    assert closed.status_code == 503
    assert closed.headers["retry-after"] == "1"


async def test_a_websocket_counts_and_is_refused_as_the_server_can() -> None:
    async def accept(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": []})

    limited = RateLimitMiddleware(accept, slow(1))

    async def said(**more: Any) -> list[Message]:
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            messages.append(message)

        scope = {"type": "websocket", "path": "/", "headers": [], "client": ("192.0.2.1", 1), **more}
        await limited(scope, receive, send)
        return messages

    (accepted,) = await said()
    assert (b"ratelimit-remaining", b"0") in accepted["headers"]
    assert [message["type"] for message in await said()] == ["websocket.close"]
    start, _ = await said(extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)


async def test_lifespan_passes() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    await RateLimitMiddleware(app, slow(1))({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_headers_can_be_left_out(serve: Serve) -> None:
    answer = httpx.get(serve(RateLimitMiddleware(ok, slow(1), headers=False)).url)
    assert not [name for name in answer.headers if name.startswith("ratelimit")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"requests": 0}, "1 or more"),
        ({"requests": 1, "per": 0.5}, "whole number"),
        ({"requests": 1, "burst": 0}, "1 or more"),
        ({"requests": 1, "key": "nobody"}, "client_ip"),
        ({"requests": 1, "path": "login"}, "path"),
        ({"requests": 1, "methods": ["get"]}, "upper case"),
        ({"requests": 1, "name": 'a"b'}, "without quotes"),
    ],
)
def test_bad_limits_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        RateLimit(**options)


def test_bad_middleware_is_refused() -> None:
    with pytest.raises(TypeError, match="write RateLimit"):
        RateLimitMiddleware(ok, [])
    with pytest.raises(ValueError, match="redis://"):
        RateLimitMiddleware(ok, slow(1), store="memcached://a")
