"""Retries, copies, races, deadlines and limits, carried out: who gets the request, and how often."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import anyio
import httpx
import pytest
from tenacity import stop_after_attempt, wait_none

from lbclient import (
    AsyncBalancedTransport,
    Connect,
    DeadlineExceeded,
    Hedge,
    NoBackendAvailable,
    Record,
    Retry,
    RetryBudget,
)
from lbclient._async.network import CountedStream, open_stream
from lbclient.core.backend import Backend
from tests.conftest import MakeRawServer
from tests.core.pools import estimate_of
from tests.servers import Connection, free_port
from tests.servers.raw import after, after_request, full_backlog, reply, reset, respond, stall

pytestmark = pytest.mark.anyio

BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"


def client(transport: AsyncBalancedTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://orders", **options)


def record(response: httpx.Response) -> Record:
    found = response.extensions["lbclient"]
    assert isinstance(found, Record)
    return found


def first(*urls: str, **options: Any) -> AsyncBalancedTransport:
    return AsyncBalancedTransport(list(urls), algorithm="first", **options)


def in_flight(transport: AsyncBalancedTransport) -> int:
    return sum(status.in_flight for pool in transport.pools.values() for status in pool.status().backends)


# Retries


async def test_a_reset_get_is_sent_elsewhere_and_a_reset_post_is_not(raw_server: MakeRawServer) -> None:
    bad, good = raw_server(after_request(reset)), raw_server(respond())
    transport = first(bad.url, good.url)
    async with client(transport) as http:
        response = await http.get("/")
        assert record(response).backend == good.url
        assert [a.backend for a in record(response).attempts] == [bad.url, good.url]
        with pytest.raises(httpx.ReadError) as caught:
            await http.post("/", content=b"x")
        assert "attempt 1" in caught.value.__notes__[0]
    assert len(bad.requests) == 2
    assert in_flight(transport) == 0


async def test_who_has_failed_is_tried_by_what_can_be_sent_again(raw_server: MakeRawServer) -> None:
    healed, good = raw_server(respond()), raw_server(respond())
    transport = AsyncBalancedTransport([healed.url, good.url])
    pool = transport.pools["default"]
    for _ in range(4):
        pool.pick(exclude=[good.url]).succeeded(0.001, 500)
    estimate = estimate_of(pool, healed.url)

    async def streamed() -> AsyncIterator[bytes]:
        yield b"x"

    async with client(transport) as http:
        served: list[str | None] = []
        for content in (streamed(), b"x"):
            estimate.trial = 0.0  # from now on
            served.append(record(await http.put("/", content=content)).backend)
        assert served == [good.url, healed.url]


async def test_what_was_never_sent_costs_the_budget_nothing(raw_server: MakeRawServer) -> None:
    nobody, good = f"http://127.0.0.1:{free_port()}", raw_server(respond())
    broke = Retry(budget=RetryBudget(ratio=0, min_per_second=0))
    async with client(first(nobody, good.url, retry=broke)) as http:
        assert record(await http.post("/", content=b"x")).backend == good.url

    def refuse(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a":
            raise httpx.ConnectError("refused")
        return httpx.Response(200)

    inner = first("http://a", "http://b", retry=broke, inner=lambda backend: httpx.MockTransport(refuse))
    async with client(inner) as http:
        assert record(await http.post("/", content=b"x")).backend == "http://b"


async def test_what_broke_before_anything_was_sent_goes_elsewhere_whatever_its_method(
    raw_server: MakeRawServer,
) -> None:
    about_to_send = threading.Event()

    def leave(connection: Connection) -> None:
        about_to_send.wait(5)
        connection.reset()

    leaving, good = raw_server(leave), raw_server(respond())
    transport = first(leaving.url, good.url)

    async def until_it_has_left(event: str, info: Any) -> None:
        if event == "http11.send_request_headers.started" and not about_to_send.is_set():
            about_to_send.set()
            leaving.wait_until(lambda server: server.open == 0)
            await anyio.sleep(0.05)  # for the event loop to hear of it

    async with client(transport) as http:
        response = await http.post("/", content=b"x", extensions={"trace": until_it_has_left})
    assert record(response).backend == good.url
    assert [a.outcome.partition(" ")[0] for a in record(response).attempts] == ["reset", "200"]
    assert not leaving.received


async def test_a_503_is_asked_for_again_elsewhere_and_its_connection_is_kept(
    raw_server: MakeRawServer,
) -> None:
    busy, good = raw_server(reply(BUSY, BUSY)), raw_server(respond())
    transport = first(busy.url, good.url)
    async with client(transport) as http:
        for _ in range(2):
            response = await http.get("/")
            assert (response.status_code, record(response).backend) == (200, good.url)
    assert busy.accepted == 1
    assert in_flight(transport) == 0


async def test_the_last_response_is_returned_when_attempts_end_on_a_status(raw_server: MakeRawServer) -> None:
    busy = raw_server(reply(*[BUSY] * 3))
    transport = first(busy.url, retry=Retry(wait=wait_none()))
    async with client(transport) as http:
        response = await http.get("/")
    assert (response.status_code, response.text, len(record(response).attempts)) == (503, "busy", 3)
    assert in_flight(transport) == 0


async def test_a_long_response_that_nobody_wants_is_not_read_to_its_end(raw_server: MakeRawServer) -> None:
    endless = b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 50_000
    busy, good = raw_server(reply(endless, then=stall)), raw_server(respond())
    transport = first(busy.url, good.url)
    async with client(transport) as http:
        assert (await http.get("/")).status_code == 200
    assert in_flight(transport) == 0


async def test_a_request_cancelled_between_attempts_leaves_nothing(raw_server: MakeRawServer) -> None:
    busy = raw_server(reply(b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"))
    transport = first(busy.url)
    async with client(transport) as http:
        with anyio.move_on_after(0.2) as scope:
            await http.get("/")
        assert scope.cancelled_caught
        assert in_flight(transport) == 0


async def test_a_stale_connection_is_replaced_by_a_fresh_one(raw_server: MakeRawServer) -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    closes = raw_server([reply(ok, then=after_request(reset)), respond()])
    transport = first(closes.url, retry=Retry(stop=stop_after_attempt(1)))
    async with client(transport) as http:
        await http.get("/")
        response = await http.get("/")
        assert [a.outcome.partition(" ")[0] for a in record(response).attempts] == ["stale", "200"]
    assert transport.pools["default"].status().backends[0].failures == 0


@pytest.mark.parametrize("how", ["reset", "slow"])
async def test_the_handshake_of_a_websocket_goes_to_one_server_only(
    raw_server: MakeRawServer, how: str
) -> None:
    bad, good = raw_server(after_request(reset if how == "reset" else stall)), raw_server(respond())
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    transport = first(bad.url, good.url, hedge=Hedge(delay=0.02, budget=1))
    async with client(transport, timeout=httpx.Timeout(5, read=0.2)) as http:
        with pytest.raises((httpx.ReadError, httpx.ReadTimeout)):
            await http.get("/", headers=headers)
    assert (len(bad.requests), good.accepted) == (1, 0)


# Bodies


async def parts() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def test_bytes_and_forms_are_sent_again(raw_server: MakeRawServer) -> None:
    for content in ({"content": b"payload"}, {"files": {"f": BytesIO(b"payload")}}, {"json": "payload"}):
        bad, good = raw_server(after_request(reset)), raw_server(respond())
        async with client(first(bad.url, good.url)) as http:
            response = await http.put("/", **content)
            assert record(response).backend == good.url
        assert b"payload" in good.requests[0]
        assert good.requests[0].partition(b"\r\n\r\n")[2] == bad.requests[0].partition(b"\r\n\r\n")[2]


async def test_a_generator_is_not_sent_again_once_it_was_read(raw_server: MakeRawServer) -> None:
    bad, good = raw_server(after_request(reset)), raw_server(respond())
    async with client(first(bad.url, good.url)) as http:
        with pytest.raises(httpx.ReadError):
            await http.put("/", content=parts())
    assert not good.requests


async def test_a_generator_is_sent_again_as_far_as_it_was_kept(raw_server: MakeRawServer) -> None:
    for keep, again in ((6, True), (5, False)):
        bad, good = raw_server(after_request(reset)), raw_server(respond())
        async with client(first(bad.url, good.url, retry=Retry(max_buffer=keep))) as http:
            if again:
                await http.put("/", content=parts())
                assert good.requests[0].endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
            else:
                with pytest.raises(httpx.ReadError):
                    await http.put("/", content=parts())


async def test_a_generator_of_which_nothing_was_read_goes_elsewhere(raw_server: MakeRawServer) -> None:
    good = raw_server(respond())
    async with client(first("http://127.0.0.1:1", good.url)) as http:
        assert (await http.post("/", content=parts())).status_code == 200


# The deadline


async def test_the_deadline_covers_all_attempts(raw_server: MakeRawServer) -> None:
    silent = raw_server(after_request(stall))
    transport = first(silent.url)
    async with client(transport, timeout=5) as http:
        with anyio.fail_after(3), pytest.raises(DeadlineExceeded, match="attempt 1") as caught:
            await http.get("/", extensions={"lbclient": {"deadline": 0.2}})
    assert isinstance(caught.value, httpx.TimeoutException)
    assert caught.value.lbclient.backend == silent.url  # type: ignore[attr-defined]
    assert transport.pools["default"].status().backends[0].failures == 1


async def test_the_deadline_covers_the_body(raw_server: MakeRawServer) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
    slow = raw_server(reply(head, then=stall))
    async with client(first(slow.url), timeout=5) as http:
        with (
            anyio.fail_after(3),
            pytest.raises(DeadlineExceeded, match="while its response was read") as caught,
        ):
            await http.get("/", extensions={"lbclient": {"deadline": 0.2}})
    assert isinstance(caught.value, httpx.TimeoutException)
    assert caught.value.lbclient.backend == slow.url  # type: ignore[attr-defined]


# Races


async def test_the_first_to_connect_gets_the_request(raw_server: MakeRawServer) -> None:
    good = raw_server(respond())
    with full_backlog() as port:
        black_hole = f"http://127.0.0.1:{port}"
        transport = first(black_hole, good.url, connect=Connect(start_next_after=0.05))
        async with client(transport) as http:
            response = await http.post("/", content=b"x")
            assert record(response).backend == good.url
            assert {a.outcome.partition(" ")[0] for a in record(response).attempts} == {"beaten", "200"}
            for _ in range(3):
                response = await http.get("/")
                assert len(record(response).attempts) == 1, "it is left alone for a while"
    assert in_flight(transport) == 0
    assert len(good.requests) == 4


@pytest.mark.parametrize(("seconds", "held_back"), [((0.12, 9), [False, False]), ((9, 0.02), [True, False])])
async def test_only_who_was_asked_before_the_winner_is_held_back(
    raw_server: MakeRawServer,
    monkeypatch: pytest.MonkeyPatch,
    seconds: tuple[float, float],
    held_back: list[bool],
) -> None:
    servers = [raw_server(respond()) for _ in seconds]
    takes = {server.url: delay for server, delay in zip(servers, seconds, strict=True)}

    async def slowly(backend: Backend, **options: Any) -> CountedStream:
        await anyio.sleep(takes[backend.url])
        return await open_stream(backend, **options)

    monkeypatch.setattr("lbclient._async.engine.open_stream", slowly)
    transport = first(*takes, connect=Connect(start_next_after=0.05, connect_timeout=5, engine="httpcore"))
    async with client(transport) as http:
        await http.get("/")
        assert [not status.available for status in transport.pools["default"].status().backends] == held_back


async def test_a_black_hole_costs_its_connect_timeout_once(raw_server: MakeRawServer) -> None:
    good = raw_server(respond())
    with full_backlog() as port:
        transport = first(f"http://127.0.0.1:{port}", good.url, connect=Connect(connect_timeout=0.2))
        async with client(transport) as http:
            assert [len(record(await http.get("/")).attempts) for _ in range(3)] == [2, 1, 1]
    assert transport.pools["default"].status().backends[0].ejected


async def test_who_fails_to_connect_is_followed_at_once(raw_server: MakeRawServer) -> None:
    good = raw_server(respond())
    transport = first("http://127.0.0.1:1", good.url, connect=Connect(start_next_after=30))
    async with client(transport) as http:
        assert record(await http.get("/")).backend == good.url
    lonely = first("http://127.0.0.1:1", connect=Connect(start_next_after=30), retry=None)
    async with client(lonely) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/")


async def test_a_copy_answers_for_a_slow_backend(raw_server: MakeRawServer) -> None:
    slow, quick = raw_server(after_request(stall)), raw_server(respond())
    transport = first(slow.url, quick.url, hedge=Hedge(delay=0.05, budget=1))
    async with client(transport) as http:
        response = await http.get("/")
        assert record(response).backend == quick.url
        assert [a.outcome.partition(" ")[0] for a in record(response).attempts] == ["beaten", "200"]
        with anyio.move_on_after(0.3) as scope:
            await http.post("/", content=b"x")
        assert scope.cancelled_caught, "what is not safe is not copied"
    assert len(quick.requests) == 1
    assert in_flight(transport) == 0
    assert [status.failures for status in transport.pools["default"].status().backends] == [0, 0]


async def test_a_copy_that_fails_leaves_the_first_one_alone(raw_server: MakeRawServer) -> None:
    slow, bad = raw_server(after(0.3, respond())), raw_server(after_request(reset))
    transport = first(slow.url, bad.url, hedge=Hedge(delay=0.05, budget=1))
    async with client(transport) as http:
        response = await http.get("/")
    assert record(response).backend == slow.url


async def test_when_all_fail_the_error_is_that_of_one_of_them(raw_server: MakeRawServer) -> None:
    bad = raw_server(after_request(after(0.2, reset)))
    worse = raw_server(after_request(reset))
    transport = first(
        bad.url, worse.url, hedge=Hedge(delay=0.05, budget=1), retry=Retry(stop=stop_after_attempt(1))
    )
    async with client(transport) as http:
        with pytest.raises(httpx.ReadError):
            await http.get("/")
    assert in_flight(transport) == 0


async def test_a_cancelled_race_leaves_nothing(raw_server: MakeRawServer) -> None:
    servers = [raw_server(after_request(stall)) for _ in range(2)]
    transport = first(*(s.url for s in servers), hedge=Hedge(delay=0.05, budget=1))
    async with client(transport) as http:
        with anyio.move_on_after(0.3):
            await http.get("/")
        assert in_flight(transport) == 0
    assert all(server.requests for server in servers)


# Limits


async def test_a_full_pool_is_waited_for(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = first(server.url, max_in_flight=1)
    order: list[int] = []

    async def ask(http: httpx.AsyncClient, number: int) -> None:
        await http.get(f"/{number}")
        order.append(number)

    async with client(transport) as http, anyio.create_task_group() as group, http.stream("GET", "/"):
        for number in range(5):
            group.start_soon(ask, http, number)
            await anyio.sleep(0.01)
        assert not order
    assert order == [0, 1, 2, 3, 4]


async def test_past_the_pool_timeout_it_is_a_pool_timeout(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = first(server.url, max_in_flight=1, max_pending=1)
    async with client(transport, timeout=httpx.Timeout(5, pool=0.1)) as http, http.stream("GET", "/"):
        with pytest.raises(httpx.PoolTimeout, match=r"1 in flight, the limit.*no room within 0\.1 s"):
            await http.get("/")
        with pytest.raises(NoBackendAvailable, match="1 in flight, the limit"):
            await http.get("/", timeout=None)


async def test_past_the_length_of_the_queue_requests_are_refused_at_once(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = first(server.url, max_in_flight=1, max_pending=0)
    async with client(transport) as http, http.stream("GET", "/"):
        with pytest.raises(NoBackendAvailable, match="max_pending"):
            await http.get("/")


async def test_who_waits_and_gets_nobody_after_all_is_told_why(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = first(server.url, max_in_flight=1, fail_open=False)
    failed: list[Exception] = []

    async def ask(http: httpx.AsyncClient) -> None:
        try:
            await http.get("/")
        except NoBackendAvailable as exc:
            failed.append(exc)

    async with client(transport) as http, anyio.create_task_group() as group, http.stream("GET", "/"):
        group.start_soon(ask, http)
        await anyio.sleep(0.05)
        transport.pools["default"].disable(server.url)
    assert "disabled" in str(failed[0])
