"""What an attempt's end proves, row by row: whose fault it was, and where the request may go after it.

Each row is something that a server does over HTTP/1.1. It stands first in a pool, with a healthy server behind it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import anyio
import httpx
import pytest
import trustme

from lbclient import AsyncBalancedTransport, Connect, Record, Retry
from tests.conftest import MakeRawServer
from tests.servers import Handler, RawServer, free_port, full_backlog
from tests.servers import raw as raw_servers
from tests.servers.raw import after_bytes, reset, respond

BIG = b"x" * 4_000_000
"""More than the buffers between us and a server that does not read."""
SMALL_BUFFERS = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)]
BROKEN = (httpx.ReadError, httpx.RemoteProtocolError)
"""A RST that a write has met already reads like an end of file."""

# httpx's generator over a body that was cut short is left to the garbage collector, which trio tells of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

GoesOn: TypeAlias = Literal["any", "idempotent", "if unsent", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        does: What the server does; None when nothing listens, "drop" when connecting gets no answer.
        raises: Without retries.
        word: How the record's outcome begins.
        blamed: Whether it counts against the server.
        goes_on: Which requests may go to another server: any, idempotent ones, none. "if unsent": idempotent ones, and
            the others where the connection broke before anything was written, which is a matter of microseconds.
        reached: What the server saw of the request: nothing, a part, or all of it; None where it does not look. The
            native engine sends nothing of what it sees to be wrong beforehand.
        tls: How a URL with https is answered.
        body, headers: Of the request.
    """

    does: Handler | Sequence[Handler] | Literal["drop"] | None
    raises: tuple[type[Exception], ...]
    word: str
    blamed: bool = True
    goes_on: GoesOn = "idempotent"
    reached: Literal["nothing", "a part", "at most a part", "all"] | None = "all"
    tls: Literal["good", "no TLS", "unknown authority", "other name"] | None = None
    body: bytes = b"body"
    headers: dict[str, str] = field(default_factory=dict)


ROWS = {
    "refused": Row(does=None, raises=(httpx.ConnectError,), word="connect", goes_on="any", reached=None),
    "connecting gets no answer": Row(
        does="drop", raises=(httpx.ConnectTimeout,), word="connect", goes_on="any", reached=None
    ),
    "no TLS where TLS is due": Row(
        does=raw_servers.greet(b"220 mail.example ESMTP\r\n"),
        raises=(httpx.ConnectError,),
        word="connect",
        goes_on="any",
        reached=None,
        tls="no TLS",
    ),
    "a certificate of an unknown authority": Row(
        does=respond(),
        raises=(httpx.ConnectError,),
        word="connect",
        goes_on="any",
        reached="nothing",
        tls="unknown authority",
    ),
    "a certificate for another name": Row(
        does=respond(),
        raises=(httpx.ConnectError,),
        word="connect",
        goes_on="any",
        reached="nothing",
        tls="other name",
    ),
    "the TLS handshake gets no answer": Row(
        does=raw_servers.read_forever,
        raises=(httpx.ConnectTimeout,),
        word="connect",
        goes_on="any",
        reached=None,
        tls="no TLS",
    ),
    "RST on accept": Row(
        does=raw_servers.reset_on_accept,
        raises=(*BROKEN, httpx.ConnectError),
        word="",
        goes_on="if unsent",
        reached="nothing",
    ),
    "FIN on accept": Row(
        does=raw_servers.fin_on_accept,
        raises=(*BROKEN, httpx.ConnectError),
        word="",
        goes_on="if unsent",
        reached=None,
    ),
    "RST while the body is sent": Row(
        does=after_bytes(70_000, reset), raises=BROKEN, word="reset", reached="a part", body=BIG
    ),
    "the peer does not read": Row(
        does=raw_servers.stall, raises=(httpx.WriteTimeout,), word="timeout", reached="nothing", body=BIG
    ),
    "RST before the headers": Row(does=raw_servers.reset_before_headers, raises=BROKEN, word="reset"),
    "FIN before the headers": Row(
        does=raw_servers.fin_before_headers, raises=(httpx.RemoteProtocolError,), word="reset"
    ),
    "RST within the headers": Row(does=raw_servers.reset_within_headers, raises=BROKEN, word="reset"),
    "FIN within the headers": Row(
        does=raw_servers.fin_within_headers, raises=(httpx.RemoteProtocolError,), word="reset"
    ),
    "an answer that is no HTTP": Row(
        does=raw_servers.no_http, raises=(httpx.RemoteProtocolError,), word="reset"
    ),
    "an answer inside TLS that is no TLS": Row(
        does=raw_servers.no_tls_any_more, raises=BROKEN, word="reset", tls="good"
    ),
    "slow headers": Row(does=raw_servers.never_answer, raises=(httpx.ReadTimeout,), word="timeout"),
    "RST in the body": Row(does=raw_servers.reset_mid_body, raises=BROKEN, word="", goes_on="never"),
    "FIN in the body": Row(
        does=raw_servers.fin_mid_body, raises=(httpx.RemoteProtocolError,), word="", goes_on="never"
    ),
    "a header of the caller's that is none": Row(
        does=respond(),
        raises=(httpx.LocalProtocolError,),
        word="ours",
        blamed=False,
        goes_on="never",
        reached="nothing",
        headers={"x-bad": "a\0b"},
    ),
    "a body shorter than its Content-Length": Row(
        does=respond(),
        raises=(httpx.LocalProtocolError,),
        word="ours",
        blamed=False,
        goes_on="never",
        reached="at most a part",
        headers={"content-length": "10"},
    ),
}


