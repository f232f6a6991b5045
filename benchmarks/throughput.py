"""Requests per second, CPU per request and tail latency, against what people would use instead.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --concurrency 1,50 --targets httpx2,lbclient,lbclient:least_connections
    python -m benchmarks.throughput --workload download --concurrency 10
    python -m benchmarks.throughput --quick

Every figure that matters is a ratio to bare `httpx.AsyncClient()`, measured right before and right after.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks import targets
from benchmarks.backends import fleet, nginx_version
from benchmarks.proxies import proxies
from benchmarks.report import Table, describe, environment, write_json
from benchmarks.servers import client_cpu, pin_client, server_cpu
from benchmarks.slices import LOOPS, THREADS, Plan, Slice, measure
from benchmarks.targets import BASELINE, NotComparable, Target, ThreadsTarget
from benchmarks.workloads import WORKLOADS, Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

#: From here on a slice is a fixed window of answers, long against what the slowest client needs for one.
WINDOW_FROM = 100
METRICS = ("rps", "cpu_us", "total_cpu_us", "p50_ms", "p99_ms")


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios, and how far they spread."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        return cls(median(ratios), min(ratios), max(ratios)) if ratios else cls(nan, nan, nan)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}..{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Row:
    """One target at one concurrency: its slices, and what each is to the baseline around it."""

    target: str
    concurrency: int
    slices: Sequence[Slice]
    ratios: dict[str, Ratio]
    errors: dict[str, int]
    trusted: bool

    def value(self, metric: str) -> float:
        return median(float(getattr(each, metric)) for each in self.slices)

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "concurrency": self.concurrency,
            **{metric: self.value(metric) for metric in METRICS},
            "ratio_to_baseline": {
                metric: {"median": ratio.median, "low": ratio.low, "high": ratio.high}
                for metric, ratio in self.ratios.items()
            },
            "errors": self.errors,
            "trusted": self.trusted,
            "slices": [each.as_dict() for each in self.slices],
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured. Seconds."""

    workload: str
    loop: str
    rounds: int
    slice: float
    window: float

    def plan(self, concurrency: int) -> Plan:
        if concurrency >= WINDOW_FROM:
            # Warm-up and window together stay below the clients' pool timeout of 5 s.
            return Plan(warm_up=min(0.5, self.window / 4), window=self.window, cut=True)
        return Plan(warm_up=self.slice / 4, window=self.slice, cut=False)

    def rounds_at(self, concurrency: int) -> int:
        """A window is four times as long as a slice, and calmer: it needs fewer rounds."""
        return (self.rounds + 1) // 2 if concurrency >= WINDOW_FROM else self.rounds


def compare(
    baseline: Target | ThreadsTarget,
    others: Sequence[Target | ThreadsTarget],
    scene: Scene,
    concurrency: int,
    settings: Settings,
) -> list[Row]:
    """Measure every target between two slices of the baseline, in as many rounds as `settings` say."""
    plan = settings.plan(concurrency)

    def take(target: Target | ThreadsTarget) -> Slice:
        return measure(target, scene, concurrency, plan, settings.loop)

    taken: dict[str, list[tuple[Slice, Slice, Slice]]] = {target.name: [] for target in others}
    line = [take(baseline)]
    for turn in range(settings.rounds_at(concurrency)):
        start = turn % max(1, len(others))  # nobody is always the neighbour of the same target
        for target in [*others[start:], *others[:start]]:
            one = take(target)
            line.append(take(baseline))
            taken[target.name].append((line[-2], one, line[-1]))
    # The baseline against its own neighbours: what the same client differs by is the noise of this machine.
    own = list(zip(line, line[1:], line[2:], strict=False)) or [(line[0], line[0], line[0])]
    return [
        _row(baseline.name, concurrency, line, own),
        *(_row(name, concurrency, [one for _, one, _ in each], each) for name, each in taken.items()),
    ]


def _row(
    name: str, concurrency: int, slices: Sequence[Slice], paired: Sequence[tuple[Slice, Slice, Slice]]
) -> Row:
    errors: Counter[str] = Counter()
    for each in slices:
        errors.update(each.errors)
    return Row(
        target=name,
        concurrency=concurrency,
        slices=slices,
        ratios={metric: Ratio.of([_ratio(metric, *each) for each in paired]) for metric in METRICS},
        errors=dict(errors),
        trusted=not any(each.errors for three in paired for each in three),
    )


def _ratio(metric: str, before: Slice, one: Slice, after: Slice) -> float:
    base = (getattr(before, metric) + getattr(after, metric)) / 2
    return float(getattr(one, metric) / base) if base else nan


def table(rows: Sequence[Row], settings: Settings) -> Table:
    baseline = rows[0].target
    plan = settings.plan(rows[0].concurrency)
    kind = "window" if plan.cut else "slices"
    rounds = settings.rounds_at(rows[0].concurrency)
    measured = f"{rounds} rounds, {kind} of {plan.window:g} s"
    return Table(
        title=f"{WORKLOADS[settings.workload].what}, {rows[0].concurrency} at a time, {settings.loop}, "
        f"{measured}; x = ratio to {baseline}: median (min..max)",
        columns=(
            "target",
            "req/s",
            "x req/s",
            "CPU us",
            "x CPU",
            "x CPU with proxy",
            "p50 ms",
            "p99 ms",
            "x p99",
            "errors",
        ),
        rows=[_cells(row) for row in rows],
    )


