"""One of three real servers dies, hangs or fails under 50 clients: who notices, who is lost, who comes back."""

from __future__ import annotations

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.conftest import MakeRawServer, StartServer
from tests.faults.load import Tally, ask_on, quick_to_notice, until
from tests.servers import KINDS, Kind
from tests.servers.raw import respond

CLIENTS = 50


@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_server_loses_no_request_that_was_not_sent_and_serves_again_after_its_return(
    start_server: StartServer, kind: Kind
) -> None:
    fleet = [start_server(kind, name=f"{kind}-{number}") for number in range(3)]
    victim = fleet[0]
    transport = quick_to_notice([server.url for server in fleet])
    pool = transport.pools["default"]
    tally, running = Tally(), True

    def status_of_the_victim() -> tuple[bool, int]:
        status = pool.status().backends[0]
        return status.available, status.failures

    async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=10) as http:
        await transport.wait_until_ready()
        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(ask_on, http, tally, lambda: running)
            await until(lambda: tally.answered[victim.url] > 30)
            await anyio.to_thread.run_sync(victim.kill)
            await until(lambda: not status_of_the_victim()[0])
            before = tally.answered[victim.url]
            total = tally.total
            await until(lambda: tally.total > total + 500)
            assert tally.answered[victim.url] == before, "nobody is answered by the dead"
            # in flight when it died, five in a row, and then single trials while its probe has not failed yet
            assert status_of_the_victim()[1] <= 2 * CLIENTS + 5
            await anyio.to_thread.run_sync(victim.restart)
            await until(lambda: tally.answered[victim.url] > before + 30)
            running = False
    assert not tally.lost
    assert tally.cut_off <= CLIENTS, "at most one a client: those that were under way when it died"
    assert all(status.in_flight == 0 for status in pool.status().backends)


async def test_a_server_that_hangs_is_taken_out_by_its_probe_and_comes_back(
    start_server: StartServer,
) -> None:
    fleet = [start_server("uvicorn", name=f"s{number}") for number in range(3)]
    transport = quick_to_notice([server.url for server in fleet])
    pool = transport.pools["default"]
    tally, running = Tally(), True
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=1) as http:
        await transport.wait_until_ready()
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(ask_on, http, tally, lambda: running)
            await until(lambda: tally.answered[fleet[0].url] > 10)
            fleet[0].suspend()
            await until(lambda: not pool.status().backends[0].available)
            total = tally.total
            await until(lambda: tally.total > total + 200)
            fleet[0].resume()
            before = tally.answered[fleet[0].url]
            await until(lambda: tally.answered[fleet[0].url] > before + 20)
            running = False
    assert not tally.lost


@pytest.mark.parametrize("status", [500, 503])
async def test_a_server_that_fails_every_request_is_ejected_after_five(
    raw_server: MakeRawServer, status: int
) -> None:
    bad, good = raw_server(respond(status)), [raw_server(respond()) for _ in range(2)]
    transport = quick_to_notice([bad.url, *(server.url for server in good)], probe=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        statuses = [(await http.get("/")).status_code for _ in range(100)]
    assert 5 <= len(bad.requests) <= 10, "five, and a trial after each ejection"
    assert statuses.count(status) == (0 if status == 503 else len(bad.requests)), (
        "a 503 is asked for again elsewhere"
    )
