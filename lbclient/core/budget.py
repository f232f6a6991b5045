"""The retry budget: retries may add a share to the load, so that a fleet in trouble is not finished off by them.

The arithmetic is Finagle's `RetryBudget`: every request puts tokens into a bucket, every retry takes some out, both are
forgotten after the window, and a reserve lets a quiet client retry as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lbclient.core.checks import check_number
from lbclient.core.forking import new_lock

TOKENS = 1000  # of one request; scaled, because truncated to whole numbers 0.75 would become 1
SLICES = 10


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How much retries, and hedges, may add to the load of a pool.

    Args:
        ratio: Retries per request; >= 0, and above 1 for several retries of each. 0 leaves only the reserve.
        min_per_second: Retries a second that are allowed whatever the load; >= 0.
        window: Seconds over which both are counted; > 0.

    Raises:
        ValueError, TypeError: A value is out of its range.

    Source: Finagle's RetryBudget (a leaky token bucket in ten slices).
    """

    ratio: float = 0.2
    min_per_second: float = 10.0
    window: float = 10.0

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, at_least=0)
        check_number("min_per_second", self.min_per_second, at_least=0)
        check_number("window", self.window, above=0)


class Budget:
    """A `RetryBudget` in use. Any thread may ask.

    Args:
        policy: How much.
        clock: Seconds that never go back.
    """

    __slots__ = (
        "_balance",
        "_clock",
        "_deposit",
        "_lock",
        "_reserve",
        "_slice",
        "_slices",
        "_width",
        "_withdrawal",
    )

    def __init__(self, policy: RetryBudget, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deposit = TOKENS if policy.ratio else 0
        self._withdrawal = int(TOKENS / policy.ratio) if policy.ratio else 1
        self._reserve = policy.min_per_second * policy.window * self._withdrawal
        self._width = policy.window / SLICES
        self._slices = [0] * SLICES
        self._slice = int(clock() / self._width)
        self._balance = 0  # the sum of the slices; negative while the reserve is being used
        self._lock = new_lock()

    def __repr__(self) -> str:
        return f"<Budget, {self.left} retries left>"

    @property
    def left(self) -> int:
        """How many retries it allows right now."""
        with self._lock:
            self._turn()
            return int((self._balance + self._reserve) / self._withdrawal)

    def deposit(self) -> None:
        """A request begins."""
        with self._lock:
            if int(self._clock() / self._width) != self._slice:
                self._turn()
            self._slices[self._slice % SLICES] += self._deposit
            self._balance += self._deposit

    def withdraw(self) -> bool:
        """Whether one more attempt may be made; if so it is paid for."""
        with self._lock:
            self._turn()
            if self._balance + self._reserve < self._withdrawal:
                return False
            self._slices[self._slice % SLICES] -= self._withdrawal
            self._balance -= self._withdrawal
            return True

    def _turn(self) -> None:
        """Forget what is older than the window."""
        now = int(self._clock() / self._width)
        if now == self._slice:
            return
        for slot in range(self._slice + 1, min(now, self._slice + SLICES) + 1):
            self._balance -= self._slices[slot % SLICES]
            self._slices[slot % SLICES] = 0
        self._slice = now
