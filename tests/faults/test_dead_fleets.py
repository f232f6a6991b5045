"""What a fleet in trouble gets to feel: retries stay within their budget, and who cannot be reached is left alone."""

from __future__ import annotations

import time

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Record, Retry, RetryBudget
from tests.conftest import MakeRawServer
from tests.servers import Handler, free_port, full_backlog
from tests.servers.raw import fin_before_headers, reset_before_headers, respond

REQUESTS = 300


@pytest.mark.parametrize("how", ["answers 503", "RST", "FIN"])
async def test_a_dead_fleet_sees_a_fifth_more_than_is_asked_for(raw_server: MakeRawServer, how: str) -> None:
    handlers: dict[str, Handler] = {
        "answers 503": respond(503),
        "RST": reset_before_headers,
        "FIN": fin_before_headers,
    }
    fleet = [raw_server(handlers[how]) for _ in range(3)]
    budget = RetryBudget(ratio=0.2, min_per_second=1, window=10)
    transport = AsyncBalancedTransport(
        [server.url for server in fleet], algorithm="round_robin", passive=None, retry=Retry(budget=budget)
    )
    outcomes: list[int | str] = []
    begun = time.monotonic()

    async def ask(count: int) -> None:
        for _ in range(count):
            try:
                outcomes.append((await http.get("/")).status_code)
            except httpx.TransportError as exc:
                outcomes.append(type(exc).__name__)

    async with (
        httpx.AsyncClient(transport=transport, base_url="http://fleet") as http,
        anyio.create_task_group() as group,
    ):
        for _ in range(10):
            group.start_soon(ask, REQUESTS // 10)
    assert len(outcomes) == REQUESTS
    assert 200 not in outcomes
    seen = sum(len(server.requests) for server in fleet)
    floor = budget.min_per_second * (budget.window + time.monotonic() - begun)
    assert REQUESTS * 1.15 < seen <= REQUESTS * 1.2 + floor + 1


async def test_without_a_budget_it_would_see_three_times_as_much(raw_server: MakeRawServer) -> None:
    fleet = [raw_server(respond(503)) for _ in range(3)]
    transport = AsyncBalancedTransport(
        [server.url for server in fleet], passive=None, retry=Retry(budget=None), algorithm="round_robin"
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        for _ in range(20):
            assert (await http.get("/")).status_code == 503
    assert [len(server.requests) for server in fleet] == [20, 20, 20]


async def test_when_nobody_can_be_reached_nothing_is_paid_for_and_attempts_are_few() -> None:
    """Refused by all of five: three attempts each, which add no load anywhere."""
    transport = AsyncBalancedTransport(
        [f"http://127.0.0.1:{free_port()}" for _ in range(5)],
        passive=None,
        retry=Retry(budget=RetryBudget(ratio=0, min_per_second=0)),
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as http:
        for _ in range(5):
            with pytest.raises(httpx.ConnectError) as caught:
                await http.post("/")
            found: Record = caught.value.lbclient  # type: ignore[attr-defined]
            assert len({attempt.backend for attempt in found.attempts}) == 3


@pytest.mark.parametrize("algorithm", ["round_robin", "least_connections", "peak_ewma"])
async def test_a_backend_that_swallows_connects_costs_one_second_and_is_then_left_alone(
    raw_server: MakeRawServer, algorithm: str
) -> None:
    """The client's own connect timeout is 10 s; with others left to try, an attempt to connect gets one."""
    good = [raw_server() for _ in range(2)]
    with full_backlog() as port:
        hole = f"http://127.0.0.1:{port}"
        transport = AsyncBalancedTransport([hole, *(server.url for server in good)], algorithm=algorithm)
        async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=10) as http:
            records: list[Record] = []

            async def ask() -> None:
                response = await http.get("/")
                assert response.status_code == 200
                records.append(response.extensions["lbclient"])

            while not records or len(records[-1].attempts) == 1:
                await ask()
            first, second = records[-1].attempts
            assert (first.backend, second.outcome) == (hole, "200")
            assert 0.9 < first.elapsed < 3
            records.clear()
            for _ in range(50):
                await ask()
    assert all(len(record.attempts) == 1 for record in records), "not picked any more"
