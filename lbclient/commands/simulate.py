"""`lbclient simulate`: which algorithm for my fleet?"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lbclient.commands import Commands

if TYPE_CHECKING:
    from lbclient.simulator import Result, Scenario

COMPARED = "adaptive,least_connections,power_of_two_choices,peak_ewma,round_robin"


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    command = commands.add_parser(
        "simulate",
        help="which algorithm for my fleet? Compares them on modelled servers",
        description="Runs the algorithms of lbclient, as they are in production, against modelled servers on a virtual "
        "clock, and compares their latencies and failures with an ideal central queue. Nothing is sent anywhere.",
    )
    option = command.add_argument
    option(
        "scenario",
        nargs="?",
        default="heterogeneous",
        help="one that comes with lbclient, or a JSON or YAML file",
    )
    option("--list", action="store_true", help="list the scenarios that come with lbclient")
    option(
        "--algorithms",
        default=COMPARED,
        metavar="NAMES",
        help=f"with commas between them (default: {COMPARED})",
    )
    option(
        "--clients",
        type=int,
        default=10,
        metavar="N",
        help="how many, each with a pool of its own (default: 10)",
    )
    option(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="runs of each, for the confidence intervals (default: 3)",
    )
    option("--seconds", type=float, metavar="N", help="simulated seconds, instead of the scenario's")
    option(
        "--trace",
        type=Path,
        metavar="CSV",
        help="your own requests, a line each: arrival, service time (s)",
    )
    option(
        "--retries",
        action="store_true",
        help="with the default retries; without them failures show as they are",
    )
    option("--plot", type=Path, metavar="FILE", help="an SVG or PNG of it")
    option("--json", type=Path, metavar="FILE", help="write every figure")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out; 2 for bad arguments, or when the extra is missing."""
    try:
        return _run(arguments)
    except (ValueError, TypeError, OSError) as exc:
        print(f"lbclient simulate: {exc}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    from lbclient import Retry
    from lbclient.simulator import SCENARIOS, algorithm_of, simulate
    from lbclient.simulator.compare import as_data, compare, recommend, table
    from lbclient.simulator.trace import read_trace

    if arguments.list:
        for known in SCENARIOS.values():
            print(f"{known.name:<18}{known.about}")
        return 0
    if arguments.plot is not None and importlib.util.find_spec("matplotlib") is None:
        print(
            "a plot needs matplotlib; install the extra with: pip install 'lbclient[simulate]'",
            file=sys.stderr,
        )
        return 2
    scenario = _scenario(arguments.scenario)
    arrivals = None if arguments.trace is None else read_trace(arguments.trace)
    if arrivals is not None:
        scenario = replace(scenario, seconds=max(arrivals[-1][0], 0.001), warm_up=0.0, changes=())
    if arguments.seconds is not None:
        scenario = replace(
            scenario, seconds=arguments.seconds, warm_up=min(scenario.warm_up, arguments.seconds / 5)
        )
    if arguments.seeds < 1:
        raise ValueError(f"seeds is {arguments.seeds}; write a whole number of 1 or more")
    names = [name.strip() for name in arguments.algorithms.split(",")]
    for name in names:
        algorithm_of(name, arguments.clients)
    seeds = range(1, arguments.seeds + 1)
    bar = _Bar(sys.stderr.isatty(), (len({*names, "ideal"})) * len(seeds))

    def one(name: str, seed: int) -> Result:
        options: dict[str, Any] = {"retry": Retry()} if arguments.retries else {}
        return simulate(
            scenario,
            name,
            clients=arguments.clients,
            seed=seed,
            arrivals=arrivals,
            progress=bar.of(name),
            **options,
        )

    rows = compare(one, names, seeds)
    bar.end()
    about = ": ".join(filter(None, (scenario.name, scenario.about)))
    print(f"{about}; {arguments.clients} clients, {arguments.seeds} seeds")
    _print(table(rows))
    print(recommend(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(as_data(rows), indent=1) + "\n")
    if arguments.plot is not None:
        from lbclient.simulator.plots import draw

        draw(rows, f"{about}, {arguments.clients} clients", arguments.plot)
    return 0


def _scenario(name: str) -> Scenario:
    from lbclient.simulator import SCENARIOS, Scenario

    if name in SCENARIOS:
        return SCENARIOS[name]
    path = Path(name)
    if not path.exists():
        raise ValueError(
            f"scenario is {name!r}; write a JSON or YAML file, or one of: {', '.join(SCENARIOS)}"
        )
    written = _written(path)
    if not isinstance(written, dict):
        raise ValueError(f"{path} is no mapping of a scenario's keys; docs/choosing.md has one")
    return Scenario.from_dict({"name": path.stem, **cast("dict[str, Any]", written)})


def _written(path: Path) -> object:
    """What a file says."""
    text = path.read_text()
    if path.suffix.lower() not in {".yaml", ".yml"}:
        return json.loads(text)
    try:
        import yaml
    except ImportError:
        raise ValueError(f"{path} needs PyYAML; install it with: pip install 'lbclient[simulate]'") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ValueError(f"{path}: {exc}") from None


def _print(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *others = (cell for cell in line)
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join(cells))


class _Bar:
    """How far it is, on one line of a terminal.

    Args:
        shown: Whether there is a terminal.
        runs: How many runs there will be.
    """

    def __init__(self, shown: bool, runs: int) -> None:
        self._shown = shown
        self._runs = runs
        self._done = -1

    def of(self, name: str) -> Callable[[float], None]:
        """What to tell of the next run."""
        self._done += 1

        def tell(share: float) -> None:
            if self._shown:
                part = (self._done + share) / self._runs
                line = f"[{'#' * int(30 * part):<30}] {part:4.0%} {name}"
                print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)

        return tell

    def end(self) -> None:
        """Make room for the table."""
        if self._shown:
            print(f"\r{'':<70}\r", end="", file=sys.stderr)
