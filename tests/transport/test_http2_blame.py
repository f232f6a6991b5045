"""What the end of an HTTP/2 request proves, row by row, and that a GOAWAY ends nothing that it leaves in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpcore
import httpx
import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, SettingsAcknowledged, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hyperframe.frame import ContinuationFrame, GoAwayFrame, HeadersFrame
from tenacity import stop_after_attempt

from lbclient import AsyncBalancedTransport, Connect, Retry
from lbclient._async.engine import HttpcoreEngine
from lbclient._async.http2 import GoingAway, HTTP2Connection, NotProcessed
from lbclient._async.httpcore_connection import HttpcoreConnection
from lbclient._async.network import open_stream
from lbclient.core.backend import Backend
from tests.conftest import MakeRawServer
from tests.servers.raw_h2 import ClientClosed, Peer, speak

WINDOW = 65_535  # of a new connection, until the server enlarges it


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[HTTP2Connection]:
    host, port = url.removeprefix("http://").split(":")
    stream = await open_stream(Backend(url), ssl_context=None, timeout=5)
    connection = HTTP2Connection(httpcore.Origin(b"http", host.encode(), int(port)), stream)
    try:
        await connection.start(5)
        yield connection
    finally:
        await connection.aclose()


def get(url: str, **timeouts: float) -> httpcore.Request:
    return httpcore.Request(
        "GET", f"{url}/", headers={"host": "orders"}, extensions={"timeout": {"read": 10, **timeouts}}
    )


def post(url: str, content: Any = b"once", **timeouts: float) -> httpcore.Request:
    return httpcore.Request(
        "POST",
        f"{url}/",
        headers={"host": "orders", "transfer-encoding": "chunked"},
        content=content,
        extensions={"timeout": {"read": 10, **timeouts}},
    )


class Parts:
    """A body that can be read once, and knows whether it was."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            self.read += 1
            yield part


class Asked:
    """A request under way in a task of its own, and how it ended."""

    def __init__(self, connection: HTTP2Connection, request: httpcore.Request) -> None:
        self.connection = connection
        self.request = request
        self.status: int | None = None
        self.body: bytes | None = None
        self.failed: Exception | None = None

    async def __call__(self) -> None:
        try:
            response = await self.connection.handle_async_request(self.request)
            self.status = response.status
            self.body = await response.aread()
            await response.aclose()
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is what the test asks for
            self.failed = exc

    @property
    def sent(self) -> bool:
        return self.connection.sent(self.request)


async def ask(url: str, *requests: httpcore.Request) -> list[Asked]:
    """Send them one after the other over one connection, each when the one before has gone out."""
    async with connected(url) as connection:
        asked = [Asked(connection, request) for request in requests]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for one in asked:
                    group.start_soon(one)
                    await until(lambda one=one: one.sent or one.failed)  # type: ignore[misc]
    return asked


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.002)


def plain(failure: Exception | None) -> bool:
    """The backend's fault, and no promise."""
    return isinstance(failure, (httpcore.RemoteProtocolError, httpcore.ReadError)) and not isinstance(
        failure, (NotProcessed, GoingAway)
    )


# GOAWAY, and what it leaves in


@pytest.mark.parametrize("code", [ErrorCodes.NO_ERROR, ErrorCodes.ENHANCE_YOUR_CALM])
@pytest.mark.parametrize("make", [get, post])
async def test_what_a_goaway_leaves_in_is_answered(
    raw_server: MakeRawServer, make: Callable[[str], httpcore.Request], code: int
) -> None:
    def script(peer: Peer) -> None:
        first, second = peer.request(), peer.request()
        peer.goaway(second, code)
        peer.answer(second, b"second")
        peer.head(first)
        peer.data(first, b"fir")
        peer.goaway(second, code)
        peer.answer_rest(first, b"st")
        peer.wait_until_closed()

    url = raw_server(speak(script)).url
    first, second = await ask(url, make(url), make(url))
    assert (first.body, second.body) == (b"first", b"second")


