"""Pictures of a comparison; they need matplotlib (the extra `simulate`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lbclient.simulator.compare import Row
from lbclient.simulator.result import Result

COLOURS = ("#d1495b", "#2e4057", "#edae49", "#66a182", "#8d96a3", "#7a5195", "#00798c", "#a05195")


def draw(rows: Sequence[Row], title: str, picture: Path) -> None:
    """The latency distribution of each algorithm, and who got how much when: `picture` is an SVG or a PNG, by its name.

    A backend that an algorithm avoids is dark in its panel; failures are red.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lbclient"})  # the same every time
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    maps = [row for row in rows if row.algorithm != "ideal"][:6]
    figure: Any = Figure(figsize=(12, 4.2 + 1.6 * ((len(maps) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=[4, max(1, 1.7 * ((len(maps) + 1) // 2))])
    left, right = upper.subplots(1, 2, width_ratios=[2, 1])
    _distributions(left, rows)
    _failures(right, rows)
    axes = list(lower.subplots((len(maps) + 1) // 2, 2, squeeze=False).flat) if maps else []
    busiest = max((max(map(max, row.results[0].load.values())) for row in maps), default=1) or 1
    for axis, row in zip(axes, maps, strict=False):
        _load(axis, row.results[0], busiest)
    for axis in axes[len(maps) :]:
        axis.remove()
    figure.suptitle(title)
    metadata = {"Date": None} if picture.suffix == ".svg" else None
    figure.savefig(picture, metadata=metadata, dpi=110)


def _distributions(axis: Any, rows: Sequence[Row]) -> None:
    for number, row in enumerate(rows):
        quantiles = row.results[0].quantiles
        beyond = [1 - step / 200 for step in range(200)]
        ideal = row.algorithm == "ideal"
        axis.plot(
            [seconds * 1e3 for seconds in [*quantiles[:200], row.results[0].p999]],
            [*beyond, 0.001],
            label=row.algorithm,
            color="black" if ideal else COLOURS[number % len(COLOURS)],
            linestyle=":" if ideal else "-",
            linewidth=2.4 if row.algorithm == "adaptive" else 1.4,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("latency, ms")
    axis.set_ylabel("share of requests that take longer")
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=8)


def _failures(axis: Any, rows: Sequence[Row]) -> None:
    names = [row.algorithm for row in rows]
    axis.barh(names, [row.failed.mean * 100 for row in rows], color="#d1495b")
    for number, row in enumerate(rows):
        axis.text(row.failed.mean * 100, number, f" {row.failed.mean:.2%}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlabel("failed requests, %")


def _load(axis: Any, result: Result, busiest: int) -> None:
    axis.imshow(
        list(result.load.values()), aspect="auto", cmap="viridis", vmin=0, vmax=busiest,
        extent=(0, result.seconds, len(result.load), 0), interpolation="nearest",
    )  # fmt: skip
    width = result.seconds / len(next(iter(result.load.values())))
    points = [
        (at * width + width / 2, number + 0.5)
        for number, failures in enumerate(result.failures.values())
        for at, count in enumerate(failures)
        if count
    ]
    if points:
        axis.scatter(*zip(*points, strict=True), s=6, color="#ff3b30", marker="s", linewidths=0)
    axis.set_title(f"{result.algorithm}: requests per backend over time, failures red", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.set_ylabel("backend", fontsize=7)
    axis.set_xlabel("seconds", fontsize=7)
