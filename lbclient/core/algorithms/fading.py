"""Sums that fade: what `Adaptive` knows of each backend, and of all of them together.

Everything fades by `exp(-dt / tau)`, which would be one multiplication per backend and pick. Instead the unit grows
(*forward decay*, Cormode et al. 2009): what comes in now is written down `grown` times as large, `grown` being
`exp(dt / tau)` since the beginning, and only quotients are ever read. That is one `exp` per pick, whatever the number
of backends. When the unit has become huge, everything is written anew in a smaller one.

There are two units. Failures fade within `tau`, because a backend that has come back should be tried again soon.
Answers fade as fast where they are many; where they are few, after `ROUNDS_REMEMBERED` rounds (as many picks as there
are backends), or nothing would be known of anybody.

Times are written down as multiples of the pool's mean latency at that moment. So what slows all backends down, or
speeds them up (larger requests, a warm cache, the first requests of all), says nothing about one of them.
"""

from __future__ import annotations

import math
from weakref import WeakSet

from lbclient.core.backend import BackendState

LEAST_TAU = 2.0  # seconds
MEANS_REMEMBERED = 10.0  # tau, in mean latencies: slow pools forget slowly
ROUNDS_REMEMBERED = 4.0  # picks of each backend: what sparse traffic is remembered for
LONGEST_TAU = 120.0  # seconds: no longer because of that
PAUSE_SHARE = 0.05  # of the newest pause between picks in their mean
WELCOME_ROUNDS = 50  # picks of each backend during which one that joins, or was away, is not doubted
PROOF = 20  # answers after that of a trial: of who fails 30 % one in a thousand gives them
LEFT_FOR = 0.5  # of tau: how long whoever has failed is left to requests that would be sent again
TRUSTED = 2.0  # answers: where they are sparse, no more of the past count when a backend fails
MOST_IN_A_ROW = 4.0  # what a failure costs more after others, without an answer in between
FIRST_COUNTS = 1 / 16  # the first answer of all, in the mean: it pays for connecting, and for cold caches
PRIOR = 1.0  # how many outcomes the mean of all counts
_GUESS = 0.02  # seconds: the mean while nobody has answered
_HUGE = 1e60
_ALL_GONE = 100.0  # taus after which nothing is left: exp(-100) is less than the last digit of anything


