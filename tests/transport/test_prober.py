"""Probing a pool: when, whom, how, and what comes of it."""

import functools
import importlib.metadata
import itertools
import logging
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trio
import trio.testing

from lbclient._async import prober
from lbclient._async.background import BackgroundTask, BackgroundThread
from lbclient._async.prober import Ask, InnerProbe, NetworkProbe, probe_pool
from lbclient._async.readiness import wait_until_ready
from lbclient.core.backend import Backend
from lbclient.core.connect import Connect
from lbclient.core.health import Admin
from lbclient.core.pool import Pool
from lbclient.core.probes import HttpProbe, Probe, TcpProbe
from tests.conftest import MakeRawServer, SharedServers, StartServer
from tests.servers import CertFiles, Connection, Server, available, free_port, full_backlog
from tests.servers.raw import after_request, fin, reply, reset, respond, stall

A, B, C = "http://a:1", "http://b:1", "http://c:1"
EVERY_10 = HttpProbe(interval=10, jitter=0)


def virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs the test on trio, with a clock that jumps to the next deadline when everybody waits."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        trio.run(functools.partial(test, **fixtures), clock=trio.testing.MockClock(autojump_threshold=0))

    return run


class Script:
    """Probes nobody: answers as it is told, takes its time, and remembers when it was asked.

    Args:
        takes: Seconds to an answer.
        verdicts: P or F, for each probe of a backend in turn; the last one for all that follow.
    """

    def __init__(self, verdicts: str = "P", *, takes: float = 0.0) -> None:
        self.verdicts = verdicts
        self.takes = takes
        self.starts: list[tuple[str, float]] = []
        self.at_a_time: Counter[str] = Counter()
        self.most_at_a_time = 0

    async def __call__(self, backend: Backend, probe: Probe) -> str | None:
        turn = len(self.of(backend.url))
        self.starts.append((backend.url, anyio.current_time()))
        self.at_a_time[backend.url] += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time[backend.url])
        try:
            await anyio.sleep(self.takes)
        finally:
            self.at_a_time[backend.url] -= 1
        return None if self.verdicts[min(turn, len(self.verdicts) - 1)] == "P" else "told so"

    def of(self, url: str) -> list[float]:
        return [at for started, at in self.starts if started == url]


@asynccontextmanager
async def probing(pool: Pool, ask: Ask) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(probe_pool, pool, ask)
        yield
        group.cancel_scope.cancel()


class ListenedTo(Pool):
    """Knows how many listen to it."""

    listeners = 0

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        undo = super().subscribe(callback)
        self.listeners += 1

        def unsubscribe() -> None:
            self.listeners -= 1
            undo()

        return unsubscribe


def make_pool(*backends: str | Backend, **options: Any) -> ListenedTo:
    return ListenedTo(backends or (A, B), algorithm="round_robin", **{"probe": EVERY_10, **options})


def check_of(pool: Pool, url: str) -> str:
    return next(status.check for status in pool.status().backends if status.url == url)


# When


@virtual_time
async def test_everybody_is_probed_at_once_and_then_from_start_to_start() -> None:
    script, began = Script(takes=4), trio.current_time()
    async with probing(make_pool(), script):
        await trio.sleep(35)
    for url in (A, B):
        assert [at - began for at in script.of(url)] == pytest.approx([0, 10, 20, 30])


@virtual_time
async def test_a_slow_probe_is_a_failure_and_not_an_overlap() -> None:
    probe = HttpProbe(interval=5, timeout=5, jitter=0)
    script, pool, began = Script(takes=1000), make_pool(A, probe=probe), trio.current_time()
    async with probing(pool, script):
        await trio.sleep(4.9)
        assert check_of(pool, A) == "unknown"
        await trio.sleep(10)
        assert check_of(pool, A) == "failing"
    assert [at - began for at in script.of(A)] == pytest.approx([0, 5, 10])
    assert script.most_at_a_time == 1


@virtual_time
async def test_an_interval_shorter_than_a_hanging_probe_waits_for_it() -> None:
    probe = HttpProbe(interval=10, timeout=5, interval_unhealthy=1, jitter=0)
    script, began = Script(takes=1000), trio.current_time()
    async with probing(make_pool(A, probe=probe), script):
        await trio.sleep(14)
    assert [at - began for at in script.of(A)] == pytest.approx([0, 5, 10])
    assert script.most_at_a_time == 1


