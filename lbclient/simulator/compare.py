"""Several algorithms in one scenario, over several seeds: figures with confidence intervals, and a recommendation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lbclient.simulator.result import Result

# The two-sided 95 % quantile of Student's t, by degrees of freedom; beyond 30 it is that of the normal distribution.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_CHEAP = ("round_robin", "random", "power_of_two_choices", "least_connections")
TOLERABLE = 0.001  # share of failed requests that nobody would choose an algorithm by
ALIKE = 1.03  # p99s that are called the same


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean, and half of its 95 % confidence interval; NaN of one run."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Of one value per seed."""
        if len(values) < 2:
            return cls(values[0], math.nan)
        t = _T[len(values) - 2] if len(values) - 2 < len(_T) else 2.1
        return cls(fmean(values), t * stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True, slots=True)
class Row:
    """One algorithm over all seeds: seconds, the share that failed, and p99 next to that of the ideal."""

    algorithm: str
    p50: Figure
    p99: Figure
    p999: Figure
    failed: Figure
    ratio: Figure
    results: tuple[Result, ...]


def compare(
    run: Callable[[str, int], Result], algorithms: Sequence[str], seeds: Sequence[int]
) -> tuple[Row, ...]:
    """Every algorithm with every seed.

    Args:
        run: Simulates one, by name and seed; asked for "ideal" as well.
        algorithms: By name.
        seeds: The same for all, so that all see the same requests.
    """
    ideal = {seed: run("ideal", seed) for seed in seeds}
    rows: list[Row] = []
    for name in algorithms:
        results = tuple(ideal[seed] if name == "ideal" else run(name, seed) for seed in seeds)
        rows.append(
            Row(
                name,
                Figure.of([result.p50 for result in results]),
                Figure.of([result.p99 for result in results]),
                Figure.of([result.p999 for result in results]),
                Figure.of([result.failed for result in results]),
                Figure.of([result.p99 / ideal[result.seed].p99 for result in results]),
                results,
            )
        )
    return tuple(rows)


def recommend(rows: Sequence[Row]) -> str:
    """Which one to take, in a sentence, and why."""
    real = [row for row in rows if row.algorithm not in ("ideal", "prequal", "c3")]
    if not real:
        return "There is nothing to recommend: only peers were compared, which no client can use."
    least = min(row.failed.mean for row in real)
    safe = [row for row in real if row.failed.mean <= max(TOLERABLE, 1.5 * least)]
    best = min(safe, key=lambda row: row.ratio.mean)
    alike = [row for row in safe if row.ratio.mean <= ALIKE * best.ratio.mean]
    chosen = next((row for row in alike if row.algorithm == "adaptive"), None) or min(
        alike, key=lambda row: _CHEAP.index(row.algorithm) if row.algorithm in _CHEAP else len(_CHEAP)
    )
    reasons = [f"its p99 is {chosen.ratio.mean:.2f} times that of an ideal central queue"]
    worse = sorted((row for row in real if row not in safe), key=lambda row: row.failed.mean)
    if worse:
        reasons.append(
            f"it fails {chosen.failed.mean:.2%} of the requests where {worse[-1].algorithm} fails "
            f"{worse[-1].failed.mean:.1%}"
        )
    others = [row for row in safe if row not in alike]
    if others:
        last = max(others, key=lambda row: row.ratio.mean)
        reasons.append(f"{last.algorithm}'s is {last.ratio.mean:.2f} times")
    if len(alike) > 1:
        names = ", ".join(row.algorithm for row in alike if row is not chosen)
        reasons.append(f"{names} would do as well here")
    return f"Take {chosen.algorithm}: {', '.join(reasons[:-1]) + ' and ' if len(reasons) > 1 else ''}{reasons[-1]}."


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rows in words, under their headings."""
    lines: list[tuple[str, ...]] = [("algorithm", "p50", "p99", "p99.9", "failed", "p99 / ideal")]
    lines.extend(
        (
            row.algorithm,
            _milliseconds(row.p50),
            _milliseconds(row.p99),
            _milliseconds(row.p999),
            _in_words(row.failed, 100, "%", 2),
            _in_words(row.ratio, 1, "", 2),
        )
        for row in rows
    )
    return lines


def _milliseconds(figure: Figure) -> str:
    return _in_words(figure, 1000, " ms", 1 if figure.mean < 1 else 0)


def _in_words(figure: Figure, factor: float, unit: str, digits: int) -> str:
    words = f"{figure.mean * factor:.{digits}f}"
    if not math.isnan(figure.half):
        words += f" ± {figure.half * factor:.{digits}f}"
    return words + unit


def as_data(rows: Sequence[Row]) -> dict[str, list[Mapping[str, object]]]:
    """The figures of every run, ready for JSON."""
    return {row.algorithm: [result.as_dict() for result in row.results] for row in rows}