class Bench:
    """A bad server, a good one behind it, and a transport over both."""

    def __init__(self, row: Row, bad_url: str, bad: RawServer | None, good: RawServer, verify: Any) -> None:
        self.row = row
        self.bad_url = bad_url
        self.bad = bad
        self.good = good
        self.verify = verify

    def transport(self, retry: Retry | None) -> AsyncBalancedTransport:
        connect = Connect(
            verify=self.verify,
            connect_timeout=0.3,
            socket_options=SMALL_BUFFERS if self.row.body is BIG else None,
        )
        return AsyncBalancedTransport(
            [self.bad_url, self.good.url], algorithm="first", retry=retry, connect=connect
        )

    def may_have_reached(self) -> bool:
        """Whether what the bad server saw is what the row says, and was seen once."""
        if self.bad is None or self.row.reached is None:
            return True
        server = self.bad
        if self.row.reached == "all":
            return len(server.requests) == 1 and server.requests[0].endswith(self.row.body)
        if self.row.reached == "a part":
            server.wait_until(lambda server: b"\r\n\r\n" in server.received)
            return not server.requests and server.received.count(b" / HTTP/1.1\r\n") == 1
        if self.row.reached == "at most a part":
            return not server.requests
        return not server.received


@pytest.fixture(params=list(ROWS))
def bench(
    request: pytest.FixtureRequest,
    raw_server: MakeRawServer,
    ca: trustme.CA,
    client_ssl_context: ssl.SSLContext,
) -> Iterator[Bench]:
    row = ROWS[request.param]
    with ExitStack() as stack:
        bad: RawServer | None = None
        if row.does == "drop":
            url = f"http://127.0.0.1:{stack.enter_context(full_backlog())}"
        elif row.does is None:
            url = f"http://127.0.0.1:{free_port()}"
        else:
            bad = raw_server(row.does, tls=certificate(row.tls, ca))
            url = bad.url if row.tls is None else f"https://localhost:{bad.port}"
        verify = True if row.tls is None else client_ssl_context
        yield Bench(row, url, bad, raw_server(respond()), verify)


def certificate(tls: str | None, ca: trustme.CA) -> ssl.SSLContext | None:
    if tls in (None, "no TLS"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA() if tls == "unknown authority" else ca
    authority.issue_cert("elsewhere.test" if tls == "other name" else "localhost").configure_cert(context)
    return context


async def ask(bench: Bench, method: str, retry: Retry | None) -> httpx.Response | Exception:
    """What became of one request; nothing of it may be left behind."""
    transport = bench.transport(retry)
    timeout = httpx.Timeout(10, connect=0.3, read=0.3, write=0.3)
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=timeout) as http:
        headers = [(name.encode(), value.encode()) for name, value in bench.row.headers.items()]
        result: httpx.Response | Exception
        try:
            result = await http.request(method, "/", content=bench.row.body, headers=headers)
        except httpx.HTTPError as exc:
            result = exc
        states = transport.pools["default"].status().backends
        assert [state.in_flight for state in states] == [0, 0]
        assert [state.failures for state in states] == [int(bench.row.blamed), 0]
        assert all(opened == idle for opened, idle in transport.connections().values())
    assert bench.may_have_reached(), bench.bad
    return result