@virtual_time
async def test_a_failing_backend_is_probed_at_its_own_interval_once_it_is_failing() -> None:
    probe = HttpProbe(interval=10, interval_unhealthy=2, timeout=2, unhealthy_threshold=2, jitter=0)
    script, began = Script("PFFFPPP"), trio.current_time()
    async with probing(make_pool(A, probe=probe), script):
        await trio.sleep(45)
    assert [at - began for at in script.of(A)] == pytest.approx([0, 10, 20, 22, 24, 26, 36])


@virtual_time
async def test_probes_are_jittered_within_their_share() -> None:
    probe = HttpProbe(interval=10, jitter=0.2)
    script = Script()
    async with probing(make_pool(probe=probe), script):
        await trio.sleep(1000)
    for url in (A, B):
        starts = script.of(url)
        gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
        assert 8 <= min(gaps) < 9
        assert 11 < max(gaps) <= 12
    assert script.of(A)[1] != script.of(B)[1]


@virtual_time
async def test_the_first_result_counts_alone_and_later_ones_by_the_thresholds() -> None:
    pool = make_pool(A, B, probe=HttpProbe(interval=10, healthy_threshold=2, unhealthy_threshold=3, jitter=0))
    up, down = Script("PFFPFFF"), Script("FPFPP")

    async def ask(backend: Backend, probe: Probe) -> str | None:
        return await (up if backend.url == A else down)(backend, probe)

    seen = []
    async with probing(pool, ask):
        for _ in range(7):
            await trio.sleep(5)
            seen.append((check_of(pool, A), check_of(pool, B)))
            await trio.sleep(5)
    assert [a for a, _ in seen] == ["passing"] * 6 + ["failing"]
    assert [b for _, b in seen] == ["failing"] * 4 + ["passing"] * 3


# Whom


@virtual_time
async def test_a_backend_is_probed_from_the_moment_it_joins_until_it_leaves() -> None:
    script, pool, began = Script(), make_pool(A, B), trio.current_time()
    async with probing(pool, script):
        await trio.sleep(3)
        pool.add(C)
        await trio.sleep(12)
        pool.remove(C)
        pool.remove(B)
        await trio.sleep(20)
    assert [at - began for at in script.of(C)] == pytest.approx([3, 13])
    assert [at - began for at in script.of(B)] == pytest.approx([0, 10])
    assert len(script.of(A)) == 4


@virtual_time
async def test_a_disabled_backend_is_not_probed_and_an_enabled_one_at_once() -> None:
    script, pool, began = Script(), make_pool(A, B), trio.current_time()
    pool.disable(A)
    async with probing(pool, script):
        await trio.sleep(3)
        assert script.of(A) == []
        pool.enable(A)
        await trio.sleep(3)
        pool.disable(A)
        await trio.sleep(20)
    assert [at - began for at in script.of(A)] == pytest.approx([3])


@virtual_time
async def test_standby_and_draining_backends_are_probed() -> None:
    script, pool = Script(), make_pool(A, B, C)
    pool._states[B].health.admin = Admin.STANDBY
    pool.begin_drain(C)
    async with probing(pool, script):
        await trio.sleep(5)
    assert len(script.of(B)) == len(script.of(C)) == 1


@virtual_time
async def test_a_drain_that_time_has_ended_ends_the_probes() -> None:
    script, pool = Script(), make_pool(A, B, clock=trio.current_time)
    pool.begin_drain(A, grace=15)
    async with probing(pool, script):
        await trio.sleep(12)
        assert len(script.of(A)) == 2
        await trio.sleep(4)
        pool.status()  # a pick or a look is what notices the end of the drain, and neither tells anybody
        await trio.sleep(100)
    assert len(script.of(A)) <= 3


@virtual_time
async def test_a_changed_weight_does_not_disturb_the_probes_and_another_socket_does() -> None:
    script, pool, began = Script(), make_pool(A, B), trio.current_time()
    async with probing(pool, script):
        await trio.sleep(3)
        pool.set_weight(A, 7)
        await trio.sleep(3)
        pool.update([A, Backend(B, uds="/run/b.sock")])
        await trio.sleep(3)
    assert [at - began for at in script.of(A)] == pytest.approx([0])
    assert [at - began for at in script.of(B)] == pytest.approx([0, 6])


