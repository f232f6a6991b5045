"""One transport in several event loops at a time: whatever ends connections ends those of every loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpx
import pytest
import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from lbclient import AsyncBalancedTransport, DrainTimeout
from lbclient._async import elsewhere as errands
from lbclient._async.connections import Connections
from lbclient._async.elsewhere import run_in
from lbclient._async.loops import is_over, running_loop
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import RawServer, never_answer, respond

_T = TypeVar("_T")


@pytest.fixture(params=["asyncio", "trio"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[BlockingPortal]:
    """An event loop in another thread."""
    with start_blocking_portal(request.param) as portal:
        yield portal


def client(transport: AsyncBalancedTransport) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://orders", timeout=20)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.01)


async def begin(portal: BlockingPortal, function: Callable[..., Awaitable[_T]], *args: Any) -> Future[_T]:
    """Start it there; what it waits for is a thread, for trio lets nobody block a task of its own."""
    return await anyio.to_thread.run_sync(portal.start_task_soon, function, *args)


async def failure_of_a_request(transport: AsyncBalancedTransport) -> Exception:
    with pytest.raises(httpx.ReadError) as caught:
        await client(transport).get("/")
    return caught.value


async def leave(transport: AsyncBalancedTransport) -> None:
    """Close this loop's connections, as `aclose` does, and keep the transport."""
    await transport._ios["default"]._engines[running_loop()].aclose()


def stalling(raw_server: MakeRawServer) -> tuple[RawServer, RawServer, AsyncBalancedTransport]:
    slow, other = raw_server(never_answer), raw_server(respond())
    return slow, other, AsyncBalancedTransport([slow.url, other.url], algorithm="first")


async def test_the_end_of_a_grace_period_is_one_in_every_loop(
    raw_server: MakeRawServer, elsewhere: BlockingPortal
) -> None:
    slow, _, transport = stalling(raw_server)
    errors: list[Exception] = []

    async def ask_here() -> None:
        errors.append(await failure_of_a_request(transport))

    async with anyio.create_task_group() as group:
        group.start_soon(ask_here)
        there = await begin(elsewhere, failure_of_a_request, transport)
        await until(lambda: len(slow.requests) == 2)
        report = await transport.drain(slow.url, grace=0.1)
        assert (report.drained, report.in_flight_at_start, report.closed) == (False, 2, 2)
        await until(there.done)
    for error in (*errors, there.result()):
        assert isinstance(error, DrainTimeout)
        assert "was drained, and its grace period of 0.1 s has ended" in str(error)
    assert slow.url not in transport.connections()
    assert slow.wait_until(lambda server: server.open == 0)
    await transport.aclose()


async def test_closing_the_transport_closes_it_in_every_loop(
    raw_server: MakeRawServer, elsewhere: BlockingPortal
) -> None:
    slow, _, transport = stalling(raw_server)
    there = await begin(elsewhere, failure_of_a_request, transport)
    await until(lambda: len(slow.requests) == 1)
    await transport.aclose()
    await until(there.done)
    there.result()
    assert slow.wait_until(lambda server: server.open == 0)


async def test_every_loop_lets_go_of_a_backend_that_left(
    servers: SharedServers, elsewhere: BlockingPortal
) -> None:
    one, other = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url, other.url], algorithm="round_robin")

    async def ask() -> None:
        for _ in range(2):
            await client(transport).get("/whoami")

    await ask()
    await anyio.to_thread.run_sync(elsewhere.call, ask)
    assert transport.connections() == {one.url: (2, 2), other.url: (2, 2)}
    transport.pools["default"].remove(one.url)
    await ask()  # the first loop to notice is not the only one
    await anyio.to_thread.run_sync(elsewhere.call, ask)
    assert transport.connections() == {other.url: (2, 2)}
    await transport.aclose()


