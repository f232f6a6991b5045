"""Drains and flips under load, on real servers: nothing is lost, and what is cut off is told why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import TaskGroup

from lbclient import (
    AsyncBalancedTransport,
    CookieAffinity,
    DrainReport,
    DrainTimeout,
    Guard,
    HttpProbe,
    Pool,
    Route,
    Router,
    SwapReport,
)
from lbclient.core import errors as core_errors
from tests.conftest import MakeRawServer, SharedServers, StartServer
from tests.servers.raw import RawServer, after_request, respond, stall


def client(transport: AsyncBalancedTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://orders", **options)


@asynccontextmanager
async def load(http: httpx.AsyncClient, clients: int) -> AsyncIterator[list[int]]:
    """So many clients that stream answers for a while, until the block ends; every status, or the error."""
    statuses: list[int] = []
    running = True

    async def ask() -> None:
        while running:
            response = await http.get("/stream", params={"chunks": 4, "size": 10, "delay": 0.02})
            assert len(response.content) == 40
            statuses.append(response.status_code)

    async with anyio.create_task_group() as group:
        for _ in range(clients):
            group.start_soon(ask)
        yield statuses
        running = False


@asynccontextmanager
async def one_in_flight(
    raw_server: MakeRawServer,
) -> AsyncIterator[tuple[AsyncBalancedTransport, RawServer, RawServer, TaskGroup]]:
    """A transport, the server that has a request and never answers, one that does; cancelled in the end."""
    slow, other = raw_server(after_request(stall)), raw_server(respond())
    transport = AsyncBalancedTransport([slow.url, other.url], algorithm="first")
    async with client(transport) as http, anyio.create_task_group() as group:
        group.start_soon(http.get, "/")
        while not slow.requests:
            await anyio.sleep(0.01)
        yield transport, slow, other, group
        group.cancel_scope.cancel()


async def test_rolling_replacement_under_load_loses_nothing(start_server: StartServer) -> None:
    fleet = [start_server("uvicorn", name=f"s{number}") for number in range(3)]
    transport = AsyncBalancedTransport([server.url for server in fleet])
    async with client(transport) as http, load(http, 15) as statuses:
        for server in fleet:
            report = await transport.drain(server.url, grace=20)
            assert report.drained
            assert report.closed == 0
            await anyio.to_thread.run_sync(server.restart)  # stopped only after the drain reported
            transport.pools["default"].enable(server.url)
            seen = len(statuses)
            while len(statuses) < seen + 30:
                await anyio.sleep(0.01)
    assert set(statuses) == {200}


async def test_an_idle_backend_drains_at_once(servers: SharedServers) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url, other.url])
    async with client(transport) as http:
        with anyio.fail_after(5):
            report = await transport.drain(one.url + "/", grace=300)
        assert report == DrainReport(one.url, True, report.waited, 0, 0)
        status = transport.pools["default"].status().backends[0]
        assert (status.admin, status.available) == ("disabled", False)
        assert {(await http.get("/whoami")).text for _ in range(5)} == {other.name}


async def test_after_the_grace_period_callers_are_cut_off_and_told_why(raw_server: MakeRawServer) -> None:
    slow, other = raw_server(after_request(stall)), raw_server(respond())
    transport = AsyncBalancedTransport([slow.url, other.url], algorithm="first")
    caught: list[httpx.ReadError] = []

    async def ask() -> None:
        with pytest.raises(httpx.ReadError) as error:
            await http.get("/", timeout=None)
        caught.append(error.value)

    async with client(transport) as http, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(ask)
        while len(slow.requests) < 2:
            await anyio.sleep(0.01)
        report = await transport.drain(slow.url, grace=0.1)
        assert (report.drained, report.in_flight_at_start, report.closed) == (False, 2, 2)
    for error in caught:
        assert isinstance(error, DrainTimeout)
        assert isinstance(error, core_errors.DrainTimeout)
        assert "was drained, and its grace period of 0.1 s has ended" in str(error)
    status = transport.pools["default"].status().backends[0]
    assert (status.in_flight, status.failures) == (0, 0)


async def test_a_body_is_cut_off_too(servers: SharedServers) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url, other.url], algorithm="first")
    async with client(transport) as http:
        response = await http.send(
            http.build_request("GET", "/stream", params={"chunks": 500, "delay": 0.05}), stream=True
        )
        async with anyio.create_task_group() as group:
            group.start_soon(_drain_now, transport, one.url)
            with pytest.raises(httpx.ReadError, match="was drained"):
                await response.aread()
        await response.aclose()
        assert (await http.get("/whoami")).text == other.name


async def _drain_now(transport: AsyncBalancedTransport, url: str) -> None:
    assert (await transport.drain(url, grace=0.1)).closed == 1


async def test_sticky_sessions_stay_until_the_grace_period_ends(servers: SharedServers) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url, other.url], algorithm="first", affinity=CookieAffinity())
    async with client(transport) as http, anyio.create_task_group() as group:
        assert (await http.get("/whoami")).text == one.name
        group.start_soon(transport.drain, one.url)
        await anyio.sleep(0.05)
        assert (await http.get("/whoami")).text == one.name
        group.cancel_scope.cancel()
    transport = AsyncBalancedTransport([one.url, other.url], algorithm="first", affinity=CookieAffinity())
    async with client(transport) as http:
        await http.get("/whoami")
        report = await transport.drain(one.url, grace=0.2)
        assert report.drained
        assert report.waited >= 0.2
        assert (await http.get("/whoami")).text == other.name


async def test_an_operator_can_take_a_drain_back(raw_server: MakeRawServer) -> None:
    async with one_in_flight(raw_server) as (transport, slow, _, group):

        async def enable() -> None:
            await anyio.sleep(0.05)
            transport.pools["default"].enable(slow.url)

        group.start_soon(enable)
        report = await transport.drain(slow.url)
        assert (report.drained, report.closed) == (False, 0)
        assert transport.pools["default"].status().backends[0].admin == "active"


async def test_a_backend_that_is_replaced_under_its_url_while_it_drains_is_left_alone(
    raw_server: MakeRawServer,
) -> None:
    async with one_in_flight(raw_server) as (transport, slow, other, group):
        pool = transport.pools["default"]

        async def replace() -> None:
            await anyio.sleep(0.05)
            pool.remove(slow.url)
            pool.add(slow.url)

        group.start_soon(replace)
        report = await transport.drain(slow.url, grace=20)
        assert (report.drained, report.closed) == (False, 0)
        assert [(status.url, status.admin) for status in pool.status().backends] == [
            (other.url, "active"),
            (slow.url, "active"),
        ]
        assert slow.open == 1


async def test_whoever_hears_that_nothing_is_in_flight_finds_the_connection_given_back(
    raw_server: MakeRawServer,
) -> None:
    one, other = raw_server(respond()), raw_server(respond())
    transport = AsyncBalancedTransport([one.url, other.url], algorithm="first")
    pool = transport.pools["default"]
    heard: list[tuple[int, tuple[int, int]]] = []

    def look() -> None:
        heard.append((pool.status().backends[0].in_flight, transport.connections()[one.url]))

    async with client(transport) as http:
        async with http.stream("GET", "/"):
            pool.begin_drain(one.url)
            pool.subscribe(look)
        assert heard == [(0, (0, 0))]


async def test_one_change_at_a_time(raw_server: MakeRawServer) -> None:
    async with one_in_flight(raw_server) as (transport, slow, other, group):
        group.start_soon(transport.drain, slow.url)
        await anyio.sleep(0.05)
        with pytest.raises(RuntimeError, match=f"a drain of {slow.url} is under way"):
            await transport.drain(slow.url)
        with pytest.raises(RuntimeError, match="wait for it before you start a swap of pool 'default'"):
            await transport.swap([other.url])
        assert (await transport.drain(other.url)).drained


async def test_which_pool_has_to_be_plain(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    one, two = Pool([server.url], name="one"), Pool([server.url, "http://b"], name="two")
    transport = AsyncBalancedTransport(Router([Route(path="/1/*", to=one)], default=two))
    with pytest.raises(ValueError, match="is in the pools 'one', 'two'; write pool="):
        await transport.drain(server.url)
    with pytest.raises(ValueError, match="this transport is in the pools 'one', 'two'"):
        await transport.swap(["http://c"])
    with pytest.raises(ValueError, match="'http://x' is in no pool"):
        await transport.drain("http://x")
    with pytest.raises(ValueError, match="pool is 'three'; the pools are 'one', 'two'"):
        await transport.drain(server.url, pool="three")
    assert (await transport.drain("http://b")).drained
    assert (await transport.drain(server.url, pool="two")).drained
    await transport.aclose()


# Flips


async def test_a_flip_under_load_loses_nothing(start_server: StartServer) -> None:
    blue = [start_server("uvicorn", name=f"blue-{number}") for number in range(2)]
    green = [start_server("uvicorn", name=f"green-{number}") for number in range(2)]
    probe = HttpProbe("/health", interval=5)
    transport = AsyncBalancedTransport([server.url for server in blue], probe=probe)
    async with client(transport) as http:
        await transport.wait_until_ready()
        async with load(http, 15) as statuses:
            for old, new in ((blue, green), (green, blue)):
                report = await transport.swap(
                    [server.url for server in new], when_healthy_within=20, grace=20
                )
                assert report.swapped
                assert set(report.removed) == {server.url for server in old}
                assert all(drain.drained for drain in report.drains)
                seen = len(statuses)
                while len(statuses) < seen + 30:
                    await anyio.sleep(0.01)
                members = {status.url for status in transport.pools["default"].status().backends}
                assert members == {server.url for server in new}
    assert set(statuses) == {200}


async def test_a_set_that_is_not_healthy_in_time_changes_nothing(servers: SharedServers) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url], probe=HttpProbe("/health", interval=5))
    async with client(transport) as http:
        await transport.wait_until_ready()
        report = await transport.swap([other.url, "http://127.0.0.1:1"], when_healthy_within=0.5)
        assert not report.swapped
        assert "not healthy within 0.5 s: http://127.0.0.1:1 (check failing)" in report.reason
        assert [status.url for status in transport.pools["default"].status().backends] == [one.url]
        assert (await http.get("/whoami")).text == one.name


async def test_a_swap_that_is_cancelled_leaves_the_old_set_serving(servers: SharedServers) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url], probe=HttpProbe("/health", interval=5))
    async with client(transport) as http:
        with anyio.move_on_after(0.1):
            await transport.swap([other.url, "http://127.0.0.1:1"])
        assert [status.url for status in transport.pools["default"].status().backends] == [one.url]
        assert (await http.get("/whoami")).text == one.name


async def test_an_old_backend_that_somebody_removes_after_the_flip_is_not_missed(
    raw_server: MakeRawServer,
) -> None:
    stays, leaves, new = raw_server(respond()), raw_server(respond()), raw_server(respond())
    transport = AsyncBalancedTransport([stays.url, leaves.url])
    pool = transport.pools["default"]

    async def remove_after_the_flip() -> None:
        while pool.status().backends[1].admin != "standby":
            await anyio.sleep(0.01)
        pool.remove(leaves.url)

    async with client(transport), anyio.create_task_group() as group:
        group.start_soon(remove_after_the_flip)
        report = await transport.swap([new.url], guard=Guard(window=0.3))
    assert report.swapped
    assert [drain.url for drain in report.drains] == [stays.url]
    assert [status.url for status in pool.status().backends] == [new.url]


async def test_a_guard_rolls_back(raw_server: MakeRawServer) -> None:
    good, bad = raw_server(respond()), raw_server(respond(500))
    transport = AsyncBalancedTransport([good.url])
    reports: list[SwapReport] = []

    async def flip() -> None:
        reports.append(await transport.swap([bad.url], guard=Guard(window=20, min_requests=10)))

    async with client(transport) as http:
        for _ in range(20):
            await http.get("/")
        async with anyio.create_task_group() as group:
            group.start_soon(flip)
            while not reports:
                await http.get("/")
                await anyio.sleep(0.01)
        assert (await http.get("/")).status_code == 200
    (report,) = reports
    assert (report.swapped, report.rolled_back) == (False, True)
    assert "0.0% of" in report.reason


async def test_a_guard_keeps_what_works(raw_server: MakeRawServer) -> None:
    old, new = raw_server(respond()), raw_server(respond())
    transport = AsyncBalancedTransport([old.url])
    async with client(transport) as http:
        await http.get("/")
        report = await transport.swap([new.url], guard=Guard(window=0.2, min_requests=1))
        assert report.swapped
        assert report.drains[0].drained
        assert (await http.get("/")).status_code == 200
    assert (old.accepted, new.accepted) == (1, 1)
