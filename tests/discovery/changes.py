"""Fleets that change under load, registry by registry: nothing is lost, and in the end everybody agrees."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from lbclient import AsyncBalancedTransport, Pool
from lbclient.core.source import Source
from tests.conftest import StartServer
from tests.discovery.sources import until
from tests.faults.deploys import Ledger, customers
from tests.servers import Server
from tests.servers.etcd import Etcd as EtcdServer
from tests.servers.named import TTL, ZONE, Named

NAME = f"_http._tcp.{ZONE}"


async def in_thread(function: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(function)


def members(pool: Pool) -> set[str]:
    return {backend.url for backend in pool.declared}


def announce(named: Named, servers: Sequence[Server]) -> None:
    """Have the SRV records name exactly these."""
    named.update(
        f"delete {NAME} SRV",
        f"delete a.{ZONE} A",
        f"add a.{ZONE} {TTL} A 127.0.0.1",
        *[f"add {NAME} {TTL} SRV 0 1 {server.port} a.{ZONE}." for server in servers],
    )


def register(etcd: EtcdServer, before: Sequence[Server], servers: Sequence[Server]) -> None:
    """The keys of exactly these."""
    for server in servers:
        etcd.put(f"/shop/{server.port}", server.url)
    for server in before:
        if server not in servers:
            etcd.delete(f"/shop/{server.port}")


async def roll(
    source: Source,
    start_server: StartServer,
    publish: Callable[[Sequence[Server], Sequence[Server]], None],
    *,
    times: int,
    clients: int,
    disturb: Sequence[Callable[[], Any]] = (),
) -> tuple[Ledger, list[float]]:
    """Replace one of three servers, so many times, under load. A server that has left is killed a second later.

    Args:
        source: Follows what is published.
        start_server: Starts them.
        publish: Called with those that were published before, and those that are to be.
        times: How often.
        clients: Who ask all the time.
        disturb: Carried out one after the other, between replacements.

    Returns:
        What became of the requests, and the seconds that it took each change to be seen.
    """
    start = partial(start_server, "uvicorn")
    fleet = deque([await in_thread(start) for _ in range(3)])
    await in_thread(partial(publish, (), tuple(fleet)))
    transport = AsyncBalancedTransport(source)
    (pool,) = transport.pools.values()
    ledger, took = Ledger(), list[float]()
    async with customers(transport, ledger, clients, longest=0.2):
        await transport.wait_until_ready(20)
        for turn in range(times):
            new, old = await in_thread(start), fleet.popleft()
            before = (*fleet, old)
            fleet.append(new)
            began = time.monotonic()
            await in_thread(partial(publish, before, tuple(fleet)))
            await until(lambda: members(pool) == {server.url for server in fleet}, within=30)
            took.append(time.monotonic() - began)
            served = ledger.total
            await until(lambda served=served: ledger.total > served + 3 * clients, within=30)  # type: ignore[misc]
            await anyio.sleep(1)  # what it was sent before has ended
            await in_thread(old.close)
            if turn < len(disturb):
                await in_thread(disturb[turn])
                ended = ledger.total
                await until(lambda ended=ended: ledger.total > ended + clients, within=30)  # type: ignore[misc]
    return ledger, took


async def random_changes(named: Named, times: int, seed: int, seen: Callable[[], Any]) -> set[str]:
    """Records come and go, two at a time at most; `seen` is awaited between them. The (address:port)s in the end."""
    rng = random.Random(seed)
    now: set[tuple[str, int]] = set()
    for _ in range(times):
        changes: list[str] = []
        for _ in range(rng.choice((1, 1, 2))):
            number, port = rng.randint(1, 9), rng.choice((8001, 8002))
            target = f"n{number}.{ZONE}"
            if (f"127.0.2.{number}", port) in now and len(now) > 3:
                now.discard((f"127.0.2.{number}", port))
                changes.append(f"delete {NAME} SRV 0 1 {port} {target}.")
            else:
                now.add((f"127.0.2.{number}", port))
                changes += [f"delete {target} A", f"add {target} {TTL} A 127.0.2.{number}"]
                changes.append(f"add {NAME} {TTL} SRV 0 1 {port} {target}.")
        await in_thread(partial(named.update, *changes))
        await seen()
    return {f"{address}:{port}" for address, port in now}
