"""What a simulation showed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DIGITS = 9  # beyond them the logarithms of different machines may differ


@dataclass(frozen=True, slots=True)
class Result:
    """One run.

    Attributes:
        scenario, algorithm: By name.
        clients, seed: As they were asked for.
        requests: That were counted: those after the warm-up.
        failed: The share of them that failed.
        p50, p90, p99, p999, mean: Seconds, of those that did not.
        load: Per backend, requests that ended in each slice of the time.
        failures: Per backend, those that failed.
        seconds: How long it ran, on its own clock.
        quantiles: The latency distribution: 201 points, from the 0th to the 100th percentile.
        left_out: Per backend, the share of the clients (of the first ten) that kept away from it in each slice: they
            had ejected it, or knew that it fails, hangs or is slow.
    """

    scenario: str
    algorithm: str
    clients: int
    seed: int
    requests: int
    failed: float
    p50: float
    p90: float
    p99: float
    p999: float
    mean: float
    load: Mapping[str, Sequence[int]]
    failures: Mapping[str, Sequence[int]]
    seconds: float
    quantiles: Sequence[float]
    left_out: Mapping[str, Sequence[float]]

    def shares(self) -> dict[str, float]:
        """Each backend's part of the requests."""
        counts = {url: sum(slices) for url, slices in self.load.items()}
        total = sum(counts.values()) or 1
        return {url: count / total for url, count in counts.items()}

    def as_dict(self) -> dict[str, Any]:
        """The figures, without what happened when."""
        return {
            "scenario": self.scenario,
            "algorithm": self.algorithm,
            "clients": self.clients,
            "seed": self.seed,
            "requests": self.requests,
            "failed": self.failed,
            "p50": self.p50,
            "p90": self.p90,
            "p99": self.p99,
            "p999": self.p999,
            "mean": self.mean,
        }


def quantile(ranked: Sequence[float], share: float) -> float:
    """Of sorted numbers, the one that `share` (0 to 1) of them do not exceed; NaN of none."""
    if not ranked:
        return math.nan
    return ranked[min(len(ranked) - 1, math.ceil(share * len(ranked)) - 1 if share else 0)]


def result_of(scenario: str, algorithm: str, clients: int, seed: int, seconds: float, log: Any) -> Result:
    """The figures of a log."""
    ranked = sorted(log.latencies)
    count = len(ranked) + log.failures

    def figure(share: float) -> float:
        return round(quantile(ranked, share), _DIGITS)

    return Result(
        scenario=scenario,
        algorithm=algorithm,
        clients=clients,
        seed=seed,
        requests=count,
        failed=log.failures / count if count else 0.0,
        p50=figure(0.5),
        p90=figure(0.9),
        p99=figure(0.99),
        p999=figure(0.999),
        mean=round(math.fsum(ranked) / len(ranked), _DIGITS) if ranked else math.nan,
        load=log.load,
        failures=log.failed,
        left_out=log.left_out,
        seconds=seconds,
        quantiles=[figure(step / 200) for step in range(201)],
    )