class Fleet:
    """What the backends of a pool have in common: the unit, and the mean latency of their successes.

    Attributes:
        grown: The unit of answers: what one counts that comes now.
        charge: The same of failures.
        mean: Mean latency of the successes, in seconds; a guess before the first.
        tau: Seconds over which failures are forgotten: 10 mean latencies, at least 2 s. Answers as well, or later.
        pause: Seconds between two picks, a moving average.
        scatter: Standard deviation of all backends' successes, in means.
        size: How many backends there are.
        trial: From which turn on there may be another trial of anybody.
        turn: Picks so far.
        reported: Mean of what servers say they have in flight; negative while none has.
        overlap: Requests waiting for their headers when a pick is made, a moving average.
    """

    __slots__ = (
        "_at",
        "_count",
        "_estimates",
        "_picked_at",
        "_squares",
        "_total",
        "charge",
        "grown",
        "mean",
        "overlap",
        "pause",
        "reported",
        "scatter",
        "size",
        "tau",
        "trial",
        "turn",
    )

    def __init__(self, now: float) -> None:
        self.grown = self.charge = 1.0
        self.mean = _GUESS
        self.pause = 0.0
        self.size = 0
        self.tau = LEAST_TAU
        self.turn = 0
        self.overlap = 0.0
        self.reported = -1.0
        self._at = self._picked_at = now
        self.scatter = 1.0
        self.trial = 0.0
        self._total = self._count = self._squares = 0.0
        self._estimates: WeakSet[Estimate] = WeakSet()

    def advance(self, now: float) -> None:
        """Let time pass."""
        if now > self._at:
            self.grown, self.charge = self.units_at(now)
            self._at = now
            if self.charge > _HUGE:
                for estimate in self._estimates:
                    estimate.shrink(1, 1 / self.charge)
                self.charge = 1.0
            if self.grown > _HUGE:
                for estimate in self._estimates:
                    estimate.shrink(1 / self.grown, 1)
                self._total /= self.grown
                self._squares /= self.grown
                self._count /= self.grown
                self.grown = 1.0

    def units_at(self, now: float) -> tuple[float, float]:
        """What the units will be then, of answers and of failures; nothing is changed."""
        elapsed = max(0.0, now - self._at)
        growth = math.exp(min(elapsed / self.tau, _ALL_GONE))
        charge = self.charge * growth
        if self.is_sparse:
            rounds = ROUNDS_REMEMBERED * self.size * self.pause
            growth = math.exp(min(elapsed / min(rounds, LONGEST_TAU), _ALL_GONE))
        return self.grown * growth, charge

    @property
    def is_sparse(self) -> bool:
        """Whether answers come so seldom that they are remembered longer than failures."""
        return self.tau < LONGEST_TAU and ROUNDS_REMEMBERED * self.size * self.pause > self.tau

    def picked(self, now: float) -> None:
        """One more pick."""
        self.turn += 1
        share = PAUSE_SHARE if self.turn > 1 / PAUSE_SHARE else 1 / self.turn
        self.pause += share * (now - self._picked_at - self.pause)
        self._picked_at = now

    def succeeded(self, seconds: float, most: float) -> float:
        """Somebody answered after so many seconds; in means, `most` of them at most."""
        if not self._count:
            self.mean = seconds
            self._count = FIRST_COUNTS * self.grown
            self._total = seconds * self._count
            self._squares = seconds * self._total
        mean = self.mean
        self._squares += seconds * seconds * self.grown
        seconds = min(seconds, most * mean)
        self._total += seconds * self.grown
        self._count += self.grown
        self.mean = self._total / self._count
        square = self._count * self.mean**2
        if square:
            self.scatter = math.sqrt(max(0.0, self._squares / square - 1))
        self.tau = max(LEAST_TAU, MEANS_REMEMBERED * self.mean)
        return seconds / mean if mean else 1.0

    def admit(self, estimate: Estimate) -> None:
        """Keep an estimate in this fleet's units from now on."""
        self._estimates.add(estimate)

    def dismiss(self, estimate: Estimate) -> None:
        """It is of another fleet now."""
        self._estimates.discard(estimate)


