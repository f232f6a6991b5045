"""Puts what was measured between the marks of README.md: `python -m benchmarks.readme RESULTS [README.md]`.

RESULTS is the directory that `python -m benchmarks RESULTS` has written; its picture goes to docs/throughput.svg
next to the README. Only what stands between `<!-- benchmark:start -->` and `<!-- benchmark:end -->`, and between the
same marks of `picks`, is replaced; what is not among the results stays out of the tables.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

Report = dict[str, Any]

COLUMNS = {
    "lbclient": "lbclient",
    "lbclient@httpcore": '`engine="httpcore"`',
    "httpx2": "httpx2",
    "httpx-aiohttp": "httpx-aiohttp",
    "via-nginx": "through nginx",
    "via-haproxy": "through HAProxy",
    "via-envoy": "through Envoy",
}
ROWS = (
    (1, "cpu_us", "1, CPU per request"),
    (1, "total_cpu_us", "1, the same with the proxy's"),
    (1, "rps", "1, requests a second"),
    (10, "rps", "10"),
    (50, "rps", "50"),
    (50, "p99_ms", "p99 at 50"),
    (100, "rps", "100"),
    (300, "rps", "300"),
)
WORKLOADS = {
    "tls": "TLS",
    "http2": "HTTP/2",
    "download": "1 MiB down",
    "upload": "1 MiB up",
    "cold": "a connection for each request",
    "delayed": "backends that take 100 ms",
    "uvloop": "uvloop",
    "trio": "trio",
    "threads": "`httpx.Client`, a thread each",
}
LOOPS = ("uvloop", "trio", "threads")  # where one at a time is shown as well


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(row: Report | None, metric: str) -> str:
    """The median, and the spread over the rounds."""
    if row is None:
        return ""
    if not row["trusted"]:
        return "errors"
    figures = row["ratio_to_baseline"][metric]
    if figures["median"] is None:
        return ""
    digits = 0 if figures["median"] >= 10 else 2
    middle, low, high = (f"{figures[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{middle} ({low}..{high})"


def found(report: Report, target: str, concurrency: int) -> Report | None:
    """A target's row at that concurrency."""
    same = (row for row in report["rows"] if (row["target"], row["concurrency"]) == (target, concurrency))
    return next(same, None)


def throughput(results: Path) -> str:
    """All that is compared with bare httpx."""
    small = read(results, "small")
    environment, settings = small["environment"], small["settings"]
    cells = [
        [words, *(ratio(found(small, target, at), metric) for target in COLUMNS)]
        for at, metric, words in ROWS
    ]
    sniffio = "with" if environment["sniffio"] else "without"
    rounds = settings["rounds"]
    parts = [
        f"{environment['python']}, {sniffio} `sniffio`, {rounds} rounds, {(rounds + 1) // 2} from 100 at a time on. "
        f"Requests a second where nothing else is said. {noise(small)}",
        table(["at a time", *COLUMNS.values()], [row for row in cells if any(row[1:])]),
        *others(results),
        *thousand(results),
        *connections(results),
        "![Throughput, CPU and tail latency over concurrency](docs/throughput.svg)",
    ]
    return "\n\n".join(parts)


def noise(report: Report) -> str:
    """What the baseline differs by from its own neighbours."""
    own = [row["ratio_to_baseline"]["rps"] for row in report["rows"] if row["target"] == "httpx"]
    low = min(each["low"] for each in own if each["low"] is not None)
    high = max(each["high"] for each in own if each["high"] is not None)
    return f"Bare httpx next to itself is the noise: {low:.2f}..{high:.2f}."


def others(results: Path) -> list[str]:
    """Other workloads and event loops, with as many at a time as were measured at most."""
    shown = {target: words for target, words in COLUMNS.items() if not target.startswith("via-")}
    rows = []
    for name, words in WORKLOADS.items():
        if (results / f"{name}.json").exists():
            report = read(results, name)
            at = max(row["concurrency"] for row in report["rows"])
            if name in LOOPS:
                cells = [ratio(found(report, target, 1), "cpu_us") for target in shown]
                rows.append([f"{words}, 1 at a time, CPU per request", *cells])
            cells = [ratio(found(report, target, at), "rps") for target in shown]
            rows.append([f"{words}, {at} at a time", *cells])
    return [table(["requests a second", *shown.values()], rows)] if rows else []


