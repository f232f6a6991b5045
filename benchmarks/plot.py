"""A picture of what `benchmarks.throughput --json FILE` has measured: `python -m benchmarks.plot FILE PICTURE`.

The picture is an SVG or a PNG, by its name. Shown are the medians, and the spread over the rounds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PANELS = {
    "rps": "answers a second\n(more is better)",
    "total_cpu_us": "CPU per request, proxy included\n(less is better)",
    "p99_ms": "99th percentile of latency\n(less is better)",
}
COLOURS = ("#d1495b", "#edae49", "#66a182", "#2e4057", "#8d96a3", "#7a5195", "#a05195", "#003f5c")


def draw(report: dict[str, Any], picture: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("a picture needs matplotlib: pip install matplotlib") from None
    mpl.use("Agg")
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "lbclient"}
    )  # small, and the same every time
    from matplotlib import pyplot as plt

    rows = [row for row in report["rows"] if row["trusted"] and row["target"] not in ("httpx", "null")]
    names = list(dict.fromkeys(row["target"] for row in rows))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 4.2), layout="constrained")
    for axis, (metric, words) in zip(axes, PANELS.items(), strict=True):
        for number, name in enumerate(names):
            own = [row for row in rows if row["target"] == name]
            at = [row["concurrency"] for row in own]
            ratios = [row["ratio_to_baseline"][metric] for row in own]
            middle = [ratio["median"] for ratio in ratios]
            spread = [
                [ratio["median"] - ratio["low"] for ratio in ratios],
                [ratio["high"] - ratio["median"] for ratio in ratios],
            ]
            ours = name == "lbclient"
            axis.errorbar(
                at, middle, yerr=spread, label=name, color=COLOURS[number % len(COLOURS)],
                linewidth=3 if ours else 1.2, zorder=3 if ours else 2, marker="o", markersize=4, capsize=2,
                linestyle="-" if name.startswith("lbclient") else "--" if name.startswith("via") else ":",
            )  # fmt: skip
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(words, fontsize=10)
        axis.set_xlabel("requests at a time")
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].set_ylabel("ratio to httpx.AsyncClient()")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def main() -> int:
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m benchmarks.plot FILE.json PICTURE.svg")
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
