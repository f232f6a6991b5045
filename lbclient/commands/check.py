"""`lbclient check`: is a configuration all right?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lbclient.commands import Commands
from lbclient.commands.sidecar_extra import missing_extra


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    check = commands.add_parser(
        "check",
        help="check the configuration of a sidecar, without serving it",
        description="Reads a configuration as `lbclient serve` would, certificates included, and says what is wrong "
        "with it, line by line. The exit code is 0 when it can be served, and 1 when it cannot.",
    )
    check.add_argument("config", type=Path, metavar="CONFIG.YAML")
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    if missing_extra("check"):
        return 2
    from lbclient.sidecar.configuration import read
    from lbclient.sidecar.document import ConfigurationError

    try:
        configuration = read(arguments.config)
    except ConfigurationError as exc:
        print(exc, file=sys.stderr)
        return 1
    backends = sum(len(pool.backends or ()) for pool in configuration.pools.values())
    counts = (
        (len(configuration.listeners) + len(configuration.l4), "listener"),
        (len(configuration.routes), "route"),
        (len(configuration.pools), "pool"),
        (backends, "backend"),
    )
    words = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    print(f"{arguments.config}: all right: {words}")
    return 0