def _cells(row: Row) -> tuple[str, ...]:
    def ratio(metric: str) -> str:
        return str(row.ratios[metric]) if row.trusted else "not trusted"

    return (
        row.target,
        f"{row.value('rps'):.0f}", ratio("rps"),
        f"{row.value('cpu_us'):.0f}", ratio("cpu_us"), ratio("total_cpu_us"),
        f"{row.value('p50_ms'):.2f}", f"{row.value('p99_ms'):.2f}", ratio("p99_ms"),
        ", ".join(f"{count} {name}" for name, count in row.errors.items()) or "0",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    settings = Settings(options.workload, options.loop, options.rounds, options.slice, options.window)
    names = options.targets or (targets.IN_THREADS if options.loop == THREADS else targets.DEFAULT)
    resolve = targets.resolve_for_threads if options.loop == THREADS else targets.resolve
    wanted = _resolve(resolve, options.baseline, names, must_exist=options.targets is not None)
    # Ended by a signal, the servers are still stopped on the way out.
    signal.signal(signal.SIGTERM, _interrupt)
    begun, path = time.monotonic(), list(sys.path)
    cpus = {"client_cpu": client_cpu(), "server_cpu": server_cpu()}
    facts = environment() | cpus | {"nginx": nginx_version()}
    print(describe(facts))
    print("client on cpu {client_cpu}, 3 backends (nginx {nginx}) on cpu {server_cpu}".format(**facts))
    rows: list[Row] = []
    with fleet(WORKLOADS[settings.workload]) as plain:
        tls = plain.ssl_context is not None
        between = [] if tls else [target.proxy for target in wanted if target.proxy is not None]
        with proxies(between, plain.urls) as found:
            scene = replace(plain, proxies=found)
            pin_client(cpus["client_cpu"])
            wanted = _comparable(wanted, scene)
            for concurrency in options.concurrency:
                rows += (part := compare(wanted[0], wanted[1:], scene, concurrency, settings))
                table(part, settings).print()
                measured = [row.as_dict() for row in rows]
                write_json(
                    options.json, {"environment": facts, "settings": asdict(settings), "rows": measured}
                )
    assert sys.path == path, "a target changed sys.path, and with it what httpcore's failing imports cost"
    print(f"\n{time.monotonic() - begun:.0f} s")
    failed = [row for row in rows if row.errors]
    for row in failed:
        print(f"errors: {row.target} at {row.concurrency}: {row.errors}", file=sys.stderr)
    return 1 if failed else 0


def _resolve(
    resolve: Callable[[str], Target | ThreadsTarget], baseline: str, names: Sequence[str], *, must_exist: bool
) -> list[Target | ThreadsTarget]:
    """The targets, baseline first. One whose package is missing is left out, unless it was asked for."""
    found = [resolve(baseline)]
    for name in dict.fromkeys(names):
        if name == baseline:
            continue
        try:
            found.append(resolve(name))
        except ImportError as error:
            if must_exist:
                raise SystemExit(f"target {name}: {error}") from error
            print(f"without {name}: {error}", file=sys.stderr)
        except ValueError as error:
            raise SystemExit(str(error)) from error
    return found


def _comparable(wanted: Sequence[Target | ThreadsTarget], scene: Scene) -> list[Target | ThreadsTarget]:
    """Those that can do what is asked for."""
    found = []
    for target in wanted:
        try:
            if isinstance(target, ThreadsTarget):
                target.make(scene)[0].close()
            else:
                anyio.run(_try_out, target, scene)
        except NotComparable as why:
            print(f"without {target.name}: {why}", file=sys.stderr)
        else:
            found.append(target)
    return found


async def _try_out(target: Target, scene: Scene) -> None:
    client, _ = target.make(scene)
    await client.aclose()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--targets", type=_names, help=f"comma-separated; default: {','.join(targets.DEFAULT)}")
    add("--baseline", default=BASELINE, help=f"whom the ratios are to; default: {BASELINE}")
    add("--concurrency", type=_numbers, help="requests at a time, comma-separated; default: 1,10,50,100,300")
    add("--workload", choices=WORKLOADS, default="small", help=_workloads())
    add("--loop", choices=(*LOOPS, THREADS), default="asyncio", help="threads: the clients that block")
    add("--rounds", type=int, help=f"slices per target, half from {WINDOW_FROM} at a time on; default: 5")
    add("--slice", type=float, help=f"seconds per slice below {WINDOW_FROM} at a time; default: 1")
    add("--window", type=float, help=f"seconds per slice from {WINDOW_FROM} at a time; default: 4")
    add("--json", type=Path, metavar="FILE", help="write everything measured, slice by slice")
    add("--quick", action="store_true", help="a smoke test of some seconds: fails on errors, never on a time")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.concurrency = options.concurrency or ([1, 10, 100] if quick else [1, 10, 50, 100, 300])
    options.rounds = options.rounds or (1 if quick else 5)
    options.slice = options.slice or (0.12 if quick else 1.0)
    options.window = options.window or (0.25 if quick else 4.0)
    if options.rounds < 1 or options.slice <= 0 or options.window <= 0 or min(options.concurrency) < 1:
        parser.error("--rounds, --slice, --window and --concurrency must be above 0")
    return options


def _workloads() -> str:
    return "; ".join(f"{name}: {each.what}" for name, each in WORKLOADS.items())


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C is what every event loop knows how to end on."""
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