async def test_bodies_go_on_both_ways_after_a_goaway(raw_server: MakeRawServer) -> None:
    """More than the windows hold, so that both sides have to go on speaking."""

    def script(peer: Peer) -> None:
        stream = peer.headers()
        peer.goaway(stream)
        peer.wait_for(StreamEnded, stream)
        size = sum(event.flow_controlled_length or 0 for event in peer.of(DataReceived))
        peer.answer(stream, str(size).encode())
        peer.wait_until_closed()

    url = raw_server(speak(script)).url
    (asked,) = await ask(url, post(url, b"x" * (4 * WINDOW)))
    assert asked.body == str(4 * WINDOW).encode()


async def test_a_goaway_in_pieces_and_one_with_the_answer_behind_it(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        stream = peer.request()
        for byte in GoAwayFrame(0, last_stream_id=stream, additional_data=b"reload").serialize():
            peer.connection.send(bytes([byte]))
        peer.state.send_headers(stream, [(":status", "200")], end_stream=True)
        again = GoAwayFrame(0, last_stream_id=stream).serialize()
        peer.connection.send(again + peer.state.data_to_send() + again)

    url = raw_server(speak(script)).url
    (asked,) = await ask(url, get(url))
    assert (asked.status, asked.failed) == (200, None)


async def test_of_two_goaways_the_second_draws_the_line(raw_server: MakeRawServer) -> None:
    """A graceful server first forbids new streams, and says how far it got when those underway have come in."""

    def script(peer: Peer) -> None:
        first, second = peer.request(), peer.request()
        peer.goaway()
        peer.goaway(first)
        peer.goaway(second)  # may not go up again
        peer.answer(first)
        peer.wait_until_closed()

    url = raw_server(speak(script)).url
    first, second = await ask(url, get(url), post(url))
    assert first.body == b"ok"
    assert isinstance(second.failed, NotProcessed)


async def test_a_goaway_inside_a_header_block_breaks_the_protocol(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        stream = peer.request()
        block = peer.state.encoder.encode([(":status", "200")])
        peer.send(
            HeadersFrame(stream, block[:1]),
            GoAwayFrame(0, last_stream_id=stream),
            ContinuationFrame(stream, block[1:], flags=["END_HEADERS"]),
        )
        peer.wait_until_closed()

    url = raw_server(speak(script)).url
    (asked,) = await ask(url, get(url))
    assert plain(asked.failed)


async def test_after_a_goaway_nothing_new_is_sent_and_no_body_is_read(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        stream = peer.request()
        peer.goaway()
        peer.head(stream)
        answer_now.wait(10)
        peer.answer_rest(stream, b"ok")
        peer.wait_until_closed()

    answer_now = threading.Event()
    peers: list[Peer] = []
    url = raw_server(speak(script, peers=peers)).url
    body = Parts(b"once")
    async with connected(url) as connection:
        response = await connection.handle_async_request(get(url))
        refused = post(url, body)
        with pytest.raises(httpcore.ConnectionNotAvailable):
            await connection.handle_async_request(refused)
        assert not connection.sent(refused)
        assert not connection.is_available()
        answer_now.set()
        assert await response.aread() == b"ok"
    assert body.read == 0
    assert len(peers[0].of(RequestReceived)) == 1


# GOAWAY, and what it leaves out


@pytest.mark.parametrize(
    "code", [ErrorCodes.NO_ERROR, ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.INTERNAL_ERROR]
)
@pytest.mark.parametrize("make", [get, post])
async def test_above_the_last_stream_nothing_was_processed(
    raw_server: MakeRawServer, make: Callable[[str], httpcore.Request], code: int
) -> None:
    def script(peer: Peer) -> None:
        first, _ = peer.request(), peer.request()
        peer.goaway(first, code)
        peer.answer(first)
        peer.wait_until_closed()

    peers: list[Peer] = []
    url = raw_server(speak(script, peers=peers)).url
    first, second = await ask(url, make(url), make(url))
    assert first.body == b"ok"
    assert isinstance(second.failed, NotProcessed)
    assert second.sent
    assert not peers[0].of(StreamReset)  # h2's own servers take it for a breach of the protocol


async def test_what_is_left_out_while_its_body_waits_for_room_ends_at_once(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        first = peer.request()
        peer.headers()
        peer.goaway(first)
        peer.answer(first)
        peer.wait_until_closed()

    url = raw_server(speak(script, reads_bodies=False)).url
    body = Parts(*[b"x" * WINDOW] * 10)
    _, second = await ask(url, get(url), post(url, body, write=10))
    assert isinstance(second.failed, NotProcessed)
    assert body.read <= 3


async def test_what_is_left_out_before_its_body_is_begun_goes_elsewhere_with_all_of_it(
    raw_server: MakeRawServer,
) -> None:
    """Its headers wait behind what another one writes, which reads of the GOAWAY meanwhile."""

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        first = peer.request()
        leave.wait(10)
        peer.goaway(first)
        peer.headers()
        peer.answer(first)
        peer.wait_until_closed()

    leave = threading.Event()
    url = raw_server(speak(script)).url
    body = Parts(b"once")
    async with connected(url) as connection, anyio.create_task_group() as group:
        await Asked(connection, get(url))()  # so the server's settings are acknowledged, which takes the lock
        first, second = Asked(connection, get(url)), Asked(connection, post(url, body))
        group.start_soon(first)
        await until(lambda: first.sent)
        async with connection._write_lock:
            group.start_soon(second)
            await until(lambda: connection._queued)
            leave.set()
            await until(lambda: not connection.is_available())
        await until(lambda: first.body and second.failed)
    assert isinstance(second.failed, NotProcessed)
    assert body.read == 0


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_left_in_and_then_not_answered_is_nobodys_fault(raw_server: MakeRawServer, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.goaway(peer.request())
        end(peer, how)

    url = raw_server(speak(script)).url
    (asked,) = await ask(url, post(url))
    assert isinstance(asked.failed, GoingAway)
    assert asked.sent


async def test_left_in_and_then_not_answered_because_of_an_error_is_the_backends(
    raw_server: MakeRawServer,
) -> None:
    def script(peer: Peer) -> None:
        peer.goaway(peer.request(), ErrorCodes.INTERNAL_ERROR)
        end(peer, "FIN")

    url = raw_server(speak(script)).url
    (asked,) = await ask(url, get(url))
    assert plain(asked.failed)
    assert "INTERNAL_ERROR (2)" in str(asked.failed)


def end(peer: Peer, how: str) -> None:
    peer.pause()  # a RST overtakes bytes the client has not read: let them arrive
    if how == "RST":
        peer.connection.reset()
    else:
        peer.connection.fin()


# Other ends


async def test_refused_was_not_processed_and_the_connection_goes_on(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        peer.reset(peer.request(), ErrorCodes.REFUSED_STREAM)
        peer.answer(peer.request())
        peer.wait_until_closed()

    url = raw_server(speak(script)).url
    async with connected(url) as connection:
        with pytest.raises(NotProcessed, match="REFUSED_STREAM"):
            await connection.handle_async_request(post(url))
        assert (await connection.handle_async_request(get(url))).status == 200


async def test_refused_while_its_body_waits_for_room(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        peer.reset(peer.headers(), ErrorCodes.REFUSED_STREAM)
        peer.wait_until_closed()

    url = raw_server(speak(script, reads_bodies=False)).url
    (asked,) = await ask(url, post(url, b"x" * (3 * WINDOW), write=10))
    assert isinstance(asked.failed, NotProcessed)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (ErrorCodes.INTERNAL_ERROR, "INTERNAL_ERROR"),
        (ErrorCodes.CANCEL, "CANCEL"),
        (ErrorCodes.ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM"),
        (ErrorCodes.HTTP_1_1_REQUIRED, "HTTP_1_1_REQUIRED"),
        (0x99, "error code 153"),
    ],
)
async def test_a_reset_is_the_backends_fault_and_is_named(
    raw_server: MakeRawServer, code: int, name: str
) -> None:
    def script(peer: Peer) -> None:
        peer.reset(peer.request(), code)
        peer.answer(peer.request())
        peer.wait_until_closed()

    url = raw_server(speak(script)).url
    async with connected(url) as connection:
        with pytest.raises(httpcore.RemoteProtocolError, match=name) as caught:
            await connection.handle_async_request(get(url))
        assert plain(caught.value)
        assert (await connection.handle_async_request(get(url))).status == 200


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_closed_before_headers_is_the_backends_fault(raw_server: MakeRawServer, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.request()
        end(peer, how)

    url = raw_server(speak(script)).url
    for asked in await ask(url, get(url), post(url)):
        assert plain(asked.failed)
        assert asked.sent


@pytest.mark.parametrize("how", ["FIN", "RST", "GOAWAY", "GOAWAY below", "REFUSED_STREAM", "INTERNAL_ERROR"])
async def test_what_ends_a_body_promises_nothing(raw_server: MakeRawServer, how: str) -> None:
    """Whatever the server says: its answer has been handed out."""

    def script(peer: Peer) -> None:
        stream = peer.request()
        peer.head(stream)
        peer.data(stream, b"half ")
        if how.endswith(("_STREAM", "_ERROR")):
            peer.reset(stream, ErrorCodes[how])
            peer.wait_until_closed()
        elif how.startswith("GOAWAY"):
            peer.goaway(0 if "below" in how else stream)
        end(peer, how)

    url = raw_server(speak(script)).url
    (asked,) = await ask(url, get(url))
    assert asked.status == 200
    assert asked.body is None
    assert plain(asked.failed)


# The request's body


@pytest.mark.parametrize("resets", [True, False])
async def test_an_answer_that_comes_before_the_whole_body_is_returned(
    raw_server: MakeRawServer, resets: bool
) -> None:
    """413: no more of the body is wanted, and no room will be made for it."""

    def script(peer: Peer) -> None:
        stream = peer.headers()
        peer.answer(stream, b"too much", 413)
        if resets:
            peer.reset(stream, ErrorCodes.NO_ERROR)
        else:
            peer.wait_for(StreamReset, stream)
        peer.answer(peer.request())
        peer.wait_until_closed()

    url = raw_server(speak(script, reads_bodies=False)).url
    body = Parts(*[b"x" * WINDOW] * 10)
    async with connected(url) as connection:
        asked = Asked(connection, post(url, body, write=10))
        await asked()
        assert (asked.status, asked.body) == (413, b"too much")
        assert body.read <= 2
        assert (await connection.handle_async_request(get(url))).status == 200


async def test_room_that_another_one_read_of_is_noticed(raw_server: MakeRawServer) -> None:
    """Both wait for the same socket, and only one of them gets to read."""

    def script(peer: Peer) -> None:
        first = peer.request()
        second = peer.headers()
        peer.pause()
        for _ in range(3):
            peer.state.increment_flow_control_window(WINDOW)
            peer.state.increment_flow_control_window(WINDOW, second)
        peer.flush()
        peer.wait_for(StreamEnded, second)
        peer.answer(first)
        peer.answer(second)
        peer.wait_until_closed()

    url = raw_server(speak(script, reads_bodies=False)).url
    first, second = await ask(url, get(url), post(url, b"x" * (3 * WINDOW), write=5))
    assert (first.body, second.body) == (b"ok", b"ok")


async def test_a_window_that_shrinks_below_nothing_is_waited_for(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        stream = peer.headers()
        peer.wait_for(SettingsAcknowledged)  # the first ones
        peer.wait_for(DataReceived)
        peer.state.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        peer.state.increment_flow_control_window(10 * WINDOW)
        peer.flush()
        peer.wait_for(SettingsAcknowledged)
        peer.state.increment_flow_control_window(3 * WINDOW, stream)
        peer.flush()
        peer.wait_for(StreamEnded, stream)
        size = sum(len(event.data or b"") for event in peer.of(DataReceived))
        peer.answer(stream, str(size).encode())
        peer.wait_until_closed()

    url = raw_server(speak(script, reads_bodies=False)).url
    (asked,) = await ask(url, post(url, b"x" * (3 * WINDOW), write=5))
    assert asked.body == str(3 * WINDOW).encode()


async def test_room_that_never_comes_is_a_write_timeout(raw_server: MakeRawServer) -> None:
    url = raw_server(speak(lambda peer: peer.wait_until_closed(), reads_bodies=False)).url
    (asked,) = await ask(url, post(url, b"x" * (3 * WINDOW), write=0.1))
    assert isinstance(asked.failed, httpcore.WriteTimeout)


# What was sent


async def test_without_a_stream_nothing_is_sent_and_no_body_is_read(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        stream = peer.request()
        peer.state.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        peer.head(stream)
        peer.wait_until_closed()

    peers: list[Peer] = []
    url = raw_server(speak(script, peers=peers)).url
    body = Parts(b"once")
    async with connected(url) as connection:
        await connection.handle_async_request(get(url))
        await until(lambda: connection.stream_limit == 1)
        refused = post(url, body)
        with pytest.raises(httpcore.ConnectionNotAvailable):
            await connection.handle_async_request(refused)
        assert not connection.sent(refused)
        assert connection.is_available()
    assert body.read == 0
    assert len(peers[0].of(RequestReceived)) == 1


@pytest.mark.parametrize("fails", [True, False])
async def test_who_waits_for_the_others_to_write_has_sent_nothing(
    raw_server: MakeRawServer, fails: bool
) -> None:
    """Theirs may go out all the while: bytes on the connection are no proof."""

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.answer(peer.request())
        peer.wait_until_closed()

    url = raw_server(speak(script)).url
    body = Parts(b"once")
    async with connected(url) as connection:
        await Asked(connection, get(url))()  # what has to be acknowledged is
        asked = Asked(connection, post(url, body))
        async with anyio.create_task_group() as group, connection._write_lock:
            group.start_soon(asked)
            await until(lambda: connection._h2_state.open_outbound_streams)
            await anyio.sleep(0.02)
            assert not asked.sent
            if fails:
                connection._write_exception = httpcore.WriteError("broken by another request")
    assert asked.sent is not fails
    assert body.read == (0 if fails else 1)
    assert isinstance(asked.failed, httpcore.WriteError) if fails else asked.body == b"ok"


async def test_what_was_handed_over_counts_as_sent_when_the_write_fails(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of it may have gone out. And from then on the connection takes nothing new."""

    async def fail(buffer: bytes, timeout: float | None = None) -> None:
        raise httpcore.WriteError("broken pipe")

    url = raw_server(speak(Peer.wait_until_closed)).url
    async with connected(url) as connection:
        monkeypatch.setattr(connection._network_stream, "write", fail)
        first, second = post(url), post(url)
        with pytest.raises(httpcore.WriteError):
            await connection.handle_async_request(first)
        with pytest.raises(httpcore.ConnectionNotAvailable):
            await connection.handle_async_request(second)
        assert (connection.sent(first), connection.sent(second)) == (True, False)


async def test_an_answer_is_read_to_its_end_though_nothing_can_be_written_any_more(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has answered and closed takes no acknowledgements."""

    def script(peer: Peer) -> None:
        stream = peer.request()
        peer.head(stream)
        broken.wait(10)
        for _ in range(3):
            peer.data(stream, b"x" * 16_000)
        peer.state.ping(b"are you ")
        peer.answer_rest(stream, b"x" * 2_000)

    async def fail(buffer: bytes, timeout: float | None = None) -> None:
        raise httpcore.WriteError("broken pipe")

    broken = threading.Event()
    url = raw_server(speak(script)).url
    async with connected(url) as connection:
        response = await connection.handle_async_request(get(url))
        monkeypatch.setattr(connection._network_stream, "write", fail)
        broken.set()
        assert await response.aread() == b"x" * 50_000
        await response.aclose()
        assert not connection.is_available()


async def test_headers_that_may_not_be_sent_were_not_and_cost_only_new_streams(
    raw_server: MakeRawServer,
) -> None:
    """Some of them may be in the table of the compression by then, and never in the server's."""

    def script(peer: Peer) -> None:
        stream = peer.request()
        answer_now.wait(10)
        peer.state.ping(b"are you ")  # so that something is written
        peer.answer(stream)
        peer.wait_until_closed()

    answer_now = threading.Event()
    peers: list[Peer] = []
    url = raw_server(speak(script, peers=peers)).url
    async with connected(url) as connection, anyio.create_task_group() as group:
        asked = Asked(connection, get(url))
        group.start_soon(asked)
        await until(lambda: asked.sent)
        bad = post(url)
        bad.headers += [(b"x-good", b"1"), (b":late", b"pseudo")]
        with pytest.raises(httpcore.LocalProtocolError):
            await connection.handle_async_request(bad)
        assert not connection.sent(bad)
        assert not connection.is_available()
        answer_now.set()
        await until(lambda: asked.body == b"ok")
        assert not connection.sent(bad)
    assert not peers[0].of(StreamReset)


@pytest.mark.parametrize("how", ["FIN", "GOAWAY", "no streams"])
async def test_a_new_connection_that_takes_no_request_is_a_failure_to_connect(
    raw_server: MakeRawServer, how: str
) -> None:
    """Any method goes elsewhere; and nobody opens one connection after the other to the same end."""

    def script(peer: Peer) -> None:
        if how == "GOAWAY":
            peer.goaway(0)
        if how != "FIN":
            peer.wait_until_closed()

    limit = {SettingCodes.MAX_CONCURRENT_STREAMS: 0 if how == "no streams" else 10}
    url = raw_server(speak(script, limit)).url
    first, second = post(url), post(url)
    async with connected(url) as connection:
        await anyio.sleep(0.1)
        with pytest.raises(httpcore.ConnectError):
            await connection.handle_async_request(first)
        with pytest.raises(httpcore.ConnectionNotAvailable):  # who was to share it looks for another one
            await connection.handle_async_request(second)
        assert not connection.sent(first)
        assert not connection.sent(second)


async def test_a_server_that_allows_no_streams_is_not_asked_again_and_again(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(speak(Peer.wait_until_closed, {SettingCodes.MAX_CONCURRENT_STREAMS: 0}))
    async with client(server.url, retry=None) as http:
        with pytest.raises(httpx.ConnectError):
            await http.post("/", content=b"once", timeout=5)
    assert server.accepted == 1


# Through the transport


def client(url: str, **options: Any) -> httpx.AsyncClient:
    transport = AsyncBalancedTransport([url], connect=Connect(http1=False, http2=True), **options)
    return httpx.AsyncClient(transport=transport, base_url="http://orders")


async def test_a_connection_that_goes_away_serves_out_and_is_closed(raw_server: MakeRawServer) -> None:
    """The next request opens another one meanwhile, and nobody notices anything."""

    def leaving(peer: Peer) -> None:
        streams = [peer.request() for _ in range(3)]
        peer.goaway(streams[-1])
        gone.set()
        answer_now.wait(10)
        for stream in streams:
            peer.answer(stream)
        peer.wait_until_closed()
        closed.set()

    def staying(peer: Peer) -> None:
        with contextlib.suppress(ClientClosed):
            while True:
                peer.answer(peer.request(), b"new")

    gone, answer_now, closed = threading.Event(), threading.Event(), threading.Event()
    server = raw_server([speak(leaving), speak(staying)])
    answers: list[str] = []

    async def send(http: httpx.AsyncClient) -> None:
        response = await http.post("/", content=b"once")
        assert len(response.extensions["lbclient"].attempts) == 1
        answers.append(response.text)

    async with client(server.url) as http:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(send, http)
            await until(gone.is_set)
            await anyio.sleep(0.05)
            group.start_soon(send, http)
            await until(lambda: answers == ["new"])
            answer_now.set()
        await until(closed.is_set)
        assert sorted(answers) == ["new", "ok", "ok", "ok"]
        await until(lambda: server.open == 1)


@pytest.mark.parametrize(
    ("how", "again"), [("GOAWAY below", True), ("REFUSED_STREAM", True), ("GOAWAY", False)]
)
async def test_a_post_goes_elsewhere_only_when_the_server_says_that_it_did_not_process_it(
    raw_server: MakeRawServer, how: str, again: bool
) -> None:
    def leaving(peer: Peer) -> None:
        stream = peer.request()
        if how == "REFUSED_STREAM":
            peer.reset(stream, ErrorCodes.REFUSED_STREAM)
        else:
            peer.goaway(0 if "below" in how else stream)

    one, other = (
        raw_server(speak(leaving)),
        raw_server(speak(lambda peer: peer.answer(peer.request(), b"new"))),
    )
    transport = AsyncBalancedTransport(
        [one.url, other.url], algorithm="first", connect=Connect(http1=False, http2=True)
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
        if again:
            assert (await http.post("/", content=b"once")).text == "new"
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.post("/", content=b"once")
        assert other.accepted == again
        assert transport.pools["default"].status().backends[0].failures == 0


# Connections that were kept


def outcomes(result: httpx.Response | Exception) -> list[str]:
    found = result.extensions["lbclient"] if isinstance(result, httpx.Response) else result.lbclient  # type: ignore[attr-defined]
    return [attempt.outcome.split(" ", 1)[0] for attempt in found.attempts]


async def outcome_of(http: httpx.AsyncClient, method: str) -> list[str]:
    try:
        return outcomes(await http.request(method, "/", content=b"once"))
    except httpx.TransportError as exc:
        return outcomes(exc)


def failures(http: httpx.AsyncClient) -> int:
    transport = http._transport
    assert isinstance(transport, AsyncBalancedTransport)
    return transport.pools["default"].status().backends[0].failures


def answers(peer: Peer) -> None:
    with contextlib.suppress(ClientClosed):
        while True:
            peer.answer(peer.request())


def answers_once_and_ends(
    how: str, before: Callable[[Peer], None] = lambda peer: None
) -> Callable[[Peer], None]:
    """As if it had closed while it was idle: what comes next is not even read."""

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.wait_for(SettingsAcknowledged)
        peer.connection.wait_until_readable()
        before(peer)
        end(peer, how)

    return script


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize(("method", "expected"), [("GET", ["stale", "200"]), ("POST", ["stale"])])
async def test_a_kept_connection_that_ends_without_a_byte_is_nobodys_fault(
    raw_server: MakeRawServer, method: str, expected: list[str], how: str
) -> None:
    """Its server is asked once more, over a fresh connection; a POST may not be, for the client cannot tell."""
    server = raw_server([speak(answers_once_and_ends(how)), speak(answers)])
    async with client(server.url, retry=Retry(stop=stop_after_attempt(1))) as http:
        assert await outcome_of(http, "GET") == ["200"]
        assert await outcome_of(http, method) == expected
        assert failures(http) == 0


async def test_all_who_began_on_a_kept_connection_find_it_stale(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        for _ in range(3):
            peer.request()
        end(peer, "FIN")

    server = raw_server([speak(script), speak(answers)])
    found: list[list[str]] = []

    async def ask(http: httpx.AsyncClient) -> None:
        found.append(await outcome_of(http, "GET"))

    async with client(server.url, retry=Retry(stop=stop_after_attempt(1))) as http:
        await http.get("/")
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask, http)
        assert found == [["stale", "200"]] * 3
        assert failures(http) == 0


@pytest.mark.parametrize("sent", ["a PING", "no HTTP/2", "another answer"])
async def test_a_kept_connection_that_was_alive_is_not_stale(raw_server: MakeRawServer, sent: str) -> None:
    """Whatever it was that came since: the server had not closed while the connection was idle."""

    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        first = peer.request()
        if sent == "a PING":
            peer.state.ping(b"are you ")
            peer.flush()
        elif sent == "no HTTP/2":
            peer.connection.send(bytes(9))  # DATA on stream 0
        else:
            peer.request()
            peer.answer(first)
        end(peer, "FIN")

    server = raw_server(speak(script))
    found: list[list[str]] = []

    async def ask(http: httpx.AsyncClient) -> None:
        found.append(await outcome_of(http, "POST"))

    async with client(server.url) as http:
        await http.get("/")
        async with anyio.create_task_group() as group:
            for _ in range(2 if sent == "another answer" else 1):
                group.start_soon(ask, http)
        assert sorted(found) == ([["200"], ["reset"]] if sent == "another answer" else [["reset"]])
        assert failures(http) == 1


async def test_a_new_connection_that_ends_without_a_byte_is_not_stale(raw_server: MakeRawServer) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        end(peer, "FIN")

    async with client(raw_server(speak(script)).url, retry=None) as http:
        assert await outcome_of(http, "GET") == ["reset"]
        assert failures(http) == 1


async def test_the_other_kept_connections_are_as_old(raw_server: MakeRawServer) -> None:
    """One of two was closed while it was idle: the fresh one that replaces it is not the other one."""
    both = threading.Barrier(2, timeout=10)

    def script(peer: Peer) -> None:
        stream = peer.request()
        both.wait()
        peer.answer(stream)
        peer.wait_for(SettingsAcknowledged)
        peer.connection.wait_until_readable()
        end(peer, "FIN")

    one = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    server = raw_server([speak(script, one), speak(script, one), speak(answers)])
    async with client(server.url, retry=Retry(stop=stop_after_attempt(1))) as http:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(http.get, "/")
        assert await outcome_of(http, "GET") == ["stale", "200"]
        assert failures(http) == 0
    assert server.accepted == 3


async def test_who_had_sent_nothing_when_the_connection_broke_is_sent_again(
    raw_server: MakeRawServer,
) -> None:
    def serving(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.wait_until_closed()

    url = raw_server(speak(serving)).url
    responses: list[httpx.Response] = []

    async def ask() -> None:
        responses.append(await http.post("/", content=b"once"))

    async with client(url) as http:
        await http.get("/")
        transport = http._transport
        assert isinstance(transport, AsyncBalancedTransport)
        (engine,) = transport._ios["default"]._engines.values()
        assert isinstance(engine, HttpcoreEngine)
        (kept,) = engine._backends[url][2]._all
        assert isinstance(kept, HttpcoreConnection)
        connection = kept.core
        assert isinstance(connection, HTTP2Connection)
        async with anyio.create_task_group() as group, connection._write_lock:
            group.start_soon(ask)
            await until(lambda: connection._h2_state.open_outbound_streams)
            connection._write_exception = httpcore.WriteError("broken by another request")
    (response,) = responses
    outcomes = [attempt.outcome for attempt in response.extensions["lbclient"].attempts]
    assert outcomes == ["stale (WriteError: broken by another request)", "200"]
