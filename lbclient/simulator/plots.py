"""Pictures of a comparison; they need matplotlib (the extra `simulate`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lbclient.simulator.compare import Row
from lbclient.simulator.result import Result

COLOURS = ("#1f5fbf", "#e08a1e", "#3f9b6b", "#8a6fb8", "#7d8590", "#a8577e", "#00798c", "#b0a03c")
INK, FAINT, FAILED, LEFT_OUT = "#22272e", "#6b7480", "#e5484d", "#ffffff"
MOST_PANELS = 6
MOST = 0.5  # of the clients

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lbclient",  # the same every time
    "axes.edgecolor": "#c5cbd3",
    "axes.labelcolor": FAINT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def draw(rows: Sequence[Row], title: str, picture: Path) -> None:
    """Latencies and failures of each algorithm, and who got how much when: `picture` is an SVG or a PNG, by its name.

    Over time the first seed's run is shown, of six algorithms at most. A red mark is a failed request; a white line
    goes through a backend while most clients keep away from it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):  # pyright: ignore[reportUnknownMemberType]  # its other parameter's type
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        shown = [row for row in rows if row.algorithm != "ideal"][:MOST_PANELS]
        lines = (len(shown) + 1) // 2
        figure: Any = Figure(figsize=(12, 4.4 + 1.8 * lines), layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = figure.subfigures(2, 1, height_ratios=[4, max(1, 1.8 * lines)])
        left, right = upper.subplots(1, 2, width_ratios=[2, 1])
        colours = _colours(rows)
        _distributions(left, rows, colours)
        _failures(right, rows, colours)
        if shown:
            _loads(lower, shown, lines)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        metadata = {"Date": None} if picture.suffix == ".svg" else None
        figure.savefig(picture, metadata=metadata, dpi=110)


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    names = [row.algorithm for row in rows if row.algorithm != "ideal"]
    return {"ideal": INK, **{name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}}


def _distributions(axis: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    beyond = [*(1 - step / 200 for step in range(200)), 0.001]
    for row in rows:
        result = row.results[0]
        axis.plot(
            [seconds * 1e3 for seconds in [*result.quantiles[:200], result.p999]],
            beyond,
            label=_name(row),
            color=colours[row.algorithm],
            linestyle=":" if row.algorithm == "ideal" else "-",
            linewidth=2.6 if row.algorithm == "adaptive" else 1.5,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(_plain)
    axis.yaxis.set_major_formatter(_share)
    axis.set_title("Requests that take longer than")
    axis.set_xlabel("milliseconds")
    axis.grid(visible=True, color="#e6e9ed")
    axis.legend(frameon=False)


def _failures(axis: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    axis.barh(
        [_name(row) for row in rows],
        [row.failed.mean * 100 for row in rows],
        color=[colours[row.algorithm] for row in rows],
        height=0.6,
    )
    for number, row in enumerate(rows):
        axis.text(row.failed.mean * 100, number, f" {row.failed.mean:.2%}", va="center")
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_title("Requests that fail, before any retry")
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines["bottom"].set_visible(False)


def _loads(figure: Any, shown: Sequence[Row], lines: int) -> None:
    results = [row.results[0] for row in shown]
    slices = len(next(iter(results[0].load.values())))
    per_second = slices / results[0].seconds
    busiest = max(max(map(max, result.load.values())) for result in results) or 1
    axes = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    used, unused = axes.flat[: len(shown)], axes.flat[len(shown) :]
    images = [
        _load(axis, _name(row), result, busiest * per_second, per_second)
        for axis, row, result in zip(used, shown, results, strict=True)
    ]
    for axis in unused:
        axis.remove()
    for axis in used[-2:]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("seconds")
    figure.suptitle(
        "Who gets how much when. Red: a request failed. White: most clients keep away from this backend.",
        x=0.01, ha="left", fontsize=10,
    )  # fmt: skip
    bar = figure.colorbar(images[0], ax=list(used), pad=0.01, aspect=40, label="requests a second")
    bar.outline.set_visible(False)


def _load(axis: Any, name: str, result: Result, busiest: float, per_second: float) -> Any:
    backends = len(result.load)
    image = axis.imshow(
        [[count * per_second for count in slices] for slices in result.load.values()],
        aspect="auto", cmap="viridis", vmin=0, vmax=busiest,
        extent=(0, result.seconds, backends - 0.5, -0.5), interpolation="nearest",
    )  # fmt: skip
    failed = [
        ((at + 0.5) / per_second, number)
        for number, failures in enumerate(result.failures.values())
        for at, count in enumerate(failures)
        if count
    ]
    if failed:
        axis.scatter(*zip(*failed, strict=True), s=9, color=FAILED, marker="s", linewidths=0, zorder=3)
    for number, shares in enumerate(result.left_out.values()):
        for begin, end in _spells(shares):
            axis.hlines(number, begin / per_second, end / per_second, color=LEFT_OUT, linewidth=1)
    axis.set_title(name)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("backend")
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def _spells(shares: Sequence[float]) -> Iterator[tuple[int, int]]:
    """From which slice to which most clients keep away."""
    begin: int | None = None
    for at, share in enumerate([*shares, 0.0]):
        if share > MOST:
            begin = at if begin is None else begin
        elif begin is not None:
            yield begin, at
            begin = None


def _name(row: Row) -> str:
    return row.algorithm.replace("_", " ")


def _plain(value: float, _position: float | None) -> str:
    return f"{value:g}"


def _share(value: float, _position: float | None) -> str:
    return f"{value:.3g}".replace("0.", ".") if value < 1 else "all"
