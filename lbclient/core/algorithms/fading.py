"""Sums that fade: what `Adaptive` knows of each backend, and of all of them together.

Everything fades by `exp(-dt / tau)`, which would be one multiplication per backend and pick. Instead the unit grows
(*forward decay*, Cormode et al. 2009): what comes in now is written down `grown` times as large, `grown` being
`exp(dt / tau)` since the beginning, and only quotients are ever read. That is one `exp` per pick, whatever the number
of backends. When the unit has become huge, everything is written anew in a smaller one.

Times are written down as multiples of the pool's mean latency at that moment. So what slows all backends down, or
speeds them up (larger requests, a warm cache, the first requests of all), says nothing about one of them.
"""

from __future__ import annotations

import math
from weakref import WeakSet

from lbclient.core.backend import BackendState

LEAST_TAU = 2.0  # seconds
MEANS_REMEMBERED = 10.0  # tau, in mean latencies: slow pools forget slowly
FIRST_COUNTS = 1 / 16  # the first answer of all, in the mean: it pays for connecting, and for cold caches
PRIOR = 1.0  # how many outcomes the mean of all counts
_GUESS = 0.02  # seconds: the mean while nobody has answered
_HUGE = 1e60
_ALL_GONE = 100.0  # taus after which nothing is left: exp(-100) is less than the last digit of anything


class Fleet:
    """What the backends of a pool have in common: the unit, and the mean latency of their successes.

    Attributes:
        grown: The unit: what one outcome counts that comes now.
        mean: Mean latency of the successes, in seconds; a guess before the first.
        tau: Seconds over which everything is forgotten: 10 mean latencies, at least 2 s.
        turn: Picks so far.
        reported: Mean of what servers say they have in flight; negative while none has.
        overlap: Requests waiting for their headers when a pick is made, a moving average.
    """

    __slots__ = (
        "_at",
        "_count",
        "_estimates",
        "_total",
        "grown",
        "mean",
        "overlap",
        "reported",
        "tau",
        "turn",
    )

    def __init__(self, now: float) -> None:
        self.grown = 1.0
        self.mean = _GUESS
        self.tau = LEAST_TAU
        self.turn = 0
        self.overlap = 0.0
        self.reported = -1.0
        self._at = now
        self._total = self._count = 0.0
        self._estimates: WeakSet[Estimate] = WeakSet()

    def advance(self, now: float) -> float:
        """Let time pass; the unit."""
        elapsed = now - self._at
        if elapsed > 0:
            self._at = now
            self.grown *= math.exp(min(elapsed / self.tau, _ALL_GONE))
            if self.grown > _HUGE:
                self._shrink(1 / self.grown)
                self.grown = 1.0
        return self.grown

    def grown_by(self, now: float) -> float:
        """What the unit will be then; nothing is changed."""
        elapsed = max(0.0, now - self._at)
        return self.grown * math.exp(min(elapsed / self.tau, _ALL_GONE))

    def succeeded(self, seconds: float, most: float) -> float:
        """Somebody answered after so many seconds; in means, `most` of them at most."""
        if not self._count:
            self.mean = seconds
            self._count = FIRST_COUNTS * self.grown
            self._total = seconds * self._count
        mean = self.mean
        seconds = min(seconds, most * mean)
        self._total += seconds * self.grown
        self._count += self.grown
        self.mean = self._total / self._count
        self.tau = max(LEAST_TAU, MEANS_REMEMBERED * self.mean)
        return seconds / mean if mean else 1.0

    def admit(self, estimate: Estimate) -> None:
        """Keep an estimate in this fleet's unit from now on."""
        self._estimates.add(estimate)

    def dismiss(self, estimate: Estimate) -> None:
        """It is of another fleet now."""
        self._estimates.discard(estimate)

    def _shrink(self, by: float) -> None:
        self._total *= by
        self._count *= by
        for estimate in self._estimates:
            estimate.shrink(by)


class Estimate:
    """What is known of one backend; kept in its `BackendState.memory`, so that it survives every rebuild.

    Attributes:
        state: Whose it is.
        fleet: Whose unit it is written in.
        total: Sum of what its answers took, in means, without the peak.
        charged: Sum of what its failures cost, in means.
        count: How many outcomes that were.
        peak: What its slowest answer cost.
        peak_count: What that one counts.
        failures: How many outcomes were failures.
        turn: When it was last picked, in picks of the fleet.
        reported: What the server said last that it has in flight.
        reported_at: When.
        share: How likely it takes part in a pick, when it has not got its share lately.
        pace: Picks of the fleet between two of its own, at least; 0 for no limit.
    """

    __slots__ = (
        "__weakref__",
        "charged",
        "count",
        "failures",
        "fleet",
        "pace",
        "peak",
        "peak_count",
        "reported",
        "reported_at",
        "share",
        "state",
        "total",
        "turn",
    )

    def __init__(self, state: BackendState, fleet: Fleet) -> None:
        self.state = state
        self.fleet = fleet
        self.total = self.charged = self.count = self.failures = self.peak = self.peak_count = 0.0
        self.turn = fleet.turn
        self.share = 1.0
        self.reported = 0.0
        self.reported_at = -math.inf
        self.pace = 0.0
        fleet.admit(self)

    def charge(self, means: float) -> None:
        """One more outcome that costs so much."""
        self.charged += means * self.fleet.grown
        self.count += self.fleet.grown

    def answered(self, means: float) -> None:
        """One more answer, after so many means; the slowest of all is set aside."""
        count = self.fleet.grown
        means *= count
        if means > self.peak:
            means, self.peak = self.peak, means
            count, self.peak_count = self.peak_count, count
        self.total += means
        self.count += count

    def expected(self, now: float, grown: float) -> float:
        """Means until an answer, if nothing else were in flight: `L` of the rule, in a unit of `grown`."""
        total = self.total + self.charged + PRIOR * grown
        count = self.count + PRIOR * grown
        means = total / count
        age = (now - next(iter(self.state.waiting), now)) / self.fleet.mean
        if age > means:
            means = (total + age * grown) / (count + grown)
        return means

    def failing(self, grown: float) -> bool:
        """Whether most of what is remembered of it failed, and that is more than one failure by chance."""
        return self.failures > (self.count + grown) / 2

    def shrink(self, by: float) -> None:
        """Write it in another unit."""
        self.total *= by
        self.charged *= by
        self.count *= by
        self.peak *= by
        self.peak_count *= by
        self.failures *= by

    def join(self, fleet: Fleet) -> None:
        """Be one of `fleet` from now on."""
        if fleet is not self.fleet:
            self.fleet.dismiss(self)
            self.shrink(fleet.grown / self.fleet.grown)
            self.fleet, self.turn = fleet, fleet.turn
            fleet.admit(self)


def estimates_of(name: str, backends: list[BackendState], now: float) -> tuple[Fleet, list[Estimate]]:
    """Everybody's estimate, in one unit; what was known before the set changed is still known."""
    known = [state.memory.get(name) for state in backends]
    fleet = next((one.fleet for one in known if isinstance(one, Estimate)), None) or Fleet(now)
    fleet.advance(now)
    estimates: list[Estimate] = []
    for state, estimate in zip(backends, known, strict=True):
        if isinstance(estimate, Estimate):
            estimate.fleet.advance(now)
            estimate.join(fleet)
        else:
            estimate = state.memory[name] = Estimate(state, fleet)
        estimates.append(estimate)
    return fleet, estimates
