"""What comes before a response (1xx) and behind it (trailers), of every engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect
from lbclient.asgi.inbound import trailers_of
from tests.conftest import MakeRawServer
from tests.servers import Connection
from tests.servers.raw_h2 import Peer, speak

pytestmark = pytest.mark.anyio

Pairs: TypeAlias = list[tuple[bytes, bytes]]


def over_http1(connection: Connection) -> None:
    hints = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nlink: </b.js>\r\n\r\n"
    )
    while request := connection.read_request():
        connection.send(hints if b"/hints" in request else b"")
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
        connection.send(b"x-sum: 1\r\nx-sum: 2\r\n\r\n" if b"/hints" in request else b"\r\n")


def over_http2(peer: Peer) -> None:
    asked = 0
    while True:
        stream = peer.request()
        asked += 1
        if asked == 1:
            links = [("link", "</a.css>"), ("link", "</b.js>")]
            for headers in ([(":status", "100")], [(":status", "102")], [(":status", "103"), *links]):
                peer.state.send_headers(stream, headers)
        peer.head(stream)
        if asked == 1:
            peer.data(stream, b"ok")
            peer.state.send_headers(stream, [("x-sum", "1"), ("x-sum", "2")], end_stream=True)
            peer.flush()
        else:
            peer.answer_rest(stream, b"ok")


@pytest.mark.parametrize(
    ("handler", "connect"),
    [
        pytest.param(over_http1, Connect(), id="native"),
        pytest.param(over_http1, Connect(engine="httpcore"), id="httpcore"),
        pytest.param(speak(over_http2), Connect(http1=False, http2=True), id="http2"),
    ],
)
async def test_what_comes_before_a_response_and_behind_it_is_told(
    raw_server: MakeRawServer, handler: Callable[[Connection], None], connect: Connect
) -> None:
    told: list[tuple[int, Pairs]] = []

    def tell(status: int, headers: Pairs) -> None:
        told.append((status, headers))

    transport = AsyncBalancedTransport([raw_server(handler).url], connect=connect)
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        extensions = {"on_informational": tell}
        async with client.stream("GET", "/hints", extensions=extensions) as response:
            assert await response.aread() == b"ok"
            assert trailers_of(response.extensions) == [(b"x-sum", b"1"), (b"x-sum", b"2")]
        assert told == [(102, []), (103, [(b"link", b"</a.css>"), (b"link", b"</b.js>")])]
        async with client.stream("GET", "/") as response:
            assert await response.aread() == b"ok"
            assert trailers_of(response.extensions) == [], "the next response of the connection has none"
        assert len(told) == 2, "nor does who has not asked hear anything"
