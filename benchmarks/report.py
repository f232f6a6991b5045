"""What the benchmarks say about themselves: the environment, the tables, the JSON."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PACKAGES = (
    "lbclient",
    "httpx",
    "httpcore",
    "httpx2",
    "httpcore2",
    "anyio",
    "h11",
    "uvloop",
    "trio",
    "xxhash",
)


def environment() -> dict[str, Any]:
    """Everything about this process that is known to move the numbers."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        # Without it httpcore tries and fails to import it at every request; each sys.path entry adds to that.
        "sniffio": importlib.util.find_spec("sniffio") is not None,
        "sys_path_entries": len(sys.path),
    }


def describe(environment: dict[str, Any]) -> str:
    """The environment in two lines, for the head of a table."""
    packages = ", ".join(f"{name} {found}" for name, found in environment["packages"].items())
    sniffio = "installed" if environment["sniffio"] else "not installed"
    return (
        f"{environment['python']}, {packages}\n"
        f"sniffio: {sniffio}; sys.path: {environment['sys_path_entries']} entries, the same for every target"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people: rich when it is installed and a terminal looks, aligned text otherwise."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def print(self) -> None:
        if sys.stdout.isatty() and importlib.util.find_spec("rich"):
            self._print_rich()
        else:
            print(self.text(), flush=True)

    def text(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = []
        for first, *others in lines:
            numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            aligned.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
        return "\n".join(["", self.title, *aligned])

    def _print_rich(self) -> None:
        from rich import table
        from rich.console import Console

        drawn = table.Table(title=self.title, title_justify="left")
        for at, column in enumerate(self.columns):
            drawn.add_column(column, justify="right" if at else "left", no_wrap=True)
        for row in self.rows:
            drawn.add_row(*row)
        Console().print(drawn)


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Write `report` to `path`, when there is one. NaN and infinity become null: JSON has neither."""
    if path is not None:
        path.write_text(json.dumps(_finite(report), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
