"""What is particular to httpx2: its own WebSockets and event streams, and what does not mix with httpx."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx
import httpx2
import pytest

import lbclient
from lbclient import Pool
from lbclient.httpx2 import AsyncBalancedTransport, BalancedTransport
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import reply

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\nevent: end\ndata: two\n\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def in_flight(pool: Pool) -> int:
    return sum(backend.in_flight for backend in pool.status().backends)


async def test_websockets_of_httpx2_are_in_flight_until_they_close(servers: SharedServers) -> None:
    pool = Pool([server.url for server in servers("uvicorn", 2)])
    async with (
        httpx2.AsyncClient(transport=AsyncBalancedTransport(pool), base_url="http://orders") as http,
        http.websocket("ws://orders/ws") as socket,
    ):
        await socket.send_text("hello")
        assert await socket.receive_text() == "hello"
        assert in_flight(pool) == 1
    assert in_flight(pool) == 0


def test_websockets_of_the_sync_client(servers: SharedServers) -> None:
    pool = Pool([server.url for server in servers("uvicorn", 2)])
    with httpx2.Client(transport=BalancedTransport(pool)) as http, http.websocket("ws://orders/ws") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
        assert in_flight(pool) == 1
    assert in_flight(pool) == 0


async def test_event_streams(raw_server: MakeRawServer) -> None:
    url = raw_server(reply(EVENTS)).url
    async with (
        httpx2.AsyncClient(transport=AsyncBalancedTransport([url])) as http,
        http.sse("http://x/") as stream,
    ):
        assert [(event.event, event.data) async for event in stream] == [("message", "one"), ("end", "two")]


def test_event_streams_of_the_sync_client(raw_server: MakeRawServer) -> None:
    url = raw_server(reply(EVENTS)).url
    with httpx2.Client(transport=BalancedTransport([url])) as http, http.sse("http://x/") as stream:
        assert [(event.event, event.data) for event in stream] == [("message", "one"), ("end", "two")]


def test_one_pool_serves_httpx_and_httpx2(servers: SharedServers) -> None:
    pool = Pool([server.url for server in servers("uvicorn", 2)], algorithm="round_robin")
    with (
        httpx.Client(transport=lbclient.BalancedTransport(pool), base_url="http://orders") as one,
        httpx2.Client(transport=BalancedTransport(pool), base_url="http://orders") as other,
    ):
        for _ in range(4):
            assert one.get("/whoami").text != other.get("/whoami").text
    assert [backend.picks for backend in pool.status().backends] == [4, 4]


def test_its_exceptions_are_those_of_httpx2_and_of_lbclient() -> None:
    pool = Pool(["http://a"], fail_open=False)
    pool.report_probe("http://a", False)
    with (
        httpx2.Client(transport=BalancedTransport(pool)) as http,
        pytest.raises(httpx2.ConnectError) as caught,
    ):
        http.get("http://orders")
    kinds = type(caught.value).__mro__
    assert lbclient.NoBackendAvailable in kinds
    assert httpx.ConnectError not in kinds


@pytest.mark.parametrize(
    ("transport", "inner", "wanted"),
    [
        (AsyncBalancedTransport, httpx.AsyncHTTPTransport, r"no httpx2\.AsyncBaseTransport"),
        (AsyncBalancedTransport, httpx2.HTTPTransport, r"no httpx2\.AsyncBaseTransport"),
        (BalancedTransport, httpx.HTTPTransport, r"no httpx2\.BaseTransport"),
        (lbclient.BalancedTransport, httpx2.HTTPTransport, r"no httpx\.BaseTransport"),
        (lbclient.BalancedTransport, httpx.AsyncHTTPTransport, r"no httpx\.BaseTransport"),
        (lbclient.AsyncBalancedTransport, httpx.HTTPTransport, r"no httpx\.AsyncBaseTransport"),
    ],
)
def test_transports_of_another_flavour_do_not_mix(transport: Any, inner: Any, wanted: str) -> None:
    with pytest.raises(
        TypeError, match=rf"http://a, which is {wanted}; transports of httpx and httpx2, and sync"
    ):
        transport(["http://a"], inner=lambda backend: inner())


def test_without_httpx2_it_says_what_to_install_and_lbclient_works() -> None:
    program = """
import sys
sys.modules["httpx2"] = None
import lbclient
try:
    import lbclient.httpx2
except ImportError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'lbclient[httpx2]'" in done.stdout


def test_lbclient_does_not_import_httpx2() -> None:
    program = "import lbclient, sys; print('httpx2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