def record(result: httpx.Response | Exception) -> Record:
    found = result.extensions["lbclient"] if isinstance(result, httpx.Response) else result.lbclient  # type: ignore[attr-defined]
    assert isinstance(found, Record)
    return found


def assert_it_failed_there(bench: Bench, result: httpx.Response | Exception) -> None:
    assert isinstance(result, bench.row.raises), repr(result)
    (attempt,) = record(result).attempts
    assert attempt.backend == bench.bad_url
    assert attempt.outcome.startswith(bench.row.word)
    assert bench.bad_url in "".join(result.__notes__), "httpx's own message names no backend"
    assert bench.good.accepted == 0


def assert_it_went_elsewhere(bench: Bench, result: httpx.Response | Exception) -> None:
    assert isinstance(result, httpx.Response), repr(result)
    assert result.status_code == 200
    first, second = record(result).attempts
    assert (first.backend, second.backend) == (bench.bad_url, bench.good.url)
    assert first.outcome.startswith(bench.row.word)
    assert second.outcome == "200"
    (request,) = bench.good.requests
    assert request.endswith(bench.row.body)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_retries_it_fails_as_httpx_would_and_goes_nowhere_else(
    bench: Bench, method: str
) -> None:
    assert_it_failed_there(bench, await ask(bench, method, None))


async def test_with_retries_an_idempotent_request_goes_elsewhere_where_that_is_safe(bench: Bench) -> None:
    check = assert_it_failed_there if bench.row.goes_on == "never" else assert_it_went_elsewhere
    check(bench, await ask(bench, "GET", Retry()))


async def test_with_retries_another_request_goes_elsewhere_only_when_nothing_of_it_was_sent(
    bench: Bench,
) -> None:
    result = await ask(bench, "POST", Retry())
    safe = bench.row.goes_on == "any"
    if bench.row.goes_on == "if unsent":
        assert bench.bad is not None
        safe = bench.good.accepted > 0
    check = assert_it_went_elsewhere if safe else assert_it_failed_there
    check(bench, result)
    if bench.row.goes_on != "any" and bench.good.requests:
        assert bench.bad is not None
        assert not bench.bad.received, "it was sent to both"


async def test_what_the_caller_calls_idempotent_is_treated_as_such(raw_server: MakeRawServer) -> None:
    bad, good = raw_server(raw_servers.reset_before_headers), raw_server()
    transport = AsyncBalancedTransport([bad.url, good.url], algorithm="first")
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        sure = await http.post("/", content=b"pay", extensions={"lbclient": {"idempotent": True}})
        assert record(sure).backend == good.url
        with pytest.raises(BROKEN):
            await http.get("/", extensions={"lbclient": {"idempotent": False}})
    assert len(good.requests) == 1


# Rows that take more than one request, or someone else's hand


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_our_own_limit_is_nobodys_fault_and_any_request_goes_elsewhere(
    raw_server: MakeRawServer, method: str
) -> None:
    busy, free = raw_server(raw_servers.never_answer), raw_server()
    for retry, outcomes in ((None, ["full"]), (Retry(), ["full", "200"])):
        transport = AsyncBalancedTransport(
            [busy.url, free.url], algorithm="first", connect=Connect(max_connections=1), retry=retry
        )
        timeout = httpx.Timeout(10, pool=0.05)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=timeout) as http,
            anyio.create_task_group() as group,
        ):
            before = busy.accepted
            group.start_soon(http.get, "/")
            await until(lambda before=before: busy.accepted > before)  # type: ignore[misc]
            result: httpx.Response | Exception
            try:
                result = await http.request(method, "/")
            except httpx.PoolTimeout as exc:
                result = exc
            found = record(result).attempts
            assert [attempt.outcome.split(" ", 1)[0] for attempt in found] == outcomes
            assert transport.pools["default"].status().backends[0].failures == 0
            group.cancel_scope.cancel()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("retry", [None, Retry()], ids=["alone", "retries"])
