"""Customers who never stop asking while servers are replaced, and a ledger of what became of every request."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import anyio
import anyio.to_thread
import httpx

from lbclient import AsyncBalancedTransport
from tests.conftest import StartServer
from tests.servers import CertFiles, Server

Spare: TypeAlias = Callable[[], Awaitable[Server]]
Deploy: TypeAlias = Callable[[AsyncBalancedTransport, deque[Server], Spare, int], Awaitable[None]]

GRACE = 30.0  # seconds; far longer than any answer takes
STREAMED = 0.2  # the share of answers that come slowly, in pieces
PIECES, SIZE = 10, 200
BODY = b"0123456789" * 50


@dataclass
class Ledger:
    """What became of every request."""

    answered: Counter[str] = field(default_factory=Counter)
    """By the name of the server."""
    lost: list[str] = field(default_factory=list)
    protocols: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        return self.answered.total() + len(self.lost)

    def __str__(self) -> str:
        return f"{self.total} requests to {len(self.answered)} servers, {len(self.lost)} lost"


@asynccontextmanager
async def customers(
    transport: AsyncBalancedTransport, ledger: Ledger, count: int, longest: float
) -> AsyncIterator[None]:
    """So many clients, each asking for one thing after another until the block ends.

    Args:
        transport: What they share; closed in the end.
        ledger: Where they write down every answer, and every failure.
        count: How many.
        longest: Seconds that an answer may take to stream.
    """
    http = httpx.AsyncClient(transport=transport, base_url="http://shop", timeout=30)
    running = True

    async def live(seed: int) -> None:
        rng = random.Random(seed)
        while running:
            try:
                name, protocol = await ask(http, rng, longest)
            except (httpx.HTTPError, AssertionError) as exc:
                notes = " ".join(getattr(exc, "__notes__", ()))
                ledger.lost.append(f"{exc!r} {notes}")
            else:
                ledger.answered[name] += 1
                ledger.protocols.add(protocol)

    async with http, anyio.create_task_group() as group:
        for seed in range(count):
            group.start_soon(live, seed)
        yield
        running = False


async def ask(http: httpx.AsyncClient, rng: random.Random, longest: float) -> tuple[str, str]:
    """One request, its answer checked to the last byte: (who answered, over which protocol)."""
    kind = rng.random()
    if kind < STREAMED:
        params: dict[str, str | int | float]
        params = {"chunks": PIECES, "size": SIZE, "delay": rng.random() * longest / PIECES}
        async with http.stream("GET", "/stream", params=params) as response:
            body = b"".join([part async for part in response.aiter_bytes()])
        assert body == b"".join(bytes([ord("a") + number]) * SIZE for number in range(PIECES))
    elif kind < 2 * STREAMED:
        response = await http.post("/echo", content=BODY)
        assert response.json()["length"] == len(BODY)
    else:
        response = await http.get("/whoami")
        name: str = response.headers["x-server"]
        assert response.text == name
    assert response.status_code == 200
    return response.headers["x-server"], response.http_version


@asynccontextmanager
async def spares(start: Callable[[], Server], count: int, ahead: int = 2) -> AsyncIterator[Spare]:
    """So many servers, started ahead: a deploy then waits for its drains and not for the start of a process."""
    offered, wanted = anyio.create_memory_object_stream[Server](ahead)
    left = count

    async def keep_ready() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await offered.send(await anyio.to_thread.run_sync(start))

    async with offered, wanted, anyio.create_task_group() as group:
        for _ in range(ahead):
            group.start_soon(keep_ready)
        yield wanted.receive
        group.cancel_scope.cancel()


def starter(start_server: StartServer, tls: CertFiles, http2: bool) -> Callable[[], Server]:
    """What starts one server: HTTP/2 inside TLS, or plain HTTP/1.1."""
    if http2:
        return partial(start_server, "hypercorn", tls=tls, http2=True)
    return partial(start_server, "uvicorn")


async def several(spare: Spare, count: int) -> list[Server]:
    return [await spare() for _ in range(count)]


async def stop(*servers: Server) -> None:
    """Kill them: whatever they still had to answer would be lost."""
    for server in servers:
        await anyio.to_thread.run_sync(server.close)


async def roll(transport: AsyncBalancedTransport, fleet: deque[Server], spare: Spare, times: int) -> None:
    """Replace the oldest server of the fleet, so many times."""
    (pool,) = transport.pools.values()
    for _ in range(times):
        new, old = await spare(), fleet.popleft()
        pool.add(new.url)
        report = await transport.drain(old.url, grace=GRACE)
        assert report.drained, report
        assert report.closed == 0, report
        pool.remove(old.url)
        await stop(old)
        fleet.append(new)


async def flip(transport: AsyncBalancedTransport, fleet: deque[Server], spare: Spare, times: int) -> None:
    """Replace the whole fleet at once, so many times."""
    for _ in range(times):
        new = await several(spare, len(fleet))
        report = await transport.swap([server.url for server in new], when_healthy_within=GRACE, grace=GRACE)
        assert report.swapped, report
        assert set(report.removed) == {server.url for server in fleet}
        assert all(drain.drained and not drain.closed for drain in report.drains), report
        await stop(*fleet)
        fleet.clear()
        fleet.extend(new)
