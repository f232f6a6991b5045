"""What one pick costs, of every algorithm, from a few backends to thousands, and what a build costs.

    python -m benchmarks.picks
    python -m benchmarks.picks --algorithms round_robin,maglev --sizes 3,10000 --json picks.json

No network: an algorithm's picker by itself, then the whole of `pool.pick()` and `ticket.release()`.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.report import Table, describe, environment, write_json
from benchmarks.servers import client_cpu, pin_client
from lbclient import Backend, Pool
from lbclient.algorithms import BY_NAME
from lbclient.core.algorithms.picker import Picker
from lbclient.core.backend import BackendState

#: As many clients take turns, so that a hashing algorithm looks all over its table.
KEYS = tuple(f"client-{number}".encode() for number in range(1009))

REPETITIONS = 15
SECONDS_PER_REPETITION = 0.01

Step = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Cost:
    """One algorithm over one set of backends. Nanoseconds a pick, milliseconds a build or an update.

    `pick_ns` is the picker alone; `turn_ns` adds what it does when a request starts and ends, if anything;
    `pool_ns` is a ticket taken from a pool and released. `update_ms` is one backend replaced by another in a pool,
    `memory_bytes` what a pool holds for each backend, tables included.
    """

    pick_ns: float
    turn_ns: float
    pool_ns: float
    build_ms: float
    update_ms: float
    memory_bytes: float


@dataclass(slots=True)
class Row:
    """One algorithm, weighted or not, at every size."""

    algorithm: str
    weighted: bool
    costs: dict[int, Cost] = field(default_factory=dict)
    error: str | None = None

    @property
    def name(self) -> str:
        return f"{self.algorithm}, weighted" if self.weighted else self.algorithm

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "costs": {str(size): asdict(cost) for size, cost in self.costs.items()}}


def cost(algorithm: str, size: int, *, weighted: bool, repetitions: int = REPETITIONS) -> Cost:
    """Measure `algorithm` over `size` backends, with weights 1 to 5 in turn when `weighted`."""
    picker, build_ms = _build(algorithm, size, weighted=weighted)
    pick = nanoseconds(picker.pick, repetitions)
    turn = nanoseconds(_with_hooks(picker), repetitions)
    del picker  # some of them are large, and the pool builds its own
    pool = Pool(_backends(size, weighted=weighted), algorithm=algorithm, rng=Random(1))

    def ticket(key: bytes) -> None:
        pool.pick(key).release()

    whole = nanoseconds(ticket, repetitions)
    return Cost(pick, turn, whole, build_ms, _update(pool), _memory(algorithm, size, weighted=weighted))


def _update(pool: Pool) -> float:
    """Milliseconds to replace one backend by another: the best of three, each time of one that is new."""
    took = []
    for turn in range(3):
        left = (*pool.declared[1:], Backend(f"http://replacement-{turn}:8080"))
        gc.collect()
        begun = time.perf_counter()
        pool.update(left)
        took.append(time.perf_counter() - begun)
    return min(took) * 1e3


def _memory(algorithm: str, size: int, *, weighted: bool) -> float:
    """Bytes for each backend that a pool adds to what its caller declares."""
    backends = _backends(size, weighted=weighted, network=20)
    gc.collect()
    tracemalloc.start()
    try:
        pool = Pool(backends, algorithm=algorithm, rng=Random(1))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del pool
    return held / size


def _backends(size: int, *, weighted: bool, network: int = 10) -> list[Backend]:
    weights = itertools.cycle((1, 2, 3, 4, 5) if weighted else (1,))
    return [
        Backend(f"http://{network}.{number >> 16}.{number >> 8 & 255}.{number & 255}:8080", weight=weight)
        for number, weight in zip(range(size), weights, strict=False)
    ]


def _build(algorithm: str, size: int, *, weighted: bool) -> tuple[Picker, float]:
    """A picker, and the milliseconds it took to build: the best of three, of one if that takes long.

    Each time over other backends: a table computed before may be kept.
    """
    took: list[float] = []
    while True:
        backends = _backends(size, weighted=weighted, network=10 + len(took))
        states = [BackendState(backend, time.monotonic) for backend in backends]
        gc.collect()
        begun = time.perf_counter()
        picker = BY_NAME[algorithm]().build(states, Random(1))
        took.append(time.perf_counter() - begun)
        if len(took) == 3 or took[-1] > 0.2:
            return picker, min(took) * 1e3


def nanoseconds(step: Step, repetitions: int = REPETITIONS) -> float:
    """What one `step` costs, less the loop around it: the best of `repetitions`, after a warm-up.

    The best, not the median: noise on a pure computation only ever adds. The garbage collector rests, as in
    `timeit`.
    """
    count = 8
    while (once := _loop(step, count)) < SECONDS_PER_REPETITION / 4 and count < 1_000_000:
        count *= 4
    count = max(8, int(count * SECONDS_PER_REPETITION / once))
    best = min(_loop(step, count) for _ in range(repetitions))
    return max(0.0, best / count * 1e9 - loop_overhead())


@cache
def loop_overhead() -> float:
    """Nanoseconds that a turn of the measuring loop costs when it does nothing."""
    keys = list(itertools.islice(itertools.cycle(KEYS), 100_000))
    return min(_nothing(keys) for _ in range(20)) / len(keys) * 1e9


def _loop(step: Step, count: int) -> float:
    keys = list(itertools.islice(itertools.cycle(KEYS), count))
    gc.collect()
    gc.disable()
    try:
        begun = time.perf_counter()
        for key in keys:
            step(key)
        return time.perf_counter() - begun
    finally:
        gc.enable()


def _nothing(keys: Sequence[bytes]) -> float:
    begun = time.perf_counter()
    for _key in keys:
        pass
    return time.perf_counter() - begun


def _with_hooks(picker: Picker) -> Step:
    """A pick with the bookkeeping the pool does around it, and nothing else of the pool."""
    pick = picker.pick
    started, ended = getattr(picker, "started", None), getattr(picker, "ended", None)
    if started is None and ended is None:
        return pick

    def turn(key: bytes) -> None:
        state = pick(key)
        state.in_flight += 1
        if started is not None:
            started(state)
        state.in_flight -= 1
        if ended is not None:
            ended(state)

    return turn


def table(title: str, rows: Sequence[Row], sizes: Sequence[int], figure: Callable[[Cost], float]) -> Table:
    """One figure of every row, a column per size, and how it grows from the smallest set to the largest."""

    def cells(row: Row) -> tuple[str, ...]:
        if row.error is not None:
            return (row.name, *("" for _ in sizes), row.error)
        values = [figure(row.costs[size]) for size in sizes]
        grows = f"{values[-1] / values[0]:.1f}x" if values[0] else ""
        return (row.name, *(f"{value:.3g}" if value < 10 else f"{value:.0f}" for value in values), grows)

    return Table(
        title, ("algorithm", *(f"{size} backends" for size in sizes), "grows"), [cells(row) for row in rows]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    pin_client(client_cpu())
    facts = environment()
    print(describe(facts))
    call = nanoseconds(lambda key: None)
    print(
        f"subtracted: {loop_overhead():.0f} ns of loop; still in it: the call, {call:.0f} ns for an empty one"
    )
    rows = []
    for algorithm in options.algorithms:
        for weighted in (False, True):
            row = Row(algorithm, weighted)
            rows.append(row)
            try:
                for size in options.sizes:
                    row.costs[size] = cost(
                        algorithm, size, weighted=weighted, repetitions=options.repetitions
                    )
            except Exception as error:
                row.error = f"{type(error).__name__}: {error}"
    for title, figure in FIGURES.items():
        table(title, rows, options.sizes, figure).print()
    measured = {"environment": facts, "loop_overhead_ns": loop_overhead(), "empty_call_ns": call}
    write_json(options.json, {**measured, "rows": [row.as_dict() for row in rows]})
    # An algorithm whose extra is not installed says so; that is no failure of a smoke test.
    return (
        1
        if any(row.error and not row.error.startswith(("ImportError", "ModuleNotFound")) for row in rows)
        else 0
    )


FIGURES: dict[str, Callable[[Cost], float]] = {
    "picker.pick(key), ns": lambda cost: cost.pick_ns,
    "picker.pick(key), started(), ended(), ns": lambda cost: cost.turn_ns,
    "pool.pick(key), ticket.release(), ns": lambda cost: cost.pool_ns,
    "algorithm.build(backends), ms (once, when the set changes)": lambda cost: cost.build_ms,
    "pool.update(backends), one replaced by another, ms": lambda cost: cost.update_ms,
    "memory of a pool, bytes for each backend": lambda cost: cost.memory_bytes,
}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    kinds: dict[type, str] = {}
    for name, kind in BY_NAME.items():
        kinds.setdefault(kind, name)  # a second name is the same algorithm
    names = list(kinds.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.picks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--algorithms", type=lambda text: text.split(","), default=names, help=f"default: {','.join(names)}")
    add("--sizes", type=lambda text: [int(size) for size in text.split(",")], help="default: 3,100,10000")
    add("--repetitions", type=int, default=REPETITIONS, help=f"the best of so many; default: {REPETITIONS}")
    add("--json", type=Path, metavar="FILE", help="write every figure")
    add(
        "--quick",
        action="store_true",
        help="a smoke test of some seconds: 3 and 100 backends, one repetition",
    )
    options = parser.parse_args(arguments)
    options.sizes = options.sizes or ([3, 100] if options.quick else [3, 100, 10_000])
    if options.quick:
        options.repetitions = 1
    for name in options.algorithms:
        if name not in BY_NAME:
            parser.error(f"no algorithm {name!r}; there are {', '.join(BY_NAME)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
