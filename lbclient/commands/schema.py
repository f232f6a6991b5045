"""`lbclient schema`: the JSON schema of a sidecar's configuration."""

from __future__ import annotations

import argparse
import json

from lbclient.commands import Commands
from lbclient.commands.sidecar_extra import missing_extra


def add(commands: Commands) -> None:
    """Declare the command."""
    schema = commands.add_parser(
        "schema",
        help="print the JSON schema of a sidecar's configuration, for editors",
        description="Prints the JSON schema of the configuration of `lbclient serve`. Editors complete and check YAML "
        "by it: write `# yaml-language-server: $schema=FILE` on the first line.",
    )
    schema.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    if missing_extra("schema"):
        return 2
    from lbclient.sidecar.configuration import Configuration

    print(json.dumps(Configuration.model_json_schema(), indent=2))
    return 0