async def test_a_change_while_connections_are_closed_after_another_one_hurts_nobody(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_idle, closing = Connections.close_idle, anyio.Event()

    async def close_slowly(connections: Connections) -> None:
        closing.set()
        await anyio.sleep(0.05)
        await close_idle(connections)

    monkeypatch.setattr(Connections, "close_idle", close_slowly)
    fleet = [raw_server(respond()) for _ in range(4)]
    transport = AsyncBalancedTransport([server.url for server in fleet], algorithm="round_robin")
    pool = transport.pools["default"]
    http = client(transport)
    for _ in fleet:
        await http.get("/")
    pool.update([server.url for server in fleet[2:]])
    async with anyio.create_task_group() as group:
        group.start_soon(http.get, "/")
        await closing.wait()
        pool.remove(fleet[2].url)
        await http.get("/")
    assert set(transport.connections()) == {fleet[3].url}
    for server in fleet[:3]:
        assert server.wait_until(lambda server: server.open == 0)
    await transport.aclose()


async def test_a_loop_that_has_ended_is_not_waited_for(raw_server: MakeRawServer) -> None:
    slow, other, transport = stalling(raw_server)

    async def ask_and_leave() -> None:
        with anyio.move_on_after(0.2):
            await client(transport).get("/")
        assert not is_over(running_loop())
        await leave(transport)

    for backend in ("asyncio", "trio"):
        await anyio.to_thread.run_sync(partial(anyio.run, ask_and_leave, backend=backend))
        io = transport._ios["default"]
        (loop,) = io._engines
        assert is_over(loop)
        with anyio.fail_after(errands.DONE_WITHIN - 1):
            assert (await transport.drain(slow.url, grace=0)).closed == 0
        transport.pools["default"].enable(slow.url)
        await transport.drain(slow.url)
        await client(transport).get("/")
        assert list(io._engines) == [running_loop()], "the next loop drops those that are over"
        await leave(transport)
        io._engines.clear()
        transport.pools["default"].enable(slow.url)
    assert other.accepted == 2
    await transport.aclose()


async def test_a_loop_that_is_blocked_does_it_later(
    raw_server: MakeRawServer,
    elsewhere: BlockingPortal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(errands, "DONE_WITHIN", 0.1)
    slow, _, transport = stalling(raw_server)
    there = await begin(elsewhere, failure_of_a_request, transport)
    await until(lambda: len(slow.requests) == 1)
    go_on = threading.Event()

    async def block() -> None:
        go_on.wait()

    await begin(elsewhere, block)
    try:
        report = await transport.drain(slow.url, grace=0)
        assert (report.in_flight_at_start, report.closed) == (1, 0)
        assert f"closing what is left to {slow.url}: another event loop did not get to it" in caplog.text
    finally:
        go_on.set()
    await until(there.done)
    assert isinstance(there.result(), DrainTimeout)
    await transport.aclose()


async def test_what_fails_in_another_loop_is_logged_there(
    elsewhere: BlockingPortal, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> int:
        raise ValueError("broken")

    async def where() -> object:
        return running_loop()

    async def succeed() -> object:
        return running_loop()

    loop = await anyio.to_thread.run_sync(elsewhere.call, where)
    assert await run_in(loop, succeed, "asking") == [loop]
    assert await run_in(loop, fail, "asking") == []
    assert "asking failed in another event loop" in caplog.text
    assert "ValueError: broken" in caplog.text


def test_a_loop_that_stands_still_is_asked_and_not_waited_for() -> None:
    done: list[object] = []
    loop = asyncio.new_event_loop()

    async def errand() -> int:
        done.append(asyncio.get_running_loop())
        return 1

    async def ask() -> Any:
        with anyio.fail_after(errands.DONE_WITHIN - 1):
            return await run_in(loop, errand, "asking")

    assert anyio.run(ask) == []
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    assert done == [loop]


def test_trio_as_a_guest_of_asyncio_is_told_from_its_host() -> None:
    async def as_guest() -> tuple[object, object]:
        return running_loop(), trio.lowlevel.current_trio_token()

    async def as_host() -> tuple[object, object]:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            as_guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda outcome: over.set_result(outcome.unwrap()),
        )
        assert running_loop() is loop
        called: asyncio.Future[object] = loop.create_future()
        loop.call_soon(lambda: called.set_result(running_loop()))
        assert await called is loop
        seen: tuple[object, object] = await over
        return seen

    guest, token = asyncio.run(as_host())
    assert guest is token
