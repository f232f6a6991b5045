"""`lbclient demo`, as far as the command line goes."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys

from lbclient.algorithms import BY_NAME, Algorithm, from_name
from lbclient.commands import Commands

LEAST_SECONDS = 2.0


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    demo = commands.add_parser(
        "demo",
        help="three servers, one of which is killed and comes back; watch what becomes of the requests",
        description="Starts three small servers on this machine, sends requests to them through lbclient, kills "
        "one of the servers after a third of the time and starts it again after two thirds. Shows how the requests "
        "spread, how the dead server is noticed, and why single requests went where they went.",
    )
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=15.0,
        metavar="N",
        help="how long it runs, 2 to 3600 (default: 15)",
    )
    demo.add_argument(
        "--plain",
        action="store_true",
        default=not sys.stdout.isatty(),
        help="a log without colours; chosen by itself when the output is no terminal",
    )
    demo.add_argument(
        "--algorithm",
        type=_algorithm,
        default=None,
        metavar="NAME",
        help=f"how backends are picked: {', '.join(BY_NAME)} (default: that of a pool)",
    )
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out; 2 when the extra is missing."""
    missing = [name for name in _needed(arguments.plain) if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"lbclient demo needs {' and '.join(missing)}; install the extra with: pip install 'lbclient[demo]'",
            file=sys.stderr,
        )
        return 2
    from lbclient.demo import run as play

    return play(seconds=arguments.seconds, plain=arguments.plain, algorithm=arguments.algorithm)


def _needed(plain: bool) -> tuple[str, ...]:
    return ("uvicorn",) if plain else ("rich", "uvicorn")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_SECONDS <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 2 to 3600")
    return seconds


def _algorithm(name: str) -> Algorithm:
    try:
        return from_name(name)
    except (ValueError, ImportError) as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
