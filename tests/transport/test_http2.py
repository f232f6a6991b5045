"""HTTP/2: many requests on one connection, and what one of them may not do to the others."""

from __future__ import annotations

import contextlib
import gc
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import anyio
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import httpcore
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect
from lbclient._async.http2 import HTTP2Connection
from tests.conftest import MakeRawServer, StartServer
from tests.faults.every_await import CancelledAt, Steps
from tests.servers import CertFiles, Connection, Kind
from tests.servers.raw import read_forever, respond

if TYPE_CHECKING:
    import trustme

Settings = dict[h2.settings.SettingCodes, int]
LIMIT = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
FRAME = 16_384


def client(transport: AsyncBalancedTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://orders", **options)


def plain(url: str, **connect: Any) -> AsyncBalancedTransport:
    """HTTP/2 with prior knowledge, so that the tests of frames need no TLS; each attempt by itself."""
    return AsyncBalancedTransport([url], connect=Connect(http1=False, http2=True, **connect), retry=None)


def counts(transport: AsyncBalancedTransport) -> tuple[int, int]:
    (found,) = transport.connections().values()
    return found


def in_flight(transport: AsyncBalancedTransport) -> int:
    return sum(status.in_flight for pool in transport.pools.values() for status in pool.status().backends)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.005)


