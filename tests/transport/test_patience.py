"""A connect that our own event loop had no time for says nothing about the server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpcore
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect, Pool
from lbclient._async.patience import TURNS, Patience, Starved
from tests.conftest import MakeRawServer
from tests.servers.raw import respond

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _short_turns_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbclient._async.patience.LONG", 0.005)


def keep_busy(seconds: float, times: int) -> None:
    """Make so many turns of the event loop that long, from the next one on."""
    loop = asyncio.get_running_loop()

    def turn(left: int = times) -> None:
        time.sleep(seconds)
        if left > 1:
            loop.call_soon(turn, left - 1)

    loop.call_soon(turn)


async def connect(patience: Patience, turns: int) -> None:
    """What takes so many turns of the event loop."""
    with patience.step():
        for _ in range(turns):
            await asyncio.sleep(0)


async def test_a_timer_of_a_loop_that_keeps_up_is_believed() -> None:
    patience = Patience(0.1, 5)
    with pytest.raises(httpcore.ConnectTimeout) as caught, patience.step():
        await asyncio.sleep(30)
    assert type(caught.value) is httpcore.ConnectTimeout
    assert str(caught.value).startswith("no connection within 0.1")


async def test_in_a_busy_loop_a_connect_gets_the_turns_that_it_needs() -> None:
    keep_busy(0.02, 2 * TURNS)
    await connect(Patience(0.05, 30), TURNS // 2)


async def test_but_no_more_than_the_caller_allows_and_then_nobody_is_blamed() -> None:
    keep_busy(0.02, 3 * TURNS)
    with pytest.raises(Starved, match="this event loop was too busy"):
        await connect(Patience(0.05, 0.1), 2 * TURNS)


async def test_who_had_the_turns_is_blamed_however_busy_the_loop_is() -> None:
    keep_busy(0.01, 8 * TURNS)
    with pytest.raises(httpcore.ConnectTimeout) as caught:
        await connect(Patience(0.05, 60), 1_000_000)
    assert type(caught.value) is httpcore.ConnectTimeout


async def test_time_is_counted_over_all_steps_and_without_a_limit_there_is_none() -> None:
    patience = Patience(0.2, 0.2)
    with patience.step():
        await asyncio.sleep(0.1)
    assert patience.left is not None
    assert patience.left <= 0.1
    with pytest.raises(httpcore.ConnectTimeout), patience.step():
        await asyncio.sleep(30)
    endless = Patience(None, None)
    assert endless.left is None
    with endless.step():
        await asyncio.sleep(0)


async def test_what_the_system_says_is_a_connect_error() -> None:
    with pytest.raises(httpcore.ConnectError, match="refused"), Patience(1, 1).step():
        raise ConnectionRefusedError("refused")
    with pytest.raises(httpcore.ConnectTimeout), Patience(1, 1).step():
        raise TimeoutError("of the kernel's")
    with pytest.raises(asyncio.CancelledError), Patience(1, 1).step():
        raise asyncio.CancelledError


async def test_a_burst_in_a_busy_process_takes_no_backend_out(raw_server: MakeRawServer) -> None:
    """Each turn takes half as long as a connect may: the timers go off, and every backend is there."""
    urls = [raw_server(respond()).url for _ in range(2)]
    pool = Pool(urls, connect=Connect(connect_timeout=0.1), algorithm="round_robin")
    async with httpx.AsyncClient(transport=AsyncBalancedTransport(pool), timeout=60) as http:
        keep_busy(0.05, 2 * TURNS)
        answers = await asyncio.gather(*(http.get("http://orders/") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert [len(answer.extensions["lbclient"].attempts) for answer in answers] == [1] * 20
    assert not any(backend.failures or backend.ejections for backend in pool.status().backends)


async def test_who_starves_goes_elsewhere_and_nobody_is_blamed(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    create_connection = loop.create_connection
    turns = iter([3 * TURNS])

    async def slowly(*args: Any, **kwargs: Any) -> Any:
        for _ in range(next(turns, 0)):
            await asyncio.sleep(0)
        return await create_connection(*args, **kwargs)

    monkeypatch.setattr(loop, "create_connection", slowly)
    urls = [raw_server(respond()).url for _ in range(2)]
    pool = Pool(urls, algorithm="round_robin")
    async with httpx.AsyncClient(transport=AsyncBalancedTransport(pool)) as http:
        keep_busy(0.02, 3 * TURNS)
        answer = await http.post("http://orders/", timeout=httpx.Timeout(60, connect=0.05))
    tried = [attempt.outcome for attempt in answer.extensions["lbclient"].attempts]
    assert tried[0].startswith("starved (ConnectTimeout: no connection within")
    assert tried[-1] == "200"
    assert not any(backend.failures or backend.ejections for backend in pool.status().backends)
