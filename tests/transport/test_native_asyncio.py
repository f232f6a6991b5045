"""The native engine on asyncio and uvloop: what only it can do, and what its connection makes of what the loop says."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from lbclient import AsyncBalancedTransport
from lbclient._async.http11 import Lines, Outgoing
from lbclient._async.http11_connection import Body
from lbclient._async.native_connection import MOST_EARLY, NativeConnection
from tests.conftest import MakeRawServer
from tests.servers import Connection
from tests.servers.raw import respond
from tests.transport.test_native import OK, TOO_LARGE, client, connections_of, echo_as_it_comes, parts


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Where it runs."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


# Timers


async def test_timeouts_of_requests_in_turn_share_a_timer_and_each_one_holds(
    raw_server: MakeRawServer,
) -> None:
    def slow(connection: Connection) -> None:
        for seconds in (0.0, 0.0, 0.3, 2.0):
            connection.read_request()
            time.sleep(seconds)
            connection.send(OK)

    server = raw_server(slow)
    async with client(server.url) as http:
        await http.get("/", timeout=5)
        (connection,) = connections_of(http)
        assert isinstance(connection, NativeConnection)
        timer = connection._timer
        assert timer is not None
        await http.get("/", timeout=5)
        assert connection._timer is timer
        await http.get("/", timeout=None)
        started = time.monotonic()
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/", timeout=0.1)
        assert time.monotonic() - started < 1.9
        assert connection._timer is None


async def test_a_timer_that_goes_off_early_is_set_again(raw_server: MakeRawServer) -> None:
    server = raw_server(respond(delay=0.15))
    async with client(server.url) as http:
        await http.get("/", timeout=0.2)
        await http.get("/", timeout=0.6)  # the timer of the first one goes off in between
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/", timeout=0.1)


# What the loop says


class Wire(asyncio.Transport):
    """A transport on which nothing happens but what the test says."""

    def __init__(self, **extra: Any) -> None:
        super().__init__(extra)
        self.aborted = False
        self.sent = b""

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0


def on_a_wire(**extra: Any) -> tuple[NativeConnection, Wire]:
    connection, wire = NativeConnection(asyncio.get_running_loop()), Wire(**extra)
    connection.connection_made(wire)
    return connection, wire


def may_be_used_again(connection: NativeConnection) -> bool:
    return connection.reusable


def outgoing(method: bytes = b"GET") -> Outgoing:
    return Outgoing(method, b"/", Lines([(b"Host", b"a")]))


async def test_what_came_before_the_request_answers_it_and_ends_the_connection() -> None:
    connection, _ = on_a_wire()
    connection.data_received(OK[:5])
    connection.data_received(OK[5:])
    connection.send_head(outgoing())
    assert (await connection.receive(1)).status == 200
    assert not may_be_used_again(connection)


async def test_a_flood_before_the_request_is_not_kept() -> None:
    connection, wire = on_a_wire()
    connection.data_received(b"x" * MOST_EARLY)
    assert not wire.is_closing()
    connection.data_received(b"x")
    assert wire.is_closing()
    with pytest.raises(httpcore.RemoteProtocolError, match="Server disconnected"):
        connection.send_head(outgoing())
    assert wire.sent == b""


async def test_what_comes_between_requests_ends_the_connection() -> None:
    connection, wire = on_a_wire()
    await connection.send(outgoing(), httpx.ByteStream(b""), None)
    connection.data_received(OK)
    assert await anext(Body(connection, None)) == b"ok"
    assert may_be_used_again(connection)
    connection.data_received(b"x")
    assert wire.is_closing()
    assert not may_be_used_again(connection)


async def test_unread_bytes_of_a_response_bar_the_next_request() -> None:
    connection, _ = on_a_wire()
    await connection.send(outgoing(), httpx.ByteStream(b""), None)
    connection.data_received(OK)
    assert not may_be_used_again(connection)


async def test_a_request_that_has_not_been_sent_whole_bars_the_next_one() -> None:
    connection, _ = on_a_wire()
    connection.send_head(outgoing())
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert not may_be_used_again(connection)
    await connection.send_body(outgoing(), parts(), None)
    await connection.all_sent()
    assert may_be_used_again(connection)
    connection.pause_writing()
    assert not may_be_used_again(connection)


async def test_what_is_no_http_ends_the_sending_of_a_body_with_an_error_and_no_cancellation() -> None:
    connection, _ = on_a_wire()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await anyio.sleep_forever()

    asyncio.get_running_loop().call_later(0.01, connection.data_received, b"nonsense\r\n")
    lines = Lines([(b"Host", b"a"), (b"Transfer-Encoding", b"chunked")])
    await connection.send(Outgoing(b"POST", b"/", lines), body(), None)
    with pytest.raises(httpcore.RemoteProtocolError):
        await connection.receive(1)


async def test_what_the_kernel_still_has_is_looked_at_when_a_write_fails() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        connection, _ = on_a_wire(socket=ours)
        connection.send_head(outgoing(b"POST"))
        theirs.send(TOO_LARGE)
        connection.connection_lost(BrokenPipeError(32, "broken pipe"))
        assert (await connection.receive(1)).status == 413
        assert not may_be_used_again(connection)
        connection, _ = on_a_wire(socket=ours)
        connection.send_head(outgoing(b"POST"))
        connection.connection_lost(BrokenPipeError(32, "broken pipe"))
        with pytest.raises(httpcore.ReadError, match="broken pipe"):
            await connection.receive(1)


# While a response is read


async def test_a_response_can_be_had_before_the_request_goes_on(raw_server: MakeRawServer) -> None:
    answered = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        await answered.wait()
        yield b"def"

    with anyio.fail_after(20):
        async with (
            client(raw_server(echo_as_it_comes).url) as http,
            http.stream("POST", "/", content=body(), headers={"content-length": "6"}) as response,
        ):
            parts_read = response.aiter_raw()
            assert await anext(parts_read) == b"abc"
            answered.set()
            assert await anext(parts_read) == b"def"


async def test_a_body_that_fails_while_its_response_is_read_fails_the_response(
    raw_server: MakeRawServer,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        await answered.wait()
        raise ZeroDivisionError

    answered = anyio.Event()
    backend = raw_server(echo_as_it_comes)
    async with client(backend.url) as http:
        async with http.stream("POST", "/", content=body(), headers={"content-length": "6"}) as response:
            answered.set()
            with pytest.raises(ZeroDivisionError):
                await response.aread()
        (status,) = http._transport.pools["default"].status().backends  # type: ignore[attr-defined]
        assert (status.in_flight, status.failures) == (0, 0), "and that is not the server's fault"
    assert backend.wait_until(lambda server: server.open == 0)


async def test_a_response_that_is_closed_ends_its_request(raw_server: MakeRawServer) -> None:
    ended = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            await anyio.sleep_forever()
        finally:
            ended.set()

    backend = raw_server(echo_as_it_comes)
    with anyio.fail_after(20):
        async with client(backend.url) as http:
            async with http.stream("POST", "/", content=body(), headers={"content-length": "6"}):
                pass
            await ended.wait()
            assert backend.wait_until(lambda server: server.open == 0)


# Nothing was written


async def test_what_met_a_lost_connection_before_a_byte_was_written_goes_over_another_one(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = raw_server([respond(close=True), respond()])
    monkeypatch.setattr(NativeConnection, "dead", False)  # it dies a moment after it was looked at
    transport = AsyncBalancedTransport([server.url])
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
        await http.get("/")
        (connection,) = connections_of(http)
        while not connection._over:
            await anyio.sleep(0.01)
        response = await http.post("/", content=b"x")
    assert [attempt.outcome.partition(" ")[0] for attempt in response.extensions["lbclient"].attempts] == [
        "stale",
        "200",
    ]
    assert len(server.requests) == 2
