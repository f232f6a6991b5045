"""What connections cost: while they are idle, in memory, and how many are opened that need not be.

    python -m benchmarks.connections
    python -m benchmarks.connections --quick

Each target is measured in a process of its own, so that the memory of one is not given back to the next.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from benchmarks.backends import fleet
from benchmarks.report import Table, describe, environment, write_json
from benchmarks.servers import client_cpu, pin_client
from benchmarks.targets import resolve
from benchmarks.workloads import WORKLOADS, Scene

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGETS = ("httpx", "httpx2", "lbclient", "lbclient@httpcore")
AT_ONCE = 50
PATIENCE = 60.0  # seconds; bare httpx needs them to open a thousand connections


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured of one target.

    Attributes:
        one_us: CPU of a request after another, with one connection.
        idle_us: The same, with all the idle ones.
        ratio: The second to the first.
        memory: Bytes of resident memory that an idle connection takes.
        connects: Connections opened for each request, 50 requests at a time to backends that take 100 ms; those of the
            first moments do not count.
    """

    target: str
    one_us: float
    idle_us: float
    ratio: float
    memory: float
    connects: float


def client(target: str, scene: Scene) -> tuple[Any, str]:
    """A target's client, and the URL to get."""
    http, origin = resolve(target).make(scene)
    return http, f"{origin}/"


async def open_many(http: Any, url: str, count: int) -> None:
    """Leave so many idle connections behind: that many responses are open at a time."""
    opened, everybody = 0, anyio.Event()

    async def hold() -> None:
        nonlocal opened
        async with http.stream("GET", url, timeout=PATIENCE) as response:
            opened += 1
            if opened == count:
                everybody.set()
            await everybody.wait()
            await response.aread()

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(hold)


async def one_after_the_other(http: Any, url: str, seconds: float) -> float:
    """CPU for each of the requests of so many seconds, in microseconds."""
    count, until, began = 0, time.perf_counter() + seconds, time.process_time()
    while time.perf_counter() < until:
        await http.get(url, timeout=PATIENCE)
        count += 1
    return (time.process_time() - began) / count * 1e6


def resident() -> int:
    """Bytes of this process in memory; 0 where /proc does not tell."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


async def idle_cost(target: str, scene: Scene, idle: int, rounds: int, seconds: float) -> tuple[float, ...]:
    """CPU with one connection, with many, their ratio, and the memory of one."""
    http, url = client(target, scene)
    async with http:
        await open_many(http, url, len(scene.urls))
        with_one = median([await one_after_the_other(http, url, seconds) for _ in range(rounds)])
        before = resident()
        await open_many(http, url, idle)
        memory = (resident() - before) / idle
        with_many = median([await one_after_the_other(http, url, seconds) for _ in range(rounds)])
    return with_one, with_many, with_many / with_one, memory


async def connects_per_request(target: str, scene: Scene, seconds: float) -> float:
    http, url = client(target, scene)

    async def ask_for(seconds: float) -> int:
        answers, until = 0, time.perf_counter() + seconds

        async def work() -> None:
            nonlocal answers
            while time.perf_counter() < until:
                await http.get(url, timeout=PATIENCE)
                answers += 1

        async with anyio.create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(work)
        return answers

    async def opened() -> int:
        return int((await other.get(f"{scene.urls[0]}/connections")).text)

    async with http, httpx.AsyncClient() as other:
        await ask_for(seconds / 4)
        before = await opened()
        answers = await ask_for(seconds)
        return (await opened() - before) / answers


def measure(target: str, idle: int, rounds: int, seconds: float) -> Cost:
    with fleet(replace(WORKLOADS["small"], connections=idle)) as scene:
        pin_client(client_cpu())
        one, many, ratio, memory = anyio.run(idle_cost, target, scene, idle, rounds, seconds)
    with fleet(replace(WORKLOADS["delayed"], connections=100)) as scene:
        connects = anyio.run(connects_per_request, target, scene, seconds * 4)
    return Cost(target, one, many, ratio, memory, connects)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connections", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--idle", type=int, default=1000, help="how many idle connections; default: 1000")
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds")
    options = parser.parse_args(arguments)
    idle, rounds, seconds = (50, 1, 0.2) if options.quick else (options.idle, 5, 1.0)
    facts = environment()
    print(describe(facts))
    costs = []
    for target in TARGETS:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            costs.append(process.apply(measure, (target, idle, rounds, seconds)))
    Table(
        title=f"one request after the other with {idle} idle connections against one for each backend; "
        f"connects for each of {AT_ONCE} at a time to backends that take 100 ms",
        columns=("target", "CPU us", "CPU us, idle ones", "ratio", "KiB each", "connects per request"),
        rows=[
            (
                each.target, f"{each.one_us:.0f}", f"{each.idle_us:.0f}", f"{each.ratio:.2f}",
                f"{each.memory / 1024:.1f}", f"{each.connects:.3f}",
            )
            for each in costs
        ],
    ).print()  # fmt: skip
    write_json(options.json, {"environment": facts, "idle": idle, "rows": [asdict(each) for each in costs]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
