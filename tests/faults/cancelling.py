"""Requests that are cancelled at random moments, and what has to be true afterwards."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import anyio
import httpx

from lbclient import AsyncBalancedTransport


def descriptors() -> int:
    """Open files and sockets of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def cancel_at_random(
    transport: AsyncBalancedTransport, requests: int, workers: int = 16, server_may_close: bool = False
) -> int:
    """Send so many requests, cancel each after up to 20 ms, and check that nothing is left.

    Args:
        transport: Is closed in the end.
        requests, workers: How many, and how many at a time.
        server_may_close: A server that is sent thousands of cancelled HTTP/2 streams may take it for an attack and
            close the connection. Requests that this breaks are counted out; nothing may be left of them either.

    Returns:
        How many were cancelled.
    """
    cancelled = 0
    left = requests

    async def work(seed: int) -> None:
        nonlocal cancelled, left
        rng = random.Random(seed)
        while left > 0:
            left -= 1
            with anyio.move_on_after(rng.random() * 0.02) as scope:
                try:
                    if rng.random() < 0.5:
                        await http.get("/stream", params={"chunks": 3, "size": 100})
                    else:
                        async with http.stream("GET", "/whoami") as response:
                            await response.aread()
                except httpx.PoolTimeout:
                    continue
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    if not server_may_close:
                        raise
            cancelled += scope.cancelled_caught

    http = httpx.AsyncClient(
        transport=transport, base_url="http://fleet", timeout=httpx.Timeout(5, pool=0.02)
    )
    for _ in range(5):
        await http.get("/whoami")
    gc.collect()
    base = descriptors() - sum(opened for opened, _ in transport.connections().values())
    async with anyio.create_task_group() as group:
        for seed in range(workers):
            group.start_soon(work, seed)
    for _ in range(200):
        books = transport.connections().values()
        if descriptors() - sum(opened for opened, _ in books) <= base:
            break
        await anyio.sleep(0.02)
    assert all(status.in_flight == 0 for status in transport.pools["default"].status().backends)
    assert all(opened == idle for opened, idle in transport.connections().values()), transport.connections()
    assert descriptors() - sum(opened for opened, _ in transport.connections().values()) <= base
    for _ in range(20):
        assert (await http.get("/whoami")).status_code == 200
    await http.aclose()
    return cancelled
