"""The table of docs/adaptive.md: every algorithm in every scenario of the simulator, several seeds, one JSON file.

    python -m benchmarks.simulation --workers 2            # goes on where it was stopped
    python -m benchmarks.simulation --held-out             # seeds that nothing was tuned on, in a file of their own
    python -m benchmarks.simulation --table                # print it from the file; with --held-out that one

The p99 is relative to the ideal central queue with the same requests. What says most comes first: all scenarios with
one seed, then with the next; last the peers that no client can be, with one seed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from lbclient.simulator import RESEARCH, SCENARIOS, simulate
from lbclient.simulator.compare import Figure

FILE = Path(__file__).parent / "simulation.json"
HELD_OUT_FILE = FILE.with_name("simulation-held-out.json")
SEEDS, HELD_OUT = (1, 2, 3), (11, 12, 13)
REAL = ("adaptive", "least_connections", "power_of_two_choices", "peak_ewma", "round_robin", "random")
# Those ask the servers what no client can: one seed is enough to see where they stand.
ASKING = ("prequal", "c3")
ALGORITHMS = (*REAL, *ASKING)
CLIENTS = (1, 10, 100)
SMALL: dict[str, tuple[int, ...]] = {
    "two": (1, 20),
    "three": (1, 20),
    "five": (1, 20),
    "three-sinkhole": (1, 20),
    "one-a-second": (1,),
    "llm": (1, 10),
    "rolling-deploy": (1, 10),
    "mixed-sizes": (1, 10),
    "canary": (1, 10),
}
Cell: TypeAlias = tuple[str, str, int, int]
Known: TypeAlias = dict[str, dict[str, float]]


def cells(seeds: Sequence[int]) -> Iterator[Cell]:
    """Scenario, algorithm, clients and seed; what says most first."""
    names = (*(scenario.name for scenario in RESEARCH), *SMALL)
    for seed in seeds:
        for name in names:
            yield name, "ideal", 1, seed
        for algorithm in REAL:
            yield from (
                (name, algorithm, clients, seed) for name in names for clients in counts(name, algorithm)
            )
    for algorithm in ASKING:
        yield from ((name, algorithm, n, seeds[0]) for name in names for n in counts(name, algorithm))


def counts(name: str, algorithm: str) -> tuple[int, ...]:
    """Of clients. Rotation and lots do the same whatever their number: one of them will do."""
    found = SMALL.get(name, CLIENTS)
    return found[:1] if algorithm in ("round_robin", "random") else found


def counted_as(name: str, algorithm: str, clients: int) -> int:
    """The number of clients that says what `clients` would."""
    found = counts(name, algorithm)
    return clients if clients in found else found[0]


def key(cell: Cell) -> str:
    return " ".join(map(str, cell))


def measure(cell: Cell) -> dict[str, float]:
    """The figures that the table needs. Passive health is off: failures are counted before anybody reacts."""
    name, algorithm, clients, seed = cell
    options: dict[str, Any] = {} if algorithm in ("adaptive", "ideal") else {"passive": None}
    scenario = SCENARIOS[name]
    if name not in SMALL and not scenario.changes:  # nothing happens in it that takes time
        scenario = replace(scenario, seconds=8.0, warm_up=2.0)
    result = simulate(scenario, algorithm, clients=clients, seed=seed, **options)
    figures = {"p50": result.p50, "p99": result.p99, "p999": result.p999, "failed": round(result.failed, 7)}
    if name == "canary":
        figures["share"] = round(result.shares()[f"http://server-{len(result.load) - 1}:80"] * 401, 3)
    return figures


def ratios(known: Known, name: str, algorithm: str, clients: int) -> list[float]:
    """p99 to the ideal, a seed each."""
    return [
        known[key((name, algorithm, clients, seed))]["p99"] / known[key((name, "ideal", 1, seed))]["p99"]
        for seed in range(1, 100)
        if key((name, algorithm, clients, seed)) in known and key((name, "ideal", 1, seed)) in known
    ]


def failed(known: Known, name: str, algorithm: str, clients: int) -> float:
    """The mean share of failed requests."""
    own = [known.get(key((name, algorithm, clients, seed))) for seed in range(1, 100)]
    shares = [one["failed"] for one in own if one is not None]
    return math.fsum(shares) / len(shares) if shares else math.nan


def mean(values: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(math.fsum(math.log(value) for value in values) / len(values)) if values else math.nan


def print_table(known: Known) -> None:
    """In Markdown."""
    print("| scenario, clients | " + " | ".join(ALGORITHMS) + " |")
    print("|---" * (len(ALGORITHMS) + 1) + "|")
    sums: dict[str, list[float]] = {algorithm: [] for algorithm in ALGORITHMS}
    for name in (*(scenario.name for scenario in RESEARCH), *SMALL):
        for clients in SMALL.get(name, CLIENTS):
            row = []
            for algorithm in ALGORITHMS:
                counted = counted_as(name, algorithm, clients)
                own = ratios(known, name, algorithm, counted)
                ratio, lost = mean(own), failed(known, name, algorithm, counted)
                spread = f" ± {Figure.of(own).half:.2f}" if len(own) > 1 else ""
                row.append(f"{ratio:.2f}{spread}" + (f" ({lost:.2%})" if lost > 0.00005 else ""))
                if name not in SMALL and not math.isnan(ratio):
                    sums[algorithm].append(ratio)
            print(f"| {name}, {clients} | " + " | ".join(row) + " |")
    print("| **mean of the 36** | " + " | ".join(f"{mean(sums[a]):.2f}" for a in ALGORITHMS) + " |")


def losses(known: Known) -> Iterator[str]:
    """The cells in which somebody that clients can use is better than Adaptive, beyond what the seeds can tell."""
    for name in (*(scenario.name for scenario in RESEARCH), *SMALL):
        for clients in SMALL.get(name, CLIENTS):
            own = ratios(known, name, "adaptive", clients)
            for algorithm in REAL[1:]:
                counted = counted_as(name, algorithm, clients)
                other = ratios(known, name, algorithm, counted)
                if not own or len(own) != len(other):
                    continue
                apart = Figure.of([mine / its for mine, its in zip(own, other, strict=True)])
                if apart.mean - (0.0 if math.isnan(apart.half) else apart.half) > 1:
                    lost = failed(known, name, algorithm, counted)
                    yield f"{name}, {clients}: {algorithm} is better, {apart.mean:.2f} (it fails {lost:.2%})"


def timed(cell: Cell) -> tuple[Cell, dict[str, float]]:
    """A cell and its figures, from another process."""
    return cell, measure(cell)


def write(known: Known, path: Path) -> None:
    """A line per cell, in order, so that a difference can be read."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
    path.write_text("{\n" + lines + "\n}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument("--held-out", action="store_true", help=f"the seeds {HELD_OUT} instead of {SEEDS}")
    parser.add_argument(
        "--seconds", default=math.inf, type=float, help="stop after so many, and go on next time"
    )
    parser.add_argument("--only", default="", help="algorithms, with commas between them")
    parser.add_argument("--workers", default=1, type=int, help="processes at once")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", action="store_true", help="measure nothing, print what is known")
    options = parser.parse_args(arguments)
    path: Path = options.json or (HELD_OUT_FILE if options.held_out else FILE)
    known: Known = json.loads(path.read_text()) if path.exists() else {}
    if options.table:
        print_table(known)
        print("", *losses(known), sep="\n")
        return 0
    seeds = options.seeds or (HELD_OUT if options.held_out else SEEDS)
    only = set(options.only.split(",")) - {""}
    due = [
        cell for cell in cells(seeds) if key(cell) not in known and (not only or cell[1] in {*only, "ideal"})
    ]
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.workers) as workers:
        for done, (cell, figures) in enumerate(workers.imap(timed, due), 1):
            known[key(cell)] = figures
            write(known, path)
            elapsed = time.monotonic() - begun
            print(f"{done} of {len(due)}, {elapsed:.0f} s: {key(cell)}", file=sys.stderr, flush=True)
            if elapsed > options.seconds:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