def thousand(results: Path) -> list[str]:
    """What is left of a client's throughput at a thousand at a time."""
    if not (results / "thousand.json").exists():
        return []
    report = read(results, "thousand")
    words = []
    for target in ("lbclient", "lbclient@httpcore"):
        few, many = found(report, target, 100), found(report, target, 1000)
        if few and many and few["trusted"] and many["trusted"]:
            words.append(f"{COLUMNS[target]} {many['rps'] / few['rps']:.2f}")
    return (
        [f"Requests a second at 1,000 at a time next to its own at 100: {', '.join(words)}."] if words else []
    )


def connections(results: Path) -> list[str]:
    """What idle connections cost, and how many are opened."""
    if not (results / "connections.json").exists():
        return []
    rows = [
        [
            "bare httpx" if row["target"] == "httpx" else COLUMNS.get(row["target"], row["target"]),
            *(f"{row[key]:.{digits}f}" for key, digits in (("ratio", 2), ("connects", 3))),
            f"{row['memory'] / 1024:.1f} KiB",
        ]
        for row in read(results, "connections")["rows"]
    ]
    columns = [
        "",
        "CPU of a request with 1,000 idle connections next to one",
        "connections opened a request, 50 at a time, backends that take 100 ms",
        "memory of an idle connection",
    ]
    return [table(columns, rows)]


def picks(results: Path) -> str:
    """Nanoseconds a pick; and what a change and a backend cost in the largest set."""
    report = read(results, "picks")
    rows = [row for row in report["rows"] if not row["weighted"] and row["error"] is None]
    sizes = list(rows[0]["costs"])
    largest = f"{int(sizes[-1]):,}"
    columns = [
        "algorithm",
        *(f"{int(size):,}" for size in sizes),
        f"update of {largest}, ms",
        "bytes a backend",
    ]
    cells = [
        [
            f"`{row['algorithm']}`",
            *(f"{row['costs'][size]['pick_ns']:,.0f}" for size in sizes),
            f"{row['costs'][sizes[-1]]['update_ms']:,.0f}",
            f"{row['costs'][sizes[-1]]['memory_bytes']:,.0f}",
        ]
        for row in rows
    ]
    costs = [row["costs"][size] for row in rows for size in sizes[:1]]
    extra = sorted((cost["pool_ns"] - cost["turn_ns"]) / 1000 for cost in costs)
    return "\n\n".join(
        (
            table(columns, cells),
            f"A whole `pool.pick()` with the end of its ticket costs {extra[0]:.1f} to {extra[-1]:.1f} us on top.",
        )
    )


def read(results: Path, name: str) -> Report:
    """One of the results."""
    report: Report = json.loads((results / f"{name}.json").read_text())
    return report


def put(text: str, name: str, content: str) -> str:
    """`text` with `content` between the marks of that name.

    Raises:
        ValueError: The marks are missing.
    """
    marks = f"(<!-- {name}:start -->\n).*?(\n<!-- {name}:end -->)"
    changed, times = re.subn(marks, lambda match: f"{match[1]}\n{content}\n{match[2]}", text, flags=re.DOTALL)
    if times != 1:
        raise ValueError(f"there are {times} pairs of marks <!-- {name}:start --> and <!-- {name}:end -->")
    return changed


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python -m benchmarks.readme RESULTS [README.md]")
    results = Path(sys.argv[1])
    readme = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent.parent / "README.md"
    text = put(readme.read_text(), "benchmark", throughput(results))
    if (results / "picks.json").exists():
        text = put(text, "picks", picks(results))
    readme.write_text(text)
    if (results / "throughput.svg").exists():
        shutil.copy(results / "throughput.svg", readme.parent / "docs" / "throughput.svg")


if __name__ == "__main__":
    main()