class Estimate:
    """What is known of one backend; kept in its `BackendState.memory`, so that it survives every rebuild.

    Attributes:
        state: Whose it is.
        fleet: Whose unit it is written in.
        total: Sum of what its answers took, in means, without the peak.
        count: How many that were.
        charged: Sum of what its failures and refusals cost, in means.
        charges: How many that were.
        peak: What its slowest answer cost.
        peak_count: What that one counts.
        failures: How many of them were failures.
        in_a_row: Failures since its last answer to a request that began after them.
        failed_at: When it failed last.
        trial: From which turn on it may be tried again, having failed; infinity if it has not.
        trying: Whether its next answer is that of a trial.
        left: Since when requests that are sent once leave it, having failed, to others; infinity while none has.
        owes: Answers that are to follow that of a trial before requests that are sent once do.
        turn: When it was last picked, in picks of the fleet.
        welcome: Until when it is not doubted, in the same.
        reported: What the server said last that it has in flight.
        reported_at: When.
        share: How likely it takes part in a pick, when it has not got its share lately.
        pace: Picks of the fleet between two of its own, at least; 0 for no limit.
    """

    __slots__ = (
        "__weakref__",
        "charged",
        "charges",
        "count",
        "failed_at",
        "failures",
        "fleet",
        "in_a_row",
        "left",
        "owes",
        "pace",
        "peak",
        "peak_count",
        "reported",
        "reported_at",
        "share",
        "state",
        "total",
        "trial",
        "trying",
        "turn",
        "welcome",
    )

    def __init__(self, state: BackendState, fleet: Fleet) -> None:
        self.state = state
        self.fleet = fleet
        self.total = self.count = self.peak = self.peak_count = 0.0
        self.charged = self.charges = self.failures = 0.0
        self.in_a_row = self.owes = 0
        self.failed_at = -math.inf
        self.turn = fleet.turn
        self.welcome = 0
        self.trial = math.inf
        self.trying = False
        self.left = math.inf
        self.share = 1.0
        self.reported = 0.0
        self.reported_at = -math.inf
        self.pace = 0.0
        fleet.admit(self)

    def failed(self, means: float, picks: float, now: float) -> None:
        """One more failure, that costs so much; the second in a row twice, up to four times.

        A trial has to wait for so many picks more.
        """
        fleet = self.fleet
        trusted = TRUSTED * fleet.grown
        if self.count > trusted and fleet.is_sparse:
            self.total *= trusted / self.count
            self.count = trusted
        self.refused(means * min(1 + self.in_a_row, MOST_IN_A_ROW))
        self.in_a_row += 1
        begun = fleet.turn if self.trial == math.inf else max(self.trial, fleet.turn)
        self.trial = begun + picks
        self.trying = False
        self.left = math.inf
        self.failed_at = now
        self.failures += fleet.charge

    def refused(self, means: float) -> None:
        """One more refusal."""
        self.charged += means * self.fleet.charge
        self.charges += self.fleet.charge

    def answered(self, means: float, began: float) -> None:
        """One more answer, after so many means, to a request that began then; the slowest of all is set aside."""
        if began >= self.failed_at:
            self._be_well()
        count = self.fleet.grown
        means *= count
        if means > self.peak:
            means, self.peak = self.peak, means
            count, self.peak_count = self.peak_count, count
        self.total += means
        self.count += count

    def _be_well(self) -> None:
        self.in_a_row = 0
        if self.owes:
            self.owes -= 1
        if self.trying:
            self.trying = False
            self.owes = PROOF
            self.trial = math.inf
            self.charged = self.charges = self.failures = 0.0
            self.be_welcome()

    def may_be_left(self, now: float) -> bool:
        """Whether a request may leave it to others: for a part of `tau` from the first that did, if nobody comes."""
        self.left = min(self.left, now)
        return now - self.left < LEFT_FOR * self.fleet.tau

    def be_welcome(self) -> None:
        """Not be doubted for a while: little is known of it because it was away."""
        self.welcome = self.fleet.turn + WELCOME_ROUNDS * self.fleet.size

    def expected(self, now: float, grown: float, charge: float) -> float:
        """Means until an answer, if nothing else were in flight: `L` of the rule, in units of `grown` and `charge`."""
        fade = grown / charge
        total = self.total + self.charged * fade + PRIOR * grown
        count = self.count + self.charges * fade + PRIOR * grown
        means = total / count
        age = (now - next(iter(self.state.waiting), now)) / self.fleet.mean
        if age > means:
            means = (total + age * grown) / (count + grown)
        return means

    def failing(self, grown: float, charge: float) -> float:
        """The share of what is remembered of it that failed."""
        fade = grown / charge
        return self.failures * fade / (self.count + self.charges * fade)

    def is_failing(self, grown: float, charge: float) -> bool:
        """Whether most of what is remembered of it failed, and that is more than one failure by chance."""
        fade = grown / charge
        return self.failures * fade > (self.count + self.charges * fade + grown) / 2

    def shrink(self, answers: float, charges: float) -> None:
        """Write it in other units."""
        self.total *= answers
        self.count *= answers
        self.peak *= answers
        self.peak_count *= answers
        self.charged *= charges
        self.charges *= charges
        self.failures *= charges

    def join(self, fleet: Fleet) -> None:
        """Be one of `fleet` from now on."""
        if fleet is not self.fleet:
            self.fleet.dismiss(self)
            self.shrink(fleet.grown / self.fleet.grown, fleet.charge / self.fleet.charge)
            self.trial += fleet.turn - self.fleet.turn
            self.fleet, self.turn = fleet, fleet.turn
            fleet.admit(self)


def estimates_of(name: str, backends: list[BackendState], now: float) -> tuple[Fleet, list[Estimate]]:
    """Everybody's estimate, in one unit; what was known before the set changed is still known."""
    known = [state.memory.get(name) for state in backends]
    fleet = next((one.fleet for one in known if isinstance(one, Estimate)), None) or Fleet(now)
    fleet.advance(now)
    fleet.size = len(backends)
    estimates: list[Estimate] = []
    for state, estimate in zip(backends, known, strict=True):
        if isinstance(estimate, Estimate):
            estimate.fleet.advance(now)
            estimate.join(fleet)
        else:
            estimate = state.memory[name] = Estimate(state, fleet)
        if fleet.turn and estimate.count < fleet.grown:
            estimate.be_welcome()
        estimates.append(estimate)
    return fleet, estimates