class FrameServer:
    """A handler for raw servers: speaks HTTP/2, notes what it sees, and answers when it is told to.

    Args:
        settings: What it sends first; h2's own (a limit of 100 streams) when left out. None sends none at all.
        wait: Hold every answer back until `release` is called.
        body: Of every answer; sent as far as the client's windows allow.
    """

    def __init__(self, settings: Settings | None = None, *, wait: bool = False, body: bytes = b"ok") -> None:
        self.settings = settings
        self.wait = wait
        self.body = body
        self.requests = 0
        self.most_at_a_time = 0
        self.resets: list[int] = []
        self.lock = threading.Lock()
        self.connections: list[tuple[Connection, h2.connection.H2Connection]] = []
        self.held: list[tuple[Connection, h2.connection.H2Connection, int]] = []
        self._unsent: dict[tuple[int, int], bytes] = {}

    def __call__(self, connection: Connection) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        state.initiate_connection()
        if self.settings is not None:
            # What h2 has queued announces its own settings: put these in their place.
            state.clear_outbound_data_buffer()
            state.local_settings = h2.settings.Settings(client=False, initial_values=self.settings)
            connection.send(_settings_frame(self.settings))
        with self.lock:
            self.connections.append((connection, state))
        self._flush(connection, state)
        while data := connection.read():
            with self.lock:
                for event in state.receive_data(data):
                    self._on(connection, state, event)
                self._pump(connection, state)
                self._flush(connection, state)

    def _on(self, connection: Connection, state: h2.connection.H2Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.requests += 1
            self.most_at_a_time = max(self.most_at_a_time, state.open_inbound_streams)
        elif isinstance(event, h2.events.StreamEnded):
            assert event.stream_id is not None
            if self.wait:
                self.held.append((connection, state, event.stream_id))
            else:
                self._answer(connection, state, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            assert event.stream_id is not None
            self.resets.append(event.stream_id)
            self._unsent.pop((connection.index, event.stream_id), None)
            self.held = [one for one in self.held if one[2] != event.stream_id or one[0] is not connection]

    def _answer(self, connection: Connection, state: h2.connection.H2Connection, stream: int) -> None:
        if stream not in state.streams or state.streams[stream].closed:
            return  # reset in the same breath
        state.send_headers(stream, [(":status", "200"), ("x-stream", str(stream))])
        self._unsent[connection.index, stream] = self.body

    def _pump(self, connection: Connection, state: h2.connection.H2Connection) -> None:
        for (index, stream), rest in list(self._unsent.items()):
            if index != connection.index:
                continue
            while True:
                size = min(len(rest), FRAME, state.local_flow_control_window(stream))
                if rest and not size:
                    self._unsent[index, stream] = rest
                    break
                part, rest = rest[:size], rest[size:]
                state.send_data(stream, part, end_stream=not rest)
                if not rest:
                    del self._unsent[index, stream]
                    break

    def _flush(self, connection: Connection, state: h2.connection.H2Connection) -> None:
        data = state.data_to_send()
        if data:
            connection.send(data)

    def release(self) -> None:
        """Answer what is held."""
        with self.lock:
            held, self.held = self.held, []
            for connection, state, stream in held:
                with contextlib.suppress(OSError):  # the client has gone
                    self._answer(connection, state, stream)
                    self._pump(connection, state)
                    self._flush(connection, state)

    def tell(self, say: Callable[[h2.connection.H2Connection], None]) -> None:
        """Something that the server says on its own account, on its last connection."""
        with self.lock:
            connection, state = self.connections[-1]
            say(state)
            self._flush(connection, state)


def _settings_frame(settings: Settings) -> bytes:
    body = b"".join(
        int(code).to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in settings.items()
    )
    return len(body).to_bytes(3, "big") + b"\x04\x00" + bytes(4) + body


@pytest.fixture
def h2_context(server_cert: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    server_cert.configure_cert(context)
    return context


@pytest.fixture
def trusting(ca: trustme.CA) -> ssl.SSLContext:
    """A client's context of this test's own: the protocols offered are set on it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@pytest.fixture
def frames() -> Iterator[Callable[..., FrameServer]]:
    made: list[FrameServer] = []

    def make(*args: Any, **options: Any) -> FrameServer:
        made.append(FrameServer(*args, **options))
        return made[-1]

    yield make
    for server in made:
        server.release()


# Real servers


@pytest.mark.parametrize("kind", ["hypercorn", "nginx", "granian"])
async def test_fifty_at_a_time_share_one_connection(
    start_server: StartServer, server_cert_files: CertFiles, trusting: ssl.SSLContext, kind: Kind
) -> None:
    server = start_server(kind, tls=server_cert_files, http2=kind == "nginx")
    transport = AsyncBalancedTransport([server.url], connect=Connect(http2=True, verify=trusting))
    versions: set[str] = set()

    async def ask(http: httpx.AsyncClient) -> None:
        response = await http.get("/whoami")
        assert response.text == server.name
        versions.add(response.http_version)

    async with client(transport) as http:
        for _ in range(3):
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(ask, http)
            assert counts(transport) == (1, 1)
    assert versions == {"HTTP/2"}


async def test_a_server_without_http2_gets_http1(
    start_server: StartServer, server_cert_files: CertFiles, trusting: ssl.SSLContext
) -> None:
    server = start_server("uvicorn", tls=server_cert_files)
    transport = AsyncBalancedTransport([server.url], connect=Connect(http2=True, verify=trusting))
    versions: list[str] = []

    async def ask(http: httpx.AsyncClient) -> None:
        versions.append((await http.get("/slow?seconds=0.05")).http_version)

    async with client(transport) as http, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask, http)
    assert versions == ["HTTP/1.1"] * 10


async def test_prior_knowledge_over_plain_text(start_server: StartServer) -> None:
    server = start_server("hypercorn")
    transport = plain(server.url)
    async with client(transport) as http:
        for _ in range(3):
            response = await http.post("/echo", content=b"x" * 300_000)
            assert (response.http_version, response.json()["length"]) == ("HTTP/2", 300_000)
        assert counts(transport) == (1, 1)


async def test_prior_knowledge_that_is_wrong_fails_before_anything_is_sent(raw_server: MakeRawServer) -> None:
    """So a POST goes to the next backend."""

    def old(connection: Connection) -> None:
        connection.read()
        connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    bad, good = raw_server(old), raw_server(FrameServer())
    transport = AsyncBalancedTransport(
        [bad.url, good.url], algorithm="first", connect=Connect(http1=False, http2=True)
    )
    async with client(transport) as http:
        response = await http.post("/", content=b"once")
        tried = response.extensions["lbclient"].attempts
    assert [attempt.backend for attempt in tried] == [bad.url, good.url]
    assert tried[0].outcome.startswith("connect")
    assert "HTTP/2" in tried[0].outcome


async def test_settings_that_never_come_are_a_connect_timeout(raw_server: MakeRawServer) -> None:
    server = raw_server(read_forever)
    transport = plain(server.url)
    async with client(transport) as http:
        with pytest.raises(httpx.ConnectTimeout, match="SETTINGS"):
            await http.get("/", timeout=0.1)
        assert counts(transport) == (0, 0)
        await until(lambda: server.open == 0)


async def test_cancelled_while_settings_are_waited_for_nothing_stays_open(raw_server: MakeRawServer) -> None:
    server = raw_server(read_forever)
    transport = plain(server.url)
    async with client(transport) as http:
        with anyio.move_on_after(0.1) as scope:
            await http.get("/")
        assert scope.cancelled_caught
        assert counts(transport) == (0, 0)
        await until(lambda: server.open == 0)


async def test_a_server_that_changes_its_mind_between_connections(
    raw_server: MakeRawServer,
    server_ssl_context: ssl.SSLContext,
    h2_context: ssl.SSLContext,
    trusting: ssl.SSLContext,
) -> None:
    """HTTP/1.1, then after an upgrade HTTP/2: its connection is shared, not forgotten one after the other."""
    old = raw_server(respond(close=True), tls=server_ssl_context)
    transport = AsyncBalancedTransport(
        [old.url], connect=Connect(http2=True, verify=trusting, max_connections=2)
    )
    async with client(transport, timeout=5) as http:
        assert (await http.get("/")).http_version == "HTTP/1.1"
        old.stop()
        new = raw_server(FrameServer(), tls=h2_context, port=old.port)
        for _ in range(5):
            assert (await http.get("/")).http_version == "HTTP/2"
        assert counts(transport) == (1, 1)
    assert new.accepted == 1


# The number of streams


async def test_a_server_that_names_no_limit_gets_many_streams(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    """httpcore would send one at a time for as long as the connection lasts."""
    server = frames({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 4096}, wait=True)
    transport = plain(raw_server(server).url)
    async with client(transport) as http, anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(http.get, "/")
        await until(lambda: len(server.held) == 50)
        assert counts(transport) == (1, 0)
        server.release()


async def test_the_limit_of_a_server_opens_further_connections(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    server = frames({LIMIT: 5}, wait=True)
    transport = plain(raw_server(server).url)
    async with client(transport) as http, anyio.create_task_group() as group:
        for _ in range(23):
            group.start_soon(http.get, "/")
        await until(lambda: len(server.held) == 23)
        assert counts(transport) == (5, 0)
        server.release()
    assert server.most_at_a_time == 5


async def test_at_both_limits_requests_wait_for_us_and_not_for_httpcore(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    """At httpcore's own semaphore no timeout would end the wait."""
    server = frames({LIMIT: 5}, wait=True)
    transport = plain(raw_server(server).url, max_connections=2)
    ended: list[str] = []

    async def ask(http: httpx.AsyncClient) -> None:
        try:
            await http.get("/", timeout=httpx.Timeout(10, pool=1.5))
            ended.append("answered")
        except httpx.PoolTimeout:
            ended.append("pool timeout")

    async with client(transport) as http:
        async with anyio.create_task_group() as group:
            for _ in range(15):
                group.start_soon(ask, http)
            await until(lambda: ended == ["pool timeout"] * 5)
            assert len(server.held) == 10
            server.release()
        assert ended == ["pool timeout"] * 5 + ["answered"] * 10
        assert (counts(transport), in_flight(transport)) == ((2, 2), 0)


async def test_who_waits_for_a_stream_gets_it_when_one_ends(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    server = frames({LIMIT: 2})
    transport = plain(raw_server(server).url, max_connections=1)
    async with client(transport) as http:
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(http.get, "/")
        assert counts(transport) == (1, 1)
    assert server.requests == 40
    assert server.most_at_a_time <= 2


# What one request may not do to the others


async def test_a_cancelled_request_is_reset_and_the_connection_goes_on(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    """Unless it is reset it counts against the server's limit until the server is done with it."""
    server = frames({LIMIT: 5}, wait=True)
    raw = raw_server(server)
    transport = plain(raw.url, max_connections=1)
    async with client(transport, timeout=5) as http:
        for _ in range(4):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(http.get, "/")
                await until(lambda: len(server.held) == 5)
                group.cancel_scope.cancel()
            assert (counts(transport), in_flight(transport)) == ((1, 1), 0)
            await until(lambda: not server.held)
        server.wait = False
        assert (await http.get("/")).text == "ok"
    assert len(server.resets) == 20
    assert raw.accepted == 1


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # httpx leaves them so; trio tells
async def test_a_response_that_is_given_up_does_not_eat_the_connections_window(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    """More is thrown away than the window holds (16 MiB), some of it received and some still to come."""
    server = frames(body=b"x" * 3_000_000)
    raw = raw_server(server)
    transport = plain(raw.url)
    async with client(transport, timeout=10) as http:
        for _ in range(12):
            async with http.stream("GET", "/") as response:
                async for _ in response.aiter_raw():
                    break
            assert in_flight(transport) == 0
        assert len((await http.get("/")).content) == 3_000_000
        assert counts(transport) == (1, 1)
    assert raw.accepted == 1


async def test_a_response_that_nobody_looked_into_does_not_eat_the_connections_window(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    """What another request has read in passing was received, and has to be acknowledged when it is thrown away."""
    server = frames(body=b"x" * 3_000_000)
    raw = raw_server(server)
    transport = plain(raw.url)
    async with client(transport, timeout=10) as http:
        for _ in range(8):
            async with http.stream("GET", "/"):
                assert len((await http.get("/")).content) == 3_000_000
        assert counts(transport) == (1, 1)
    assert raw.accepted == 1


async def test_a_read_timeout_is_that_of_one_request(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    server = frames(wait=True)
    raw = raw_server(server)
    transport = plain(raw.url)
    late = "nothing came for this request within 0.1 s"
    ended: list[str] = []

    async def ask(http: httpx.AsyncClient, read: float | None) -> None:
        try:
            await http.get("/", timeout=httpx.Timeout(10, read=read))
            ended.append("answered")
        except httpx.ReadTimeout as exc:
            ended.append(str(exc))

    async with client(transport) as http:
        async with anyio.create_task_group() as group:
            for read in (None, 10, 0.1, 10):  # the first one does the reading, and has no timeout
                group.start_soon(ask, http, read)
            await until(lambda: ended == [late])
            assert counts(transport) == (1, 0)
            await until(lambda: len(server.resets) == 1)
            server.release()
        assert ended == [late] + ["answered"] * 3
    assert raw.accepted == 1


async def test_a_request_cancelled_while_it_writes_breaks_nobody_elses(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    """Its header block is encoded against a table that both sides share: encoded and never sent, nothing after it
    could be decoded."""
    server = frames()
    raw = raw_server(server)
    transport = plain(raw.url)
    async with client(transport, timeout=5) as http:
        await http.get("/")
        for step in range(40):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(_cancel_after, http, step)
            response = await http.get("/", headers={"x-step": str(step)})
            assert response.status_code == 200
    assert raw.accepted == 1


async def _cancel_after(http: httpx.AsyncClient, steps: int) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_quietly_get, http)
        for _ in range(steps):
            await anyio.sleep(0)
        group.cancel_scope.cancel()


async def _quietly_get(http: httpx.AsyncClient) -> None:
    await http.get("/", headers={"x-cancelled": "yes"})


# Ending


@pytest.mark.parametrize("blocked", [False, True], ids=["loop running", "loop blocked"])
@pytest.mark.parametrize("how", ["GOAWAY", "close"])
async def test_an_idle_connection_that_the_server_ended_is_not_used(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer], how: str, blocked: bool
) -> None:
    server = frames()
    raw = raw_server(server)
    transport = plain(raw.url)
    async with client(transport) as http:
        for _ in range(3):
            response = await http.post("/", content=b"once")
            assert len(response.extensions["lbclient"].attempts) == 1
            if how == "GOAWAY":
                server.tell(
                    lambda state: state.close_connection(last_stream_id=state.highest_inbound_stream_id)
                )
            else:
                raw.connections[-1].socket.shutdown(2)
            if blocked:
                time.sleep(0.1)
            else:
                await anyio.sleep(0.1)
        assert counts(transport) == (1, 1)
    assert (raw.accepted, server.requests) == (3, 3)


async def test_what_a_server_says_while_idle_does_not_end_the_connection(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    server = frames({LIMIT: 5})
    raw = raw_server(server)
    transport = plain(raw.url)
    async with client(transport) as http:
        await http.get("/")
        server.tell(lambda state: state.ping(b"are you "))
        server.tell(lambda state: state.update_settings({LIMIT: 2}))
        await anyio.sleep(0.05)
        server.wait = True
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(http.get, "/")
            await until(lambda: len(server.held) == 3)
            assert counts(transport) == (2, 0)  # the new limit is known before it is used
            server.release()
    assert raw.accepted == 2


@pytest.mark.parametrize("when", ["head", "body"])
async def test_frames_that_break_the_protocol_are_the_backends_fault(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer], when: str
) -> None:
    """httpcore would call it a mistake of ours, or let h2's exception through."""
    server = frames(wait=True)
    raw = raw_server(server)
    transport = plain(raw.url)
    caught: list[Exception] = []

    async def ask(http: httpx.AsyncClient) -> None:
        try:
            await http.get("/")
        except Exception as exc:  # noqa: BLE001  # whatever it is
            caught.append(exc)

    def speak(state: h2.connection.H2Connection) -> None:
        connection, _, stream = server.held.pop()
        if when == "body":
            state.send_headers(stream, [(":status", "200")])
            connection.send(state.data_to_send())
        connection.send(b"\x00\x00\x05\x00\x00\x00\x00\x00\x00bytes")  # DATA on stream 0

    async with client(transport) as http:
        async with anyio.create_task_group() as group:
            group.start_soon(ask, http)
            await until(lambda: bool(server.held))
            server.tell(speak)
        assert counts(transport) == (0, 0)
    assert [type(exc) for exc in caught] == [httpx.RemoteProtocolError]
    (status,) = transport.pools["default"].status().backends
    assert status.failures == 1


async def test_idle_connections_expire(raw_server: MakeRawServer) -> None:
    raw = raw_server(FrameServer())
    transport = plain(raw.url, keepalive_expiry=0.05)
    async with client(transport) as http:
        await http.get("/")
        await anyio.sleep(0.15)
        await http.get("/")
        assert counts(transport) == (1, 1)
    assert raw.accepted == 2


async def test_a_connection_on_which_a_request_was_cancelled_expires_too(raw_server: MakeRawServer) -> None:
    """Cancelled at one of its locks, httpcore's connection would take itself for active for ever."""
    raw = raw_server(FrameServer())
    transport = plain(raw.url, keepalive_expiry=0.05)
    cancelled, k = True, 0
    async with client(transport) as http:
        while cancelled:
            k += 1
            await http.get("/")
            with anyio.CancelScope() as scope:
                await CancelledAt(http.get("/"), Steps(scope, k))
            cancelled = scope.cancelled_caught
            await anyio.sleep(0.1)
            accepted = raw.accepted
            await http.get("/")
            assert raw.accepted == accepted + 1, k
            assert counts(transport) == (1, 1)
    assert k > 1


def drop(responses: list[httpx.Response]) -> None:
    responses.clear()
    gc.collect()


async def test_a_response_dropped_without_close_breaks_nobody_elses(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    server = frames()
    raw = raw_server(server)
    transport = plain(raw.url)
    answers: list[str] = []

    async def ask(http: httpx.AsyncClient) -> None:
        answers.append((await http.get("/")).text)

    async with client(transport) as http:
        dropped = [await http.send(http.build_request("GET", "/"), stream=True)]
        server.wait = True
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask, http)
            await until(lambda: len(server.held) == 3)
            with pytest.warns(ResourceWarning, match="was never closed"):
                drop(dropped)
            assert in_flight(transport) == 3
            server.wait = False
            group.start_soon(ask, http)  # elsewhere: the stream of the dropped one is still open
            await until(lambda: answers == ["ok"])
            server.release()
        assert answers == ["ok"] * 4
        assert (raw.accepted, counts(transport)) == (2, (1, 1))


async def test_closing_ends_those_in_flight(
    raw_server: MakeRawServer, frames: Callable[..., FrameServer]
) -> None:
    server = frames(wait=True)
    raw = raw_server(server)
    transport = plain(raw.url)
    failed: list[Exception] = []

    async def ask(http: httpx.AsyncClient) -> None:
        try:
            await http.get("/")
        except httpx.HTTPError as exc:
            failed.append(exc)

    async with client(transport) as http, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask, http)
        await until(lambda: len(server.held) == 5)
        await transport.aclose()
    assert len(failed) == 5
    assert {type(exc) for exc in failed} <= {httpx.ReadError, httpx.WriteError}
    assert in_flight(transport) == 0
    server.held.clear()
    await until(lambda: raw.open == 0)


async def test_a_dead_backend_does_not_make_those_who_gathered_try_one_after_the_other(
    raw_server: MakeRawServer,
) -> None:
    """They wait for the first connection, which might have room for all. When it fails they all try at once."""
    raw = raw_server(read_forever)
    transport = plain(raw.url)
    failed: list[str] = []

    async def ask(http: httpx.AsyncClient) -> None:
        try:
            await http.get("/", timeout=httpx.Timeout(10, connect=0.3))
        except httpx.HTTPError as exc:
            failed.append(type(exc).__name__)

    async with client(transport) as http:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for _ in range(30):
                    group.start_soon(ask, http)
    assert failed == ["ConnectTimeout"] * 30


def test_what_is_used_of_httpcores_private_parts_is_there() -> None:
    """`HTTP2Connection` overrides and reads these: a new httpcore without them would silently go its own way."""
    for name in (
        "_send_connection_init",
        "_receive_stream_event",
        "_receive_response_body",
        "_send_request_headers",
        "_send_request_body",
        "_send_stream_data",
        "_send_end_stream",
        "_wait_for_outgoing_flow",
        "_read_incoming_data",
        "_write_outgoing_data",
        "_response_closed",
    ):
        assert name in vars(httpcore.AsyncHTTP2Connection), name
    assert "_receive_goaway_frame" in vars(h2.connection.H2Connection)
    connection = httpcore.AsyncHTTP2Connection(
        httpcore.Origin(b"http", b"a", 1), httpcore.AsyncMockStream([])
    )
    for name in (
        "_h2_state",
        "_events",
        "_network_stream",
        "_read_lock",
        "_write_lock",
        "_sent_connection_init",
        "_connection_error",
        "_read_exception",
        "_write_exception",
    ):
        assert name in vars(connection), name
    assert (
        HTTP2Connection(httpcore.Origin(b"http", b"a", 1), httpcore.AsyncMockStream([])).stream_limit == 100
    )
