"""Registries that change, and fail, under load. Short; tests/soak has the same for longer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import anyio
import pytest

from lbclient import AsyncBalancedTransport
from lbclient.discovery import Dns, Etcd
from tests.conftest import StartServer
from tests.discovery.changes import NAME, announce, in_thread, members, random_changes, register, roll
from tests.discovery.clusters import Cluster, a_slice, endpoint
from tests.discovery.sources import until
from tests.servers import start
from tests.servers.daemon import program
from tests.servers.etcd import Etcd as EtcdServer
from tests.servers.etcd import etcd as etcd
from tests.servers.named import Named
from tests.servers.named import named as named
from tests.servers.resolving_haproxy import ResolvingHaproxy

TIMES, CLIENTS = 2, 8
AWAY = 1.0  # seconds that a registry is down
CHANGES = 6
SLICES, ENDPOINTS, PER_SECOND, SECONDS = 20, 20, 200, 1.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.timeout(600)
async def test_dns(named: Named, start_server: StartServer) -> None:
    def away() -> None:
        named.kill()
        time.sleep(AWAY)
        named.start()

    source = Dns(NAME, nameservers=[f"127.0.0.1:{named.port}"])
    ledger, took = await roll(
        source,
        start_server,
        lambda before, servers: announce(named, servers),
        times=TIMES,
        clients=CLIENTS,
        disturb=[away],
    )
    print(f"\nDNS: {ledger}; seen within {max(took):.2f} s at a TTL of 1 s, named away for {AWAY} s")
    assert not ledger.lost, ledger.lost[:3]


@pytest.mark.timeout(600)
async def test_etcd(etcd: EtcdServer, start_server: StartServer) -> None:
    def away() -> None:
        etcd.kill()
        time.sleep(AWAY)
        etcd.start()

    def compact() -> None:
        etcd.compact(etcd.put("/elsewhere", "x"))

    ledger, took = await roll(
        Etcd("/shop/", endpoints=[etcd.url]),
        start_server,
        partial(register, etcd),
        times=TIMES,
        clients=CLIENTS,
        disturb=[away, compact],
    )
    print(f"\netcd: {ledger}; seen within {', '.join(f'{1000 * each:.0f}' for each in took)} ms")
    assert not ledger.lost, ledger.lost[:3]


@pytest.mark.timeout(600)
async def test_haproxy_ends_at_the_same_set(named: Named) -> None:
    if program("haproxy") is None:
        pytest.skip("haproxy is not installed")
    with ResolvingHaproxy(NAME, named.port) as haproxy:
        async with AsyncBalancedTransport(Dns(NAME, nameservers=[f"127.0.0.1:{named.port}"])) as transport:
            (pool,) = transport.pools.values()
            expected = await random_changes(named, CHANGES, 7, partial(anyio.sleep, 0.1))

            def ours() -> set[str]:
                return {url.removeprefix("http://") for url in members(pool)}

            await until(lambda: ours() == expected, within=30)
            with anyio.fail_after(60):
                while await in_thread(haproxy.servers) != expected:
                    await anyio.sleep(0.1)
            assert ours() == expected
    print(f"\n{CHANGES} changes: HAProxy and lbclient have the same {len(expected)} servers")


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with start("uvicorn", app="tests.servers.kubernetes:app") as server:
        yield Cluster(server)


@pytest.mark.timeout(600)
async def test_churn(running: Cluster) -> None:
    """Thousands of endpoints and a thousand changes a second: picks cost what they cost, and updates are short."""
    fleet = [
        a_slice(f"shop-{n}", *[endpoint(f"10.{n // 250}.{n % 250}.{m + 1}") for m in range(ENDPOINTS)])
        for n in range(SLICES)
    ]
    running.put(*fleet)
    updates: list[float] = []
    async with AsyncBalancedTransport(running.source()) as transport:
        await transport.wait_until_ready(30)
        (pool,) = transport.pools.values()
        assert len(pool.declared) == SLICES * ENDPOINTS
        receive = pool.receive

        def timed(said: object) -> None:
            assert pool.supply is not None
            changes, began = pool.supply.changes, time.thread_time()  # others may use the machine, too
            receive(said)  # type: ignore[arg-type]
            if pool.supply.changes > changes:
                updates.append(time.thread_time() - began)

        pool.receive = timed  # type: ignore[method-assign]

        def picks(count: int) -> list[float]:
            took = []
            for _ in range(count):
                began = time.perf_counter()
                pool.pick().release()
                took.append(time.perf_counter() - began)
            return took

        before, during = picks(2000), list[float]()
        async with anyio.create_task_group() as group:
            churning = True

            async def churn() -> None:
                nonlocal churning
                await in_thread(
                    partial(
                        running.control, "churn", timeout=SECONDS + 60, per_second=PER_SECOND, seconds=SECONDS
                    )
                )
                churning = False

            group.start_soon(churn)
            while churning:
                during += picks(20)
                await anyio.sleep(0.01)
        listed = running.ready()
        await until(lambda: members(pool) == listed, within=30)
    updates.sort()
    print(
        f"\n{SLICES * ENDPOINTS} endpoints, {PER_SECOND} changes/s for {SECONDS} s: {len(updates)} updates, "
        f"p50 {1000 * updates[len(updates) // 2]:.1f} ms, p99 {1000 * updates[int(len(updates) * 0.99)]:.1f} ms, "
        f"longest {1000 * updates[-1]:.1f} ms; a pick {1e6 * _median(before):.1f} us before, "
        f"{1e6 * _median(during):.1f} us during"
    )


def _median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]
