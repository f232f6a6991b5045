"""One slice: one fresh client, so many requests at a time, for so long.

A slice runs in an event loop, or in threads, of its own with a client of its own, so nothing of one target (idle
connections that expire, a pool that cancelled requests have filled) is left for the next. Workers send one request
after the other. After the warm-up the window opens; what counts is what arrives while it is open.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from math import inf, nan
from statistics import quantiles
from typing import TYPE_CHECKING, Any, cast

import anyio

from benchmarks.servers import cpu_us

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.targets import BlockingClient, Client, Target, ThreadsTarget
    from benchmarks.workloads import Scene, Workload

clock = time.perf_counter

#: What is not an event loop, but as many threads as requests at a time.
THREADS = "threads"

#: How long requests may take to finish after the window, or a client to close, before they are cut off.
PATIENCE = 5.0

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a slice warms up and measures, in seconds; `cut` drops what is unanswered at its end.

    Below 100 at a time the workers finish what they have begun. From 100 on that can take longer than the
    window itself, and the clients' own timeouts (5 s) would begin to turn waiting into errors.
    """

    warm_up: float
    window: float
    cut: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """What was measured. Rates are per second, times in the unit of their name.

    CPU is that of this process for each answer; in total, with the proxy's that it went through.
    """

    answers: int
    seconds: float
    rps: float
    cpu_us: float
    total_cpu_us: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    cpu: float
    proxy_us: float
    answers: int
    waiting: tuple[float, ...]


class _Tally:
    """Counts answers and opens and closes the window.

    The window is moved by whoever looks at the clock first, a timer or a worker with an answer: a client that
    answers from memory never lets the event loop run a timer.
    """

    def __init__(self, plan: Plan, concurrency: int, proxy: int | None) -> None:
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self.started = [inf] * concurrency
        self.marks: list[_Mark] = []
        self._window = plan.window
        self._proxy = proxy
        self.next_mark = clock() + plan.warm_up

    def __repr__(self) -> str:
        phase = ("warming up", "measuring", "done")[len(self.marks)]
        return f"<_Tally {phase}, {len(self.latencies)} answers, {self.errors.total()} errors>"

    @property
    def done(self) -> bool:
        return len(self.marks) == 2

    def look(self, now: float) -> None:
        if now >= self.next_mark and not self.done:
            waiting = tuple(now - at for at in self.started if at < now)
            proxy_us = 0.0 if self._proxy is None else cpu_us(self._proxy)
            self.marks.append(_Mark(now, time.process_time(), proxy_us, len(self.latencies), waiting))
            self.next_mark = now + self._window


def measure(
    target: Target | ThreadsTarget, scene: Scene, concurrency: int, plan: Plan, loop: str = "asyncio"
) -> Slice:
    """Run one slice of `target` with `concurrency` requests in flight, on the event loop named `loop`."""
    gc.collect()
    if loop == THREADS:
        return _measure_in_threads(cast("ThreadsTarget", target), scene, concurrency, plan)
    result: Slice = anyio.run(_measure, cast("Target", target), scene, concurrency, plan, **LOOPS[loop])
    return result


def _measure_in_threads(target: ThreadsTarget, scene: Scene, concurrency: int, plan: Plan) -> Slice:
    """As `_measure`; nothing can be cut off, so whoever has begun finishes."""
    client, origin = target.make(scene)
    tally = _Tally(plan, concurrency, None)
    about = (client, origin, scene.workload, tally)
    workers = [
        threading.Thread(target=_block, args=(*about, number), daemon=True) for number in range(concurrency)
    ]
    for worker in workers:
        worker.start()
    while not tally.done:
        time.sleep(max(0.0, tally.next_mark - clock()))
        tally.look(clock())
    for worker in workers:
        worker.join(PATIENCE)
    if any(worker.is_alive() for worker in workers):
        tally.errors["unanswered"] += 1
    client.close()
    return _summary(tally, plan)


def _block(client: BlockingClient, origin: str, workload: Workload, tally: _Tally, number: int) -> None:
    method, url, content = workload.method, origin + workload.path, workload.content
    started = tally.started
    while not tally.done:
        begun = started[number] = clock()
        try:
            response = client.request(method, url, content=content)
            if response.status_code != 200:
                tally.errors[f"status {response.status_code}"] += 1
        except Exception as error:
            tally.errors[type(error).__name__] += 1
            continue
        now = started[number] = clock()
        tally.latencies.append(now - begun)


async def _measure(target: Target, scene: Scene, concurrency: int, plan: Plan) -> Slice:
    client, origin = target.make(scene)
    proxy = None if target.proxy is None else scene.proxies[target.proxy].pid
    tally = _Tally(plan, concurrency, proxy)
    async with anyio.create_task_group() as workers:
        for number in range(concurrency):
            workers.start_soon(_work, client, origin, scene.workload, tally, number)
        while not tally.done:
            await anyio.sleep(max(0.001, tally.next_mark - clock()))
            tally.look(clock())
        if plan.cut:
            workers.cancel_scope.cancel()
        else:
            workers.cancel_scope.deadline = anyio.current_time() + PATIENCE
    if workers.cancel_scope.cancelled_caught and not plan.cut:
        tally.errors["unanswered"] += 1
    await _close(client, tally)
    return _summary(tally, plan)


async def _close(client: Client, tally: _Tally) -> None:
    with anyio.move_on_after(PATIENCE) as closing:
        try:
            await client.aclose()
        except Exception as error:
            tally.errors[f"close: {type(error).__name__}"] += 1
    if closing.cancelled_caught:
        tally.errors["close hangs"] += 1


async def _work(client: Client, origin: str, workload: Workload, tally: _Tally, number: int) -> None:
    method, url, content = workload.method, origin + workload.path, workload.content
    started = tally.started
    while not tally.done:
        begun = started[number] = clock()
        try:
            response = await client.request(method, url, content=content)
            if response.status_code != 200:
                tally.errors[f"status {response.status_code}"] += 1
        except Exception as error:
            tally.errors[type(error).__name__] += 1
            await anyio.sleep(0.001)  # a client that fails at once must not starve the timer
            continue
        now = started[number] = clock()
        tally.latencies.append(now - begun)
        tally.look(now)


def _summary(tally: _Tally, plan: Plan) -> Slice:
    begin, end = tally.marks
    seconds, answers = end.at - begin.at, end.answers - begin.answers
    if not answers:
        tally.errors["no answers"] += 1
    arrived = tally.latencies[begin.answers : end.answers if plan.cut else None]
    # Requests nobody answered are the slow ones: leaving them out would flatter whoever lets them starve.
    # They count with the age they had, so the p99 of a cut slice is a lower bound.
    slow = [*arrived, *end.waiting] if plan.cut else arrived
    cpu = (end.cpu - begin.cpu) * 1e6
    total = cpu + end.proxy_us - begin.proxy_us
    return Slice(
        answers=answers,
        seconds=seconds,
        rps=answers / seconds,
        cpu_us=cpu / answers if answers else nan,
        total_cpu_us=total / answers if answers else nan,
        p50_ms=_percentile(arrived, 50) * 1e3,
        p99_ms=_percentile(slow, 99) * 1e3,
        errors=dict(tally.errors),
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else nan
    return quantiles(values, n=100, method="inclusive")[percent - 1]
