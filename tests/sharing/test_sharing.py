"""Processes of one machine share what they know: one probes for all, one's ejection is everybody's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from uuid import uuid4

import anyio
import pytest

from lbclient import PassiveHealth, Pool
from lbclient.sharing import board as boards
from lbclient.sharing import in_turn
from lbclient.sharing.board import Board, Known
from tests.conftest import MakeRawServer
from tests.servers.raw import respond

WORKER = """
import sys, time, httpx
from lbclient import BalancedTransport, HttpProbe, Pool
pool = Pool(
    sys.argv[2:], shared=sys.argv[1], probe=HttpProbe("/health", interval=0.5, timeout=0.4), algorithm="first"
)
with httpx.Client(transport=BalancedTransport(pool), base_url="http://orders") as http:
    BalancedTransport.wait_until_ready(http._transport, 30)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"test-{uuid4().hex}"
    yield chosen
    for path in boards._folder().glob(f"lbclient-*-{chosen}*"):
        path.unlink()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pool_of(name: str, **options: object) -> Pool:
    return Pool(
        ["http://a", "http://b"],
        shared=name,
        passive=PassiveHealth(consecutive_failures=1, base_ejection=5),
        **options,  # type: ignore[arg-type]
    )


async def never() -> None:
    await anyio.sleep_forever()


def fail_once(pool: Pool, url: str) -> None:
    ticket = pool.pick(exclude={"http://a", "http://b"} - {url})
    ticket.failed("reset")


async def until(condition: object) -> None:
    with anyio.fail_after(10):
        while not condition():  # type: ignore[operator]
            await anyio.sleep(0.005)


async def test_an_ejection_here_is_one_there_and_so_is_its_end(name: str) -> None:
    here, there = pool_of(name), pool_of(name)
    async with anyio.create_task_group() as group:
        group.start_soon(in_turn, here, never)
        group.start_soon(in_turn, there, never)
        await anyio.sleep(0.1)
        fail_once(here, "http://a")
        await until(lambda: there.status().backends[0].ejected)
        assert not there.status().backends[1].ejected
        here.learn("http://a", None, 0.0)  # as a trial would, that succeeded
        await until(lambda: not there.status().backends[0].ejected)
        group.cancel_scope.cancel()


async def test_the_last_one_standing_is_not_ejected_by_others(name: str) -> None:
    here, there = pool_of(name), pool_of(name)
    there.disable("http://b")
    async with anyio.create_task_group() as group:
        group.start_soon(in_turn, here, never)
        group.start_soon(in_turn, there, never)
        await anyio.sleep(0.1)
        fail_once(here, "http://a")
        await anyio.sleep(0.2)
        assert here.status().backends[0].ejected
        assert not there.status().backends[0].ejected
        group.cancel_scope.cancel()


async def test_what_was_written_before_the_machine_started_is_not_believed(name: str) -> None:
    board = Board(name)
    later = time.monotonic() + 1e6
    board.exchange([], {"http://a": Known(later, 2, later, later + 100)})
    board.close()
    pool = pool_of(name)
    async with anyio.create_task_group() as group:
        group.start_soon(in_turn, pool, never)
        await anyio.sleep(0.2)
        assert pool.status().backends[0].available
        group.cancel_scope.cancel()


def test_one_is_elected_and_its_end_lets_the_next_one_in(name: str) -> None:
    first, second = Board(name), Board(name)
    assert first.stand()
    assert not second.stand()
    first.close()
    first.close()
    assert second.stand()
    assert second.stand()
    second.close()


def test_a_board_keeps_what_it_is_told_and_starts_anew_when_it_is_none(name: str) -> None:
    board = Board(name)
    assert board.exchange(["http://a"], {}) == {"http://a": Known()}
    told = {f"http://{number}": Known(number, number % 3, 0.0, 0.0) for number in range(1, 900)}
    assert board.exchange(list(told), told) == told
    board.close()
    other = Board(name)
    assert other.exchange(list(told), {}) == told
    other.close()
    (path,) = (p for p in boards._folder().glob(f"lbclient-*-{name}"))
    path.write_bytes(b"something else")
    anew = Board(name)
    assert anew.exchange(["http://1"], {}) == {"http://1": Known()}
    anew.close()


def test_who_holds_the_lock_is_not_waited_for(name: str) -> None:
    import fcntl

    board, busy = Board(name), Board(name)
    fcntl.flock(busy._file, fcntl.LOCK_EX)
    assert board.exchange([], {}) is None
    busy.close()
    assert board.exchange([], {}) == {}
    board.close()


@pytest.mark.timeout(120)
def test_eight_workers_probe_like_one_and_a_killed_prober_is_replaced(
    raw_server: MakeRawServer, name: str
) -> None:
    server = raw_server(respond())
    command = [sys.executable, "-c", textwrap.dedent(WORKER), name, server.url]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        before = server.accepted
        time.sleep(3)
        probes = server.accepted - before
        assert 2 <= probes <= 9, "every half a second, of one"
        for worker in workers[:-1]:  # the prober is among them, or is the last one
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
        before = server.accepted
        assert server.wait_until(lambda raw: raw.accepted > before + 1, within=20)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                assert pipe is not None
                pipe.close()


@pytest.mark.parametrize("shared", ["", "a/b", "x" * 65, 7])
def test_a_name_that_is_none_is_refused(shared: object) -> None:
    with pytest.raises(ValueError, match="write a name of letters"):
        Pool(["http://a"], shared=shared)  # type: ignore[arg-type]


def test_moments_have_to_be_those_of_the_machine() -> None:
    with pytest.raises(ValueError, match=r"needs the clock that all processes have"):
        Pool(["http://a"], shared="x", clock=lambda: 0.0)


def test_an_unshared_pool_learns_and_tells_all_the_same() -> None:
    pool = Pool(["http://a", "http://b"])
    assert pool.findings() == {"http://a": (0, 0.0), "http://b": (0, 0.0)}
    pool.learn("http://a", 2, None)
    assert pool.status().backends[0].check == "failing"
    pool.learn("http://a", 1, None)
    pool.learn("http://a", 1, None)
    assert pool.learn("http://nobody", 1, 5.0) is None
    assert pool.learn("http://a", None, 1.0) == (1, 0.0), "over long ago"
    soon, later = time.monotonic() + 50, time.monotonic() + 100
    assert pool.learn("http://a", None, soon) == (1, soon)
    assert pool.learn("http://a", None, later) == (1, later)
    assert pool.learn("http://a", None, soon) == (1, later)
    assert pool.learn("http://b", None, soon) == (0, 0.0), "the last one standing"
    assert pool.learn("http://a", None, 0.0) == (1, 0.0)
    assert pool.findings() == {"http://a": (1, 0.0), "http://b": (0, 0.0)}
