"""The command line: `lbclient COMMAND`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lbclient import __version__
from lbclient.commands import check, demo, schema, serve, simulate

COMMANDS = (demo, serve, check, schema, simulate)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments, those of the process when left out.

    Returns:
        The exit code: 0 when all went well, 1 when it did not, 2 for bad arguments or a missing extra,
        130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lbclient",
        description="Client-side load balancing for httpx: every request picks its own backend, inside the process.",
    )
    parser.add_argument("--version", action="version", version=f"lbclient {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
