"""A scenario on real sockets: its servers in processes of their own, its requests through real clients."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from lbclient import AsyncBalancedTransport, Pool, Retry
from lbclient.simulator import Exponential, Scenario
from lbclient.simulator.engine import poisson
from lbclient.simulator.result import quantile

ROOT = Path(__file__).parents[2]


@dataclass
class Seen:
    """What became of the requests.

    Attributes:
        latencies: Seconds, of those that succeeded after the warm-up.
        failures: How many failed after it, by method.
        served: Per server, when its requests began, and whether they succeeded.
        late: Seconds by which the generator was behind at worst.
    """

    latencies: list[float] = field(default_factory=list[float])
    failures: Counter[str] = field(default_factory=Counter[str])
    served: list[list[tuple[float, bool]]] = field(default_factory=list[list[tuple[float, bool]]])
    late: float = 0.0

    @property
    def p99(self) -> float:
        return quantile(sorted(self.latencies), 0.99)

    @property
    def failed(self) -> float:
        failures = self.failures.total()
        return failures / (failures + len(self.latencies))


def as_json(scenario: Scenario) -> dict[str, Any]:
    """What `Scenario.from_dict` reads, as far as the scenarios here need it."""
    assert isinstance(scenario.work, Exponential)
    return {
        "name": scenario.name,
        "servers": [asdict(server) for server in scenario.servers],
        "rate": scenario.rate,
        "seconds": scenario.seconds,
        "warm_up": scenario.warm_up,
        "sharing": scenario.sharing,
        "work": {"kind": "exponential", "mean": scenario.work.mean},
        "once": scenario.once,
        "changes": [{"kind": type(one).__name__.lower(), **asdict(one)} for one in scenario.changes],
    }


@contextmanager
def stubs(scenario: Scenario, processes: int = 4) -> Iterator[list[int]]:
    """The scenario's servers; their ports, in its order."""
    count = len(scenario.servers)
    ports = [0] * count
    children: list[subprocess.Popen[str]] = []
    try:
        for first in range(processes):
            numbers = list(range(first, count, processes))
            told = json.dumps({**as_json(scenario), "numbers": numbers})
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.simulator.stubs", told],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            children.append(child)
            assert child.stdout is not None
            for number, port in zip(numbers, json.loads(child.stdout.readline()), strict=True):
                ports[number] = port
        yield ports
    finally:
        for child in children:
            child.communicate()  # closes its input, and so ends it


async def play_for_real(
    scenario: Scenario,
    algorithm: str,
    ports: list[int],
    *,
    clients: int,
    seed: int,
    processes: int = 4,
    retry: Retry | None = None,
) -> Seen:
    """The very requests that the simulator would make with this seed, through `AsyncBalancedTransport`s.

    What may be sent only once is a POST.
    """
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    numbers = {url: number for number, url in enumerate(urls)}
    joining = [n for n, server in enumerate(scenario.servers) if server.joins]
    first = [url for url, server in zip(urls, scenario.servers, strict=True) if not server.joins]
    options: dict[str, Any] = {} if algorithm == "adaptive" else {"passive": None}
    pools = [
        Pool(first, name=f"client-{n}", algorithm=algorithm, retry=retry, rng=Random(seed + n), **options)
        for n in range(clients)
    ]
    seen = Seen(served=[[] for _ in urls])
    loop = asyncio.get_running_loop()
    which, draw = Random(seed * 7 + 3).random, Random(seed * 11 + 5).random
    async with httpx.AsyncClient() as plain:
        for port in ports[:processes]:
            (await plain.get(f"http://127.0.0.1:{port}/begin")).raise_for_status()
    began = loop.time()
    transports = [AsyncBalancedTransport(pool) for pool in pools]
    limits = [httpx.AsyncClient(transport=transport, timeout=scenario.timeout) for transport in transports]
    for number in joining:
        for pool in pools:
            loop.call_later(scenario.servers[number].joins, pool.add, urls[number])

    async def ask(client: httpx.AsyncClient, method: str, at: float, work: float) -> None:
        try:
            response = await client.request(method, f"http://pool/{work:.6f}")
        except httpx.TransportError as exc:
            good, url = False, exc.lbclient.backend  # type: ignore[attr-defined]
        else:
            good, url = response.status_code == 200, response.extensions["lbclient"].backend
        seen.served[numbers[url]].append((at, good))
        if at < scenario.warm_up:
            return
        if good:
            seen.latencies.append(loop.time() - began - at)
        else:
            seen.failures[method] += 1

    asked: set[asyncio.Task[None]] = set()
    for at, work in poisson(scenario, seed):
        pause = began + at - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        seen.late = max(seen.late, loop.time() - began - at)
        method = "POST" if draw() < scenario.once else "GET"
        task = loop.create_task(ask(limits[int(which() * clients)], method, at, work))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)
    for client in limits:
        await client.aclose()
    return seen
