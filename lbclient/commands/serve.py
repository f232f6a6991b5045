"""`lbclient serve`, as far as the command line goes."""

from __future__ import annotations

import argparse
from pathlib import Path

from lbclient.commands import Commands
from lbclient.commands.sidecar_extra import missing_extra


def add(commands: Commands) -> None:
    """Declare the command and its arguments."""
    serve = commands.add_parser(
        "serve",
        help="run a sidecar: a reverse proxy and load balancer for other processes",
        description="Serves what a configuration file says, until SIGTERM: then what is under way is finished. "
        "A changed file, or SIGHUP, is taken without dropping a connection; one that cannot be served is reported, "
        "and all stays as it is.",
    )
    serve.add_argument("config", type=Path, metavar="CONFIG.YAML")
    serve.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    if missing_extra("serve"):
        return 2
    from lbclient.sidecar.serving import serve

    return serve(arguments.config)
