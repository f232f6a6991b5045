"""A user's own traffic: a CSV with a line per request, the second it arrived and the seconds of work it was."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

ARRIVAL = ("arrival", "time", "at", "timestamp")
SERVICE = ("service", "duration", "latency", "work", "seconds")


def read_trace(path: Path) -> list[tuple[float, float]]:
    """The requests of a CSV file, in order, the first at 0.

    Two columns: arrival and service time, in seconds. A header may name them (`arrival` or `time`; `service`,
    `duration` or `latency`), and may have others.

    Raises:
        ValueError: A line has no two numbers; the message says which.
    """
    with path.open(newline="") as file:
        return _requests(path.name, csv.reader(file))


def _requests(name: str, lines: Iterable[list[str]]) -> list[tuple[float, float]]:
    at, service = 0, 1
    found: list[tuple[float, float]] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if number == 1 and not _is_number(line[0]):
            header = [cell.strip().lower() for cell in line]
            at, service = _column(name, header, ARRIVAL), _column(name, header, SERVICE)
            continue
        try:
            arrival, seconds = float(line[at]), float(line[service])
        except (IndexError, ValueError):
            raise ValueError(
                f"{name}, line {number}: {','.join(line)!r} has no arrival and service time in seconds"
            ) from None
        if not seconds >= 0:
            raise ValueError(
                f"{name}, line {number}: a service time of {seconds}; write seconds of 0 or more"
            )
        found.append((arrival, seconds))
    if not found:
        raise ValueError(f"{name} has no requests; write a line per request: arrival,service")
    found.sort()
    first = found[0][0]
    return [(arrival - first, max(seconds, 1e-6)) for arrival, seconds in found]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column(name: str, header: list[str], names: tuple[str, ...]) -> int:
    for candidate in names:
        if candidate in header:
            return header.index(candidate)
    raise ValueError(f"{name} has the columns {', '.join(header)}; one of them should be called {names[0]!r}")
