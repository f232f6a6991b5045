"""What is written down while a simulation runs."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbclient.core.outcome import Failure
    from lbclient.simulator.scenario import Scenario

SLICES = 120  # of the time, for plots of load over time


class Log:
    """Latencies and failures of what began after the warm-up, and who got how much when.

    Attributes:
        latencies: Seconds, of successes.
        failures: How many requests failed.
        open: Requests under way.
        load: Per backend, requests that ended in each slice of the time.
        failed: Per backend, those of them that failed.
        left_out: Per backend, the share of the clients that kept away from it in each slice: they had ejected it, or
            knew that it fails, hangs or is slow.
    """

    __slots__ = (
        "_end",
        "_per_second",
        "_warm_up",
        "failed",
        "failures",
        "latencies",
        "left_out",
        "load",
        "open",
    )

    def __init__(self, scenario: Scenario, urls: Sequence[str]) -> None:
        self.latencies = array("d")
        self.failures = 0
        self.open = 0
        self.load = {url: [0] * SLICES for url in urls}
        self.failed = {url: [0] * SLICES for url in urls}
        self.left_out = {url: [0.0] * SLICES for url in urls}
        self._warm_up = scenario.warm_up
        self._end = scenario.seconds
        self._per_second = SLICES / scenario.seconds

    def began(self) -> None:
        """A request begins."""
        self.open += 1

    def ended(self, began: float, now: float, url: str, failure: Failure | None) -> None:
        """A request is over."""
        self.open -= 1
        at = int(now * self._per_second)
        if at < SLICES:
            self.load[url][at] += 1
            if failure is not None:
                self.failed[url][at] += 1
        if began >= self._warm_up:
            if failure is None:
                self.latencies.append(now - began)
            else:
                self.failures += 1
