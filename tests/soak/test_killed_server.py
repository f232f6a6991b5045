"""100,000 requests by 50 clients over every kind of server, one of which is killed again and again."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.to_thread
import httpx
import pytest

from lbclient import Pool
from tests.conftest import StartServer
from tests.faults.load import Tally, ask_on, quick_to_notice, until
from tests.servers import KINDS, Kind

CLIENTS = 50
REQUESTS = 10_000


def is_out(pool: Pool, url: str) -> bool:
    return not next(status for status in pool.status().backends if status.url == url).available


def answers(tally: Tally, url: str, more_than: int) -> bool:
    return tally.answered[url] > more_than


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
async def test_killed_again_and_again(start_server: StartServer, kind: Kind) -> None:
    fleet = [start_server(kind, name=f"{kind}-{number}") for number in range(3)]
    transport = quick_to_notice([server.url for server in fleet])
    tally, running, kills = Tally(), True, 0
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=10) as http:
        await transport.wait_until_ready()
        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(ask_on, http, tally, lambda: running)
            while tally.total < REQUESTS:
                victim = fleet[kills % 3]
                await anyio.to_thread.run_sync(victim.kill)
                kills += 1
                await until(partial(is_out, transport.pools["default"], victim.url))
                await anyio.to_thread.run_sync(victim.restart)
                before = tally.answered[victim.url]
                await until(partial(answers, tally, victim.url, before + 20))
            running = False
    print(f"\n{kind}: {tally.total} requests, {kills} kills, {tally.cut_off} cut off, {len(tally.lost)} lost")
    assert not tally.lost
    assert tally.cut_off <= kills * CLIENTS
