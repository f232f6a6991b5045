"""Hedging: a second copy of a request that is slow to answer, to another backend; the first answer wins.

It cures slowness that is a backend's own (a pause, a cold cache). Where the request itself is slow, or everybody is
busy, copies are pure load: at 90 % of a fleet's capacity a budget of 5 % multiplied p99 by five in simulation. So
copies are few, and they are switched off for a while when they rarely win or when the whole pool has become slow.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import accumulate

from lbclient.core.budget import Budget, RetryBudget
from lbclient.core.checks import check_fraction, check_methods, check_number
from lbclient.core.forking import new_lock

BUCKETS_PER_DOUBLING = 8  # of the latency histogram: its percentiles are exact to 9 %
SHORTEST = 1e-4  # seconds, the first bucket
MOST_BUCKETS = 200  # up to 50 minutes
GENERATION = 256  # latencies in a histogram; percentiles are taken over this one and the one before
GENERATIONS_REMEMBERED = 8
ENOUGH = 64  # latencies before anything is said of them
COPIES_JUDGED = 32
RARELY = 0.1
SLOW = 2.0  # times the best median that is remembered
PAUSE = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Hedge:
    """Send a second copy of a slow request to another backend, and take the answer that comes first.

    Args:
        delay: How long the first is given: a percentile of this client's own latencies ("p50" to "p99.9"), or seconds.
        budget: Copies per request, 0 to 1. They draw on the retry budget as well.
        methods: The methods that may be copied, in upper case. They should be safe: both copies may be carried out.

    Raises:
        ValueError, TypeError: A value is out of its range.

    Source: Dean and Barroso, The Tail at Scale (2013).
    """

    delay: str | float = "p95"
    budget: float = 0.02
    methods: Collection[str] = ("GET", "HEAD")

    def __post_init__(self) -> None:
        if isinstance(self.delay, str):
            _percentile(self.delay)
        else:
            check_number("delay", self.delay, above=0, instead="a percentile like 'p95', or seconds above 0")
        check_fraction("budget", self.budget)
        check_methods(self.methods)


def _percentile(delay: str) -> float:
    """The share that "p95" stands for."""
    try:
        share = float(delay.removeprefix("p")) / 100
    except ValueError:
        share = 0
    if not delay.startswith("p") or not 0.5 <= share < 1:
        raise ValueError(f"delay is {delay!r}; write a percentile from 'p50' to 'p99.9', or seconds")
    return share


class Latencies:
    """A histogram of the newest latencies: two generations, the older one dropped when the newer is full."""

    __slots__ = ("_count", "_medians", "_newer", "_older")

    def __init__(self) -> None:
        self._older = [0] * MOST_BUCKETS
        self._newer = [0] * MOST_BUCKETS
        self._count = 0
        self._medians: deque[float] = deque(maxlen=GENERATIONS_REMEMBERED)

    def add(self, seconds: float) -> bool:
        """Count one; True when that completes a generation."""
        bucket = 0
        if seconds > SHORTEST:
            bucket = min(MOST_BUCKETS - 1, math.ceil(math.log2(seconds / SHORTEST) * BUCKETS_PER_DOUBLING))
        self._newer[bucket] += 1
        self._count += 1
        if self._count < GENERATION:
            return False
        self._medians.append(_quantile(self._newer, 0.5))
        self._older, self._newer = self._newer, [0] * MOST_BUCKETS
        self._count = 0
        return True

    def quantile(self, share: float) -> float | None:
        """The latency that this share of them does not exceed; None while there are too few."""
        both = [older + newer for older, newer in zip(self._older, self._newer, strict=True)]
        return _quantile(both, share) if sum(both) >= ENOUGH else None

    @property
    def slow(self) -> bool:
        """Whether the newest generation is much slower than the best of those remembered."""
        return bool(self._medians) and self._medians[-1] > SLOW * min(self._medians)


def _quantile(counts: list[int], share: float) -> float:
    bucket = bisect_left(list(accumulate(counts)), share * sum(counts))
    return float(SHORTEST * 2 ** (bucket / BUCKETS_PER_DOUBLING))


class Hedging:
    """A `Hedge` in use: when a copy is due, and whether copies are worth it. Any thread may ask.

    Args:
        policy: How long to wait, and how many.
        clock: Seconds that never go back.
    """

    __slots__ = (
        "_budget",
        "_clock",
        "_fresh",
        "_latencies",
        "_lock",
        "_off_until",
        "_seconds",
        "_share",
        "_won",
        "policy",
    )

    def __init__(self, policy: Hedge, clock: Callable[[], float]) -> None:
        self.policy = policy
        self._clock = clock
        self._budget = Budget(RetryBudget(ratio=policy.budget, min_per_second=0), clock)
        self._latencies = Latencies()
        self._share = _percentile(policy.delay) if isinstance(policy.delay, str) else None
        self._seconds: float | None = None if self._share is not None else float(policy.delay)
        self._fresh = 0
        self._won: deque[bool] = deque(maxlen=COPIES_JUDGED)
        self._off_until = -math.inf
        self._lock = new_lock()

    def __repr__(self) -> str:
        off = self._off_until - self._clock()
        return f"<Hedging {f'off for {off:.0f} s' if off > 0 else f'after {self._seconds} s'}>"

    def delay(self) -> float | None:
        """Seconds after which a request that begins now is copied; None for not at all."""
        self._budget.deposit()
        return self._seconds if self._clock() >= self._off_until else None

    def observed(self, latency: float) -> None:
        """A first attempt was answered: seconds to the response headers."""
        with self._lock:
            full = self._latencies.add(latency)
            self._fresh += 1
            if self._share is not None and self._fresh >= ENOUGH:
                self._fresh = 0
                self._seconds = self._latencies.quantile(self._share)
            if full and self._latencies.slow:
                self._off_until = self._clock() + PAUSE

    def withdraw(self) -> bool:
        """Whether a copy may be made now; if so it is paid for."""
        return self._clock() >= self._off_until and self._budget.withdraw()

    def ended(self, won: bool) -> None:
        """A copy was made; whether its answer came first."""
        with self._lock:
            self._won.append(won)
            if len(self._won) == COPIES_JUDGED and sum(self._won) < RARELY * COPIES_JUDGED:
                self._off_until = self._clock() + PAUSE
                self._won.clear()
