"""The table of docs/adaptive.md: every algorithm in every scenario of the simulator, several seeds, one JSON file.

    python -m benchmarks.simulation --seconds 300          # goes on where it was stopped
    python -m benchmarks.simulation --table                # print it from the file

The p99 is relative to the ideal central queue with the same requests.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from lbclient.simulator import RESEARCH, SCENARIOS, simulate

FILE = Path(__file__).parent / "simulation.json"
ALGORITHMS = (
    "adaptive",
    "least_connections",
    "power_of_two_choices",
    "peak_ewma",
    "round_robin",
    "random",
    "prequal",
    "c3",
)
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


def cells(seeds: Sequence[int]) -> Iterator[Cell]:
    """Scenario, algorithm, clients and seed, the ideal first."""
    for seed in seeds:
        for name in (*(scenario.name for scenario in RESEARCH), *SMALL):
            yield name, "ideal", 1, seed
            for clients in SMALL.get(name, CLIENTS):
                for algorithm in ALGORITHMS:
                    yield name, algorithm, clients, seed


def due(cell: Cell, only: set[str]) -> bool:
    """Whether it was asked for. Rotation and lots do the same whatever the number of clients: one of them will do."""
    name, algorithm, clients, _ = cell
    if algorithm in ("round_robin", "random") and clients != SMALL.get(name, CLIENTS)[0]:
        return False
    return not only or algorithm in only or algorithm == "ideal"


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


def ratios(known: dict[str, dict[str, float]], name: str, algorithm: str, clients: int) -> list[float]:
    """p99 to the ideal, a seed each."""
    found = []
    for seed in range(1, 100):
        own, ideal = (
            known.get(key((name, algorithm, clients, seed))),
            known.get(key((name, "ideal", 1, seed))),
        )
        if own is not None and ideal is not None:
            found.append(own["p99"] / ideal["p99"])
    return found


def failed(known: dict[str, dict[str, float]], name: str, algorithm: str, clients: int) -> float:
    """The mean share of failed requests."""
    own = [known.get(key((name, algorithm, clients, seed))) for seed in range(1, 100)]
    shares = [one["failed"] for one in own if one is not None]
    return math.fsum(shares) / len(shares) if shares else math.nan


def mean(values: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(math.fsum(math.log(value) for value in values) / len(values)) if values else math.nan


def print_table(known: dict[str, dict[str, float]]) -> None:
    """In Markdown."""
    print("| scenario, clients | " + " | ".join(ALGORITHMS) + " |")
    print("|---" * (len(ALGORITHMS) + 1) + "|")
    sums: dict[str, list[float]] = {algorithm: [] for algorithm in ALGORITHMS}
    for name in (*(scenario.name for scenario in RESEARCH), *SMALL):
        for clients in SMALL.get(name, CLIENTS):
            row = []
            for algorithm in ALGORITHMS:
                counted = SMALL.get(name, CLIENTS)[0] if algorithm in ("round_robin", "random") else clients
                ratio = mean(ratios(known, name, algorithm, counted))
                lost = failed(known, name, algorithm, counted)
                row.append(f"{ratio:.2f}" + (f" ({lost:.2%})" if lost > 0.00005 else ""))
                if name not in SMALL and not math.isnan(ratio):
                    sums[algorithm].append(ratio)
            print(f"| {name}, {clients} | " + " | ".join(row) + " |")
    print("| **mean of the 36** | " + " | ".join(f"{mean(sums[a]):.2f}" for a in ALGORITHMS) + " |")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--seeds", default="1,2,3", type=lambda text: [int(seed) for seed in text.split(",")])
    parser.add_argument(
        "--seconds", default=math.inf, type=float, help="stop after so many, and go on next time"
    )
    parser.add_argument("--only", default="", help="algorithms, with commas between them")
    parser.add_argument("--json", default=FILE, type=Path, metavar="FILE")
    parser.add_argument("--table", action="store_true", help="measure nothing, print what is known")
    options = parser.parse_args(arguments)
    known: dict[str, dict[str, float]] = json.loads(options.json.read_text()) if options.json.exists() else {}
    if options.table:
        print_table(known)
        return 0
    begun = time.monotonic()
    only = set(options.only.split(",")) - {""}
    for cell in cells(options.seeds):
        if key(cell) in known or not due(cell, only):
            continue
        if time.monotonic() - begun > options.seconds:
            break
        known[key(cell)] = measure(cell)
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
        options.json.write_text("{\n" + lines + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
