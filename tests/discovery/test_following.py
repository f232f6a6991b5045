"""A pool and its source, as a transport runs them: when sets come, when they do not, and where the source lives."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, BalancedTransport, HttpProbe, NoBackendAvailable, Pool
from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery import Static
from lbclient.discovery.watching import watching
from tests.conftest import SharedServers
from tests.discovery.sources import Scripted, until

A, B = "http://a.test:1", "http://b.test:2"


def answering(seen: Counter[str] | None = None) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen[f"{request.url.scheme}://{request.url.netloc.decode()}"] += 1
        return httpx.Response(200, text="ok")

    return lambda backend: httpx.MockTransport(answer)


def balanced(target: Any, **options: Any) -> AsyncBalancedTransport:
    return AsyncBalancedTransport(target, inner=answering(), **options)


def pool_of(transport: AsyncBalancedTransport) -> Pool:
    (pool,) = transport.pools.values()
    return pool


def members(transport: AsyncBalancedTransport) -> list[str]:
    return [backend.url for backend in pool_of(transport).declared]


# Getting sets


async def test_a_source_stands_wherever_a_list_does() -> None:
    transport = balanced(Static([A, B]), algorithm="round_robin")
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        await transport.wait_until_ready()
        assert members(transport) == [A, B]
        assert (await http.get("/")).status_code == 200


async def test_each_set_replaces_the_one_before() -> None:
    source = Scripted([A])
    async with balanced(source) as transport:
        await transport.wait_until_ready()
        assert members(transport) == [A]
        source.say([A, B])
        await until(lambda: members(transport) == [A, B])
        source.say([B])
        await until(lambda: members(transport) == [B])
    assert source.closed == source.watched == 1


async def test_a_source_that_ends_has_said_its_last() -> None:
    source = Scripted([A])
    source.end()
    async with balanced(source) as transport:
        await transport.wait_until_ready()
        await until(lambda: source.closed == 1)
        await anyio.sleep(0.3)
        assert source.watched == 1
        assert members(transport) == [A]


async def test_a_source_that_raises_is_watched_anew_and_the_last_set_stays() -> None:
    source = Scripted([A], OSError("cut"), OSError("refused"), [B])
    async with balanced(source) as transport:
        await transport.wait_until_ready()
        await until(lambda: members(transport) == [B])
        status = pool_of(transport).status().source
        assert status is not None
        assert (status.well, status.last_error) == (True, "OSError: refused")
    assert source.watched == 3


async def test_a_source_that_ends_without_a_set_is_watched_anew() -> None:
    class Mute(Scripted):
        async def watch(self) -> AsyncIterator[Said]:
            self.watched += 1
            if self.watched > 2:
                yield [A]

    source = Mute()
    async with balanced(source) as transport:
        await transport.wait_until_ready()
        assert members(transport) == [A]
        status = pool_of(transport).status().source
        assert status is not None
        assert status.last_error == "its watch() ended before it had said a set"


async def test_a_watch_that_is_no_generator_is_worded() -> None:
    class Wrong(Source):
        async def watch(self) -> list[str]:  # type: ignore[override]
            return [A]

    async with balanced(Wrong()) as transport:
        with pytest.raises(TimeoutError, match="write it with `async def` and `yield`"):
            await transport.wait_until_ready(0.3)


async def test_an_iterator_that_is_no_generator_is_fine() -> None:
    class Once:
        def __init__(self) -> None:
            self.said: list[Said] = [[A]]

        def __aiter__(self) -> Once:
            return self

        async def __anext__(self) -> Said:
            if not self.said:
                raise StopAsyncIteration
            return self.said.pop()

    class Plain(Source):
        def watch(self) -> Once:
            return Once()

    async with balanced(Plain()) as transport:
        await transport.wait_until_ready()
        assert members(transport) == [A]


async def test_sources_and_probes_live_together() -> None:
    source = Scripted([A])
    async with balanced(source, probe=HttpProbe("/health")) as transport:
        await transport.wait_until_ready()
        assert [status.check for status in pool_of(transport).status().backends] == ["passing"]
        source.say([A, B])
        await until(lambda: [s.check for s in pool_of(transport).status().backends] == ["passing"] * 2)


async def test_a_source_that_is_left_in_the_middle_is_closed_there() -> None:
    source = Scripted([A], [B])
    async with watching(source) as everything:
        async for _ in everything:
            break
    assert source.closed == 1


# Before the first set


async def test_not_ready_in_time_names_the_source_and_its_trouble() -> None:
    async with balanced(Scripted(Trouble("no such host"))) as transport:
        with pytest.raises(TimeoutError, match="no set from Scripted yet: no such host"):
            await transport.wait_until_ready(0.1)


async def test_a_request_waits_for_the_first_set() -> None:
    source = Scripted()
    answers: list[int] = []
    async with (
        httpx.AsyncClient(transport=balanced(source), base_url="http://shop", timeout=20) as http,
        anyio.create_task_group() as group,
    ):

        async def ask() -> None:
            answers.append((await http.get("/")).status_code)

        for _ in range(5):
            group.start_soon(ask)
        await anyio.sleep(0.05)
        assert not answers
        source.say([A])
    assert answers == [200] * 5


@pytest.mark.parametrize(
    "timeout",
    [httpx.Timeout(30, pool=0.1), httpx.Timeout(30, pool=None, connect=0.1)],
    ids=["pool", "connect"],
)
async def test_and_not_for_longer_than_the_pool_timeout_or_the_connect_timeout(
    timeout: httpx.Timeout,
) -> None:
    source = Scripted(Trouble("down"))
    async with httpx.AsyncClient(transport=balanced(source), base_url="http://shop", timeout=timeout) as http:
        with pytest.raises(
            httpx.ConnectError, match=r"no set from Scripted yet: down; 0.1 s waited"
        ) as caught:
            await http.get("/")
    assert isinstance(caught.value, NoBackendAvailable)
    assert caught.value.lbclient.attempts == ()  # type: ignore[attr-defined]


async def test_without_timeouts_a_request_waits_for_httpx_s_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbclient._async.exchange.FIRST_SET_WITHIN", 0.05)
    async with httpx.AsyncClient(
        transport=balanced(Scripted()), base_url="http://shop", timeout=None
    ) as http:
        with pytest.raises(NoBackendAvailable, match=r"0\.05 s waited"):
            await http.get("/")


async def test_an_initial_set_serves_at_once_while_the_source_is_down() -> None:
    source = Scripted(OSError("down"))
    transport = balanced(Pool(source, initial=[A]))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        await transport.wait_until_ready(1)
        assert (await http.get("/")).status_code == 200
        source.say([B])
        await until(lambda: members(transport) == [B])


# Where it lives


async def test_a_client_that_was_never_entered_has_it_in_a_thread(servers: SharedServers) -> None:
    fleet = servers("uvicorn", 2)
    threads: list[str] = []

    class Here(Static):
        async def watch(self) -> AsyncIterator[Said]:
            threads.append(threading.current_thread().name)
            yield [server.url for server in fleet]

    transport = AsyncBalancedTransport(Here([A]))
    http = httpx.AsyncClient(transport=transport, base_url="http://shop")
    try:
        assert (await http.get("/whoami")).text in {server.name for server in fleet}
        assert threads == ["lbclient: static list of 1 of pool 'default'"]
    finally:
        await http.aclose()
    await until(lambda: not any(thread.name in threads for thread in threading.enumerate()))


def test_a_pool_that_goes_from_loop_to_loop_takes_its_source_with_it() -> None:
    source = Scripted([A])
    transport = balanced(source)
    http = httpx.AsyncClient(transport=transport, base_url="http://shop")

    async def enter() -> None:
        await transport.__aenter__()
        assert (await http.get("/")).status_code == 200

    async def again() -> None:
        source.say([B])
        assert (await http.get("/")).status_code == 200
        await until(lambda: members(transport) == [B])
        await http.aclose()

    asyncio.run(enter())
    asyncio.run(again())
    assert source.closed == source.watched == 2


async def test_what_a_source_says_never_hurts_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    source = Scripted([A])

    class Odd(Exception):
        pass

    async with balanced(source) as transport:
        await transport.wait_until_ready()
        with caplog.at_level(logging.WARNING):
            source.say(Odd(), ["nonsense"])
            await until(lambda: "Odd" in caplog.text)
        assert members(transport) == [A]


def test_a_sync_client_has_it_in_a_thread(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    threads: list[str] = []

    class Late(Source):
        async def watch(self) -> AsyncIterator[Said]:
            threads.append(threading.current_thread().name)
            await anyio.sleep(0.1)
            yield [server.url]

    with httpx.Client(transport=BalancedTransport(Late()), base_url="http://shop", timeout=20) as http:
        assert http.get("/whoami").text == server.name
    assert threads == ["lbclient: Late of pool 'default'"]


# No request lost


async def test_backends_that_come_and_go_lose_no_request(servers: SharedServers) -> None:
    fleet = [server.url for server in servers("uvicorn", 4)]
    source = Scripted(fleet[:2])
    transport = AsyncBalancedTransport(source)
    asking = True
    answers: Counter[int] = Counter()

    async def ask(http: httpx.AsyncClient) -> None:
        while asking:
            async with http.stream(
                "GET", "/stream", params={"chunks": 3, "size": 10, "delay": 0.005}
            ) as response:
                assert len(await response.aread()) == 30
            answers[response.status_code] += 1

    async with httpx.AsyncClient(transport=transport, base_url="http://shop", timeout=30) as http:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(ask, http)
            for turn in range(20):
                source.say([fleet[turn % 4], fleet[(turn + 1) % 4]])
                enough = answers.total() + 10
                await until(lambda enough=enough: answers.total() >= enough)  # type: ignore[misc]
            await until(lambda: members(transport) == [fleet[3], fleet[0]])
            asking = False
        assert {status.in_flight for status in pool_of(transport).status().backends} == {0}
    assert set(answers) == {200}