@virtual_time
async def test_the_result_of_a_backend_that_left_meanwhile_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "lbclient")
    pool = make_pool(A, B)

    async def leave(backend: Backend, probe: Probe) -> str | None:
        await trio.sleep(1)
        if backend.url == A:
            pool.remove(A)  # without letting the prober know before the result is in
        return None

    async with probing(pool, leave):
        await trio.sleep(25)
    assert "left while it was probed" in caplog.text
    assert check_of(pool, B) == "passing"


async def test_a_change_in_another_thread_is_noticed_at_once() -> None:
    script, pool = Script(), make_pool(A, B)
    async with probing(pool, script):
        await anyio.wait_all_tasks_blocked()
        threading.Thread(target=pool.add, args=(C,)).start()
        with anyio.fail_after(5):
            while not script.of(C):
                await anyio.sleep(0.001)


async def test_a_pool_without_a_probe_is_not_probed() -> None:
    script = Script()
    with anyio.fail_after(5):
        await probe_pool(make_pool(probe=None), script)
    assert script.starts == []


async def test_when_it_ends_the_pool_is_rid_of_it() -> None:
    pool = make_pool()
    async with probing(pool, Script()):
        await anyio.wait_all_tasks_blocked()
        assert pool.listeners == 1
    assert pool.listeners == 0


# What goes wrong


@virtual_time
async def test_whatever_a_probe_raises_is_a_failed_probe(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lbclient")

    async def explode(backend: Backend, probe: Probe) -> str | None:
        raise ExceptionGroup("several", [ValueError("a bug")])

    pool = make_pool(A)
    async with probing(pool, explode):
        await trio.sleep(1)
    assert check_of(pool, A) == "failing"
    (record,) = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert "default: http://a:1 failed its probe: ExceptionGroup: several" in record.getMessage()


@virtual_time
async def test_a_listener_that_fails_does_not_end_the_probes(caplog: pytest.LogCaptureFixture) -> None:
    script, pool = Script("PFFFPP"), make_pool(A)

    def fail() -> None:
        raise RuntimeError("somebody's bug")

    pool.subscribe(fail)
    async with probing(pool, script):
        await trio.sleep(55)
    assert len(script.of(A)) == 6
    assert "somebody's bug" in caplog.text


# Ready


@virtual_time
async def test_ready_means_that_everybody_has_a_result() -> None:
    pool, began = make_pool(A, B, C), trio.current_time()
    pool.disable(C)

    async def ask(backend: Backend, probe: Probe) -> str | None:
        await trio.sleep(1 if backend.url == A else 3)
        return "down" if backend.url == A else None

    async with probing(pool, ask):
        await wait_until_ready(pool, 10)
        assert trio.current_time() - began == pytest.approx(3)
        await wait_until_ready(pool, None)
        await wait_until_ready(pool, 0)
    assert pool.listeners == 0


@virtual_time
async def test_not_ready_in_time_names_those_who_are_not() -> None:
    pool = make_pool(A, B)
    pool.report_probe(A, True)
    with pytest.raises(TimeoutError, match=r"^pool 'default': no probe result within 2 s from http://b:1$"):
        await wait_until_ready(pool, 2)


async def test_without_a_probe_everybody_is_ready() -> None:
    await wait_until_ready(make_pool(probe=None), 0)


# Over the network

NOTHING_TO_TRUST = ssl.create_default_context


async def ask_once(
    url: str | Backend,
    probe: Probe,
    *,
    connect: Connect | None = None,
    context: Callable[[], ssl.SSLContext] = NOTHING_TO_TRUST,
) -> str | None:
    """What the prober makes of one probe: its timeout and its way with exceptions included."""
    ask = NetworkProbe(connect or Connect(), context)
    return await prober._objection(ask, Backend.of(url), probe)


@pytest.fixture
def context(client_ssl_context: ssl.SSLContext) -> Callable[[], ssl.SSLContext]:
    return lambda: client_ssl_context


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "granian", "nginx"])
async def test_real_servers_pass_by_status_and_body(kind: Any, servers: SharedServers) -> None:
    url = servers(kind, 1)[0].url
    assert await ask_once(url, HttpProbe("/health")) is None
    assert await ask_once(url, HttpProbe("/health", expect="204")) == "status 200 instead of 204"
    name = servers(kind, 1)[0].name
    assert await ask_once(url, HttpProbe("/whoami", body=name)) is None
    assert await ask_once(url, HttpProbe("/whoami", body=re.compile(f"^{name}$"))) is None
    assert await ask_once(url, HttpProbe("/whoami", body="nobody")) == "'nobody' is not in its body"
    assert await ask_once(url, HttpProbe("/health", method="HEAD")) is None