async def test_a_kept_connection_closed_with_the_request_unread_is_nobodys_fault(
    raw_server: MakeRawServer, method: str, retry: Retry | None
) -> None:
    """Its server is asked once more, over a fresh connection; a POST may not be, for the client cannot tell."""
    server, other = raw_server([raw_servers.keep_then_close(), respond()]), raw_server()
    transport = AsyncBalancedTransport([server.url, other.url], algorithm="first", retry=retry)
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        assert (await http.get("/")).status_code == 200
        result: httpx.Response | Exception
        try:
            result = await http.request(method, "/")
        except httpx.TransportError as exc:
            result = exc
    stale, *after = record(result).attempts
    assert stale.outcome.startswith("stale")
    if retry is not None and method == "GET":
        assert isinstance(result, httpx.Response)
        assert [(attempt.backend, attempt.outcome) for attempt in after] == [(server.url, "200")]
    else:
        assert isinstance(result, BROKEN)
        assert not after
    assert transport.pools["default"].status().backends[0].failures == 0
    assert other.accepted == 0


async def test_a_second_stale_connection_costs_no_second_free_try(raw_server: MakeRawServer) -> None:
    """Two kept connections die in turn: the fresh one that replaces the first is not the other kept one."""
    both = answer_together_then_close(2)
    server = raw_server([both, both, respond()])
    transport = AsyncBalancedTransport([server.url], retry=Retry())
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(http.get, "/")
        assert transport.connections()[server.url] == (2, 2)
        result = await http.get("/")
    assert [attempt.outcome.split(" ", 1)[0] for attempt in record(result).attempts] == ["stale", "200"]


def answer_together_then_close(parties: int) -> Handler:
    """Answers once all parties have asked, and then closes in the moment when the next request arrives."""
    barrier = threading.Barrier(parties, timeout=5)

    def handler(connection: raw_servers.Connection) -> None:
        assert connection.read_request() is not None
        barrier.wait()
        connection.respond()
        connection.wait_until_readable()
        connection.reset()

    return handler


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_body_that_is_refused_while_it_is_sent(raw_server: MakeRawServer, method: str) -> None:
    """413 and a close: an answer, if the client gets to see it, and then nobody's fault. It may be lost in the RST."""
    picky, other = raw_server(raw_servers.refuse_body()), raw_server()
    transport = AsyncBalancedTransport(
        [picky.url, other.url], algorithm="first", connect=Connect(socket_options=SMALL_BUFFERS)
    )
    result: httpx.Response | Exception
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        try:
            result = await http.request(method, "/", content=BIG)
        except httpx.TransportError as exc:
            result = exc
    first, *after = record(result).attempts
    if first.outcome == "413":
        assert not after
        assert isinstance(result, httpx.Response)
        assert transport.pools["default"].status().backends[0].failures == 0
    else:
        assert first.outcome.startswith("reset")
        assert bool(after) == (method == "PUT")
    assert picky.accepted == 1


async def test_an_end_without_a_length_cannot_be_told_from_a_whole_response(
    raw_server: MakeRawServer,
) -> None:
    server, other = raw_server(raw_servers.fin_without_length), raw_server()
    transport = AsyncBalancedTransport([server.url, other.url], algorithm="first")
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        response = await http.get("/")
    assert response.content == b"half "
    assert transport.pools["default"].status().backends[0].failures == 0
    assert other.accepted == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_gives_up_blames_nobody_and_goes_nowhere_else(
    raw_server: MakeRawServer, method: str
) -> None:
    server, other = raw_server(raw_servers.never_answer), raw_server()
    transport = AsyncBalancedTransport([server.url, other.url], algorithm="first")
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        async with anyio.create_task_group() as group:
            group.start_soon(http.request, method, "/")
            await until(lambda: bool(server.requests))
            group.cancel_scope.cancel()
        (state, _) = transport.pools["default"].status().backends
        assert (state.in_flight, state.failures, state.successes) == (0, 0, 0)
    assert len(server.requests) == 1
    assert other.accepted == 0


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.005)