async def test_a_redirect_is_an_answer_and_not_followed(servers: SharedServers) -> None:
    url = servers("uvicorn", 1)[0].url
    probe = HttpProbe("/redirect?to=/health")
    assert await ask_once(url, probe) == "status 302 instead of 200"
    assert await ask_once(url, HttpProbe("/redirect?to=/health", expect=302)) is None


async def test_the_request_is_what_was_asked_for_each_on_its_own_connection(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(respond())
    probe = HttpProbe("/health?a=%2F", headers=[("X-A", "1"), ("X-A", "2"), ("accept", "text/plain")])
    for _ in range(2):
        assert await ask_once(server.url + "/prefix", probe) is None
    assert server.wait_until(lambda s: s.accepted == 2 and s.open == 0)
    version = importlib.metadata.version("lbclient")
    expected = (
        f"GET /health?a=%2F HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"User-Agent: lbclient-probe/{version}\r\nX-A: 1\r\nX-A: 2\r\naccept: text/plain\r\n"
        "Connection: close\r\n\r\n"
    )
    assert server.requests == [expected.encode()] * 2


@pytest.mark.parametrize(
    ("backend_host", "probe_host", "seen"),
    [(None, None, None), ("b.test", None, "b.test"), ("b.test", "p.test:80", "p.test:80")],
)
async def test_the_host_header_is_the_probes_or_else_the_backends(
    raw_server: MakeRawServer, backend_host: str | None, probe_host: str | None, seen: str | None
) -> None:
    server = raw_server(respond())
    assert await ask_once(Backend(server.url, host=backend_host), HttpProbe(host=probe_host)) is None
    expected = seen or f"127.0.0.1:{server.port}"
    assert f"\r\nHost: {expected}\r\n".encode() in server.requests[0]


async def test_another_port_is_asked_at_and_named(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    assert await ask_once(f"http://127.0.0.1:{free_port()}", HttpProbe(port=server.port)) is None
    assert f"\r\nHost: 127.0.0.1:{server.port}\r\n".encode() in server.requests[0]
    assert await ask_once(f"tcp://127.0.0.1:{free_port()}", TcpProbe(port=server.port)) is None


async def test_a_method_that_may_have_a_body_says_that_it_has_none(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    assert await ask_once(server.url, HttpProbe(method="POST")) is None
    assert b"\r\nContent-Length: 0\r\n" in server.requests[0]


def endless(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while not connection.server.closing.is_set():
        connection.send(b"x" * 65536)


async def test_a_body_without_end_is_not_read_to_the_end(raw_server: MakeRawServer) -> None:
    server = raw_server(endless)
    assert await ask_once(server.url, HttpProbe(body="y")) == "'y' is not in its body"
    assert await ask_once(server.url, HttpProbe(body="xx")) is None
    assert server.wait_until(lambda s: s.open == 0)


async def test_a_body_nobody_looks_at_is_not_waited_for(raw_server: MakeRawServer) -> None:
    server = raw_server(reply(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", then=stall))
    assert await ask_once(server.url, HttpProbe(timeout=2)) is None
    assert await ask_once(server.url, HttpProbe(timeout=0.1, body="x")) == "no answer within 0.1 s"
    wrong = HttpProbe(timeout=2, body="x", expect=204)
    assert await ask_once(server.url, wrong) == "status 200 instead of 204"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (reset, "Error: "),
        (fin, "Error: "),
        (after_request(reset), "ReadError: "),
        (after_request(fin), "RemoteProtocolError: Server disconnected"),
        (reply(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "RemoteProtocolError: illegal status line"),
        (stall, "no answer within 0.2 s"),
    ],
    ids=["reset", "fin", "reset after the request", "fin after the request", "not http", "silence"],
)
async def test_whatever_else_a_server_does_is_a_failure_with_a_reason(
    raw_server: MakeRawServer, handler: Any, reason: str
) -> None:
    server = raw_server(handler)
    objection = await ask_once(server.url, HttpProbe(timeout=0.2))
    assert objection is not None
    assert reason in objection


async def test_a_probe_that_timed_out_leaves_no_connection(raw_server: MakeRawServer) -> None:
    gone = threading.Event()

    def watch(connection: Connection) -> None:
        if connection.wait_for_client_close():
            gone.set()

    server = raw_server(watch)
    assert await ask_once(server.url, HttpProbe(timeout=0.1)) == "no answer within 0.1 s"
    assert await anyio.to_thread.run_sync(gone.wait, 5)


async def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for probe in (HttpProbe(), TcpProbe()):
        objection = await ask_once(url, probe)
        assert objection is not None
        assert objection.startswith("ConnectError: ")


async def test_a_tcp_probe_passes_when_the_connection_is_accepted(raw_server: MakeRawServer) -> None:
    server = raw_server(stall)
    assert await ask_once(f"tcp://127.0.0.1:{server.port}", TcpProbe()) is None
    assert await ask_once(f"https://127.0.0.1:{server.port}", TcpProbe()) is None  # no TLS
    with full_backlog() as port:
        assert await ask_once(f"tcp://127.0.0.1:{port}", TcpProbe(timeout=0.1)) == "no answer within 0.1 s"


async def test_a_unix_socket_is_probed(start_server: StartServer, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    start_server("uvicorn", uds=path)
    backend = Backend("http://service", uds=path)
    assert await ask_once(backend, HttpProbe("/health")) is None
    assert await ask_once(backend, TcpProbe()) is None


# TLS and HTTP/2


async def test_certificates_are_verified_as_for_requests(
    servers: SharedServers, context: Callable[[], ssl.SSLContext]
) -> None:
    server = servers("uvicorn", 1, tls=True)[0]
    assert await ask_once(server.url, HttpProbe("/health"), context=context) is None
    distrusted = await ask_once(server.url, HttpProbe("/health"))
    assert distrusted is not None
    assert distrusted.startswith("ConnectError: ")


async def test_the_scheme_of_the_probe_goes_before_that_of_the_url(
    servers: SharedServers, context: Callable[[], ssl.SSLContext]
) -> None:
    server = servers("uvicorn", 1, tls=True)[0]
    url = f"http://localhost:{server.port}"
    assert await ask_once(url, HttpProbe("/health", scheme="https"), context=context) is None
    assert await ask_once(server.url, HttpProbe("/health", scheme="http"), context=context) is not None


async def test_the_server_name_is_that_of_live_requests(
    raw_server: MakeRawServer,
    server_ssl_context: ssl.SSLContext,
    context: Callable[[], ssl.SSLContext],
) -> None:
    names: list[str | None] = []
    server_ssl_context.sni_callback = lambda _, name, __: names.append(name)
    try:
        server = raw_server(respond(), tls=server_ssl_context)
        backend = Backend(f"https://127.0.0.1:{server.port}", host="api.lbclient.test:8443")
        assert await ask_once(backend, HttpProbe(host="elsewhere.test"), context=context) is None
    finally:
        server_ssl_context.sni_callback = None
    assert names == ["api.lbclient.test"]
    assert b"\r\nHost: elsewhere.test\r\n" in server.requests[0]


async def test_what_was_negotiated_is_spoken(
    start_server: StartServer, server_cert_files: CertFiles, ca: Any
) -> None:
    server = start_server("hypercorn", tls=server_cert_files)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.set_alpn_protocols(["h2"])
    ca.configure_trust(own)
    connect = Connect(http2=True)
    said = re.compile(r'"http_version": "2"')
    probe = HttpProbe("/echo", body=said)
    assert await ask_once(server.url, probe, connect=connect, context=lambda: own) is None


@pytest.mark.skipif(not available("nginx"), reason="nginx is not installed")
async def test_a_pool_that_speaks_http2_only_is_probed_with_it(start_server: StartServer) -> None:
    server = start_server("nginx", http2=True)
    connect = Connect(http1=False, http2=True)
    assert await ask_once(server.url, HttpProbe("/health", body="ok"), connect=connect) is None
    assert await ask_once(server.url, HttpProbe("/file", body="y"), connect=connect) is not None
    assert await ask_once(server.url, HttpProbe("/health")) is not None


# Through transports of the caller's


class Inner(httpx.AsyncBaseTransport):
    """Answers with a stream, and remembers."""

    def __init__(self, chunks: Callable[[], AsyncIterator[bytes]]) -> None:
        self.chunks = chunks
        self.requests: list[httpx.Request] = []
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        inner = self

        class Stream(httpx.AsyncByteStream):
            def __aiter__(self) -> AsyncIterator[bytes]:
                return inner.chunks()

            async def aclose(self) -> None:
                inner.closed += 1

        return httpx.Response(200, stream=Stream())


async def ask_inner(transport: httpx.AsyncBaseTransport, url: str, probe: Probe) -> str | None:
    return await prober._objection(InnerProbe(lambda _: transport), Backend(url), probe)


async def test_an_inner_transport_gets_the_probe() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"all "
        yield b"well"

    inner = Inner(chunks)
    assert await ask_inner(inner, "http://a:8080/prefix", HttpProbe("/health?a=%2F", body="all well")) is None
    (request,) = inner.requests
    assert str(request.url) == "http://a:8080/health?a=%2F"
    assert request.headers["host"] == "a:8080"
    assert request.headers["user-agent"].startswith("lbclient-probe/")
    assert request.extensions["timeout"]["read"] == 5.0
    assert inner.closed == 1


async def test_an_inner_transports_body_without_end_is_left_in_order() -> None:
    left: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            left.append(1)

    inner = Inner(chunks)
    assert await ask_inner(inner, A, HttpProbe(body="y")) == "'y' is not in its body"
    assert (left, inner.closed) == ([1], 1)


async def test_an_inner_transports_stream_need_not_be_a_generator() -> None:
    class Chunks:
        def __init__(self) -> None:
            self.left = [b"ok"]

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    assert await ask_inner(Inner(Chunks), A, HttpProbe(body="ok")) is None


async def test_an_application_is_probed_without_a_network() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = 200 if scope["path"] == "/health" else 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    transport = httpx.ASGITransport(app)
    assert await ask_inner(transport, "http://service", HttpProbe("/health", body="ok")) is None
    assert await ask_inner(transport, "http://service", HttpProbe("/")) == "status 404 instead of 200"


async def test_an_inner_transport_that_fails_is_a_failed_probe() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert await ask_inner(httpx.MockTransport(refuse), A, HttpProbe()) == "ConnectError: refused"


async def test_a_tcp_probe_connects_whatever_the_inner_transport(raw_server: MakeRawServer) -> None:
    server = raw_server(stall)
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    assert await ask_inner(transport, server.url, TcpProbe()) is None
    assert server.wait_until(lambda s: s.accepted == 1)


# All of it


@pytest.fixture
def pool_of_two(start_server: StartServer) -> tuple[ListenedTo, Server, Server]:
    one, two = start_server(), start_server()
    probe = HttpProbe("/health", interval=0.25, timeout=0.25, unhealthy_threshold=2)
    return ListenedTo([one.url, two.url], algorithm="round_robin", probe=probe), one, two


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_killed_server_is_noticed_and_so_is_its_return(
    pool_of_two: tuple[ListenedTo, Server, Server],
) -> None:
    pool, one, two = pool_of_two
    task = BackgroundTask(
        functools.partial(probe_pool, pool, NetworkProbe(pool.connect, NOTHING_TO_TRUST)), "lbclient-probes"
    )
    await wait_until_ready(pool, 10)
    await until(lambda: check_of(pool, one.url) == check_of(pool, two.url) == "passing")
    await anyio.to_thread.run_sync(one.kill)
    await until(lambda: check_of(pool, one.url) == "failing")
    assert {pool.pick().backend.url for _ in range(10)} == {two.url}
    await anyio.to_thread.run_sync(one.start)
    await until(lambda: check_of(pool, one.url) == "passing")
    await task.stop()


def test_a_thread_probes_for_those_who_have_no_loop(pool_of_two: tuple[ListenedTo, Server, Server]) -> None:
    pool, one, two = pool_of_two
    ask = NetworkProbe(pool.connect, NOTHING_TO_TRUST)
    thread = BackgroundThread(functools.partial(probe_pool, pool, ask), "lbclient-probes")
    thread.start()
    deadline = time.monotonic() + 10
    one.kill()
    while check_of(pool, one.url) != "failing" or check_of(pool, two.url) != "passing":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    thread.stop()
    assert pool.listeners == 0
