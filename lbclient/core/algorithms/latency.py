"""Algorithms that measure: how long a backend takes to answer, times how many are already waiting for it.

Four rules keep the measuring from doing harm:

* *In flight is part of the cost.* An estimate is as old as the last answer, and until the next one comes
  every request would go to yesterday's fastest.
* *A failure is a slow answer.* A backend that fails in a millisecond would win every contest; so a failed
  attempt counts as 50 times what an answer of this pool takes, or as long as it took if that is more.
* *Nobody is judged unheard.* A backend without an estimate is the best choice while nothing is in flight
  there, and the last choice while something is: one request finds out.
* *Nobody is judged for ever.* An estimate that is not used fades within some `tau`, until the backend is looked at
  again. The request that does so brings the old estimate back until it is answered: one look, not a stampede.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.sampling import alias_table, weighted_rest
from lbclient.core.algorithms.two_choices import Pairs
from lbclient.core.backend import BackendState
from lbclient.core.checks import check_number

FAILURE_COSTS = 50.0  # answers
_FIRST_FAILURE_COSTS = 1.0  # seconds, where nobody has answered yet
_MEAN_SHARE = 0.05  # of the newest answer in the pool's mean
_UNHEARD = 1e9  # cost of one more in flight where nobody knows what it costs
_TELLING = 0.95  # costs closer than this are alike, and the weights decide
_REDRAWS = 8
_SCANNED = 16
_MOST_ANSWERS = 32.0  # that an average rests on: more would make it slow to learn


def _check_tau(tau: float) -> None:
    check_number("tau", tau, at_least=0.001, at_most=86_400)


@dataclass(frozen=True, slots=True)
class PeakEWMA:
    """Of two backends drawn by weight, the one with the lower latency x (in flight + 1).

    The estimate is Finagle's peak-sensitive moving average (`com.twitter.finagle.loadbalancer.PeakEwma`): a
    slower answer is believed at once, a faster one bit by bit.

    Args:
        tau: Seconds over which an answer is forgotten, 0.001 to 86,400.
    """

    tau: float = 10.0

    name: ClassVar[str] = "peak_ewma"
    because: ClassVar[str] = "lowest peak latency x in flight, of two drawn at random"

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> PeakEWMAPicker:
        """A picker that draws pairs of `backends`."""
        return PeakEWMAPicker(self.name, backends, self.tau, rng)


@dataclass(frozen=True, slots=True)
class LeastResponseTime:
    """The backend with the lowest latency x (in flight + 1), of all; of more than 16, of 16 in a row.

    Args:
        tau: Seconds over which an answer is forgotten, 0.001 to 86,400.
    """

    tau: float = 10.0

    name: ClassVar[str] = "least_response_time"
    because: ClassVar[str] = "lowest latency x in flight"

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> LeastResponseTimePicker:
        """A picker of the fastest of `backends`."""
        return LeastResponseTimePicker(self.name, backends, self.tau, rng)


def peak_ewma(seconds: float, sample: float, elapsed: float, tau: float) -> float:
    """Finagle's moving average (`PeakEwma.Metric`) after a `sample` that came `elapsed` seconds after the last one.

    A sample above what is left of the average replaces it; one below is mixed in.
    """
    keep = math.exp(-elapsed / tau)
    left = seconds * keep
    return sample if sample > left else left + sample * (1 - keep)


class _Mean:
    """What an answer of the whole pool takes, in seconds; one for all its estimates."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def add(self, seconds: float) -> None:
        mean = self.seconds
        self.seconds = seconds if mean is None else mean + _MEAN_SHARE * (seconds - mean)


class Estimate:
    """What is known of one backend; kept in its `BackendState.memory`."""

    __slots__ = ("answered", "count", "mean", "seconds", "used")

    def __init__(self, mean: _Mean) -> None:
        self.mean = mean
        self.seconds: float | None = None
        self.count = 0.0  # how many answers it rests on, the old ones faded
        self.answered = 0.0  # when the last answer came
        self.used = 0.0  # when it was last picked, or answered

    def charge(self, latency: float, failed: bool) -> float:
        """What an attempt counts as, in seconds."""
        if not failed:
            self.mean.add(latency)
            return latency
        mean = self.mean.seconds
        return max(latency, _FIRST_FAILURE_COSTS if mean is None else FAILURE_COSTS * mean)


class _MeasuringPicker:
    """What both have in common: the estimates, and what they cost."""

    __slots__ = (
        "_clock",
        "_estimates",
        "_known",
        "_random",
        "_scale",
        "_sizes",
        "_states",
        "_tau",
        "_weights",
        "drawn",
    )

    def __init__(self, name: str, backends: Sequence[BackendState], tau: float, rng: Rng) -> None:
        self._states = tuple(backends)
        self._estimates = _estimates(name, backends)
        self._known = dict(zip(backends, self._estimates, strict=True))
        weights = tuple(state.weight for state in backends)
        mean = math.fsum(weights) / len(weights)
        self._sizes = [weight / mean for weight in weights]
        self._weights = weights
        self._tau = tau
        self._clock = self._states[0].clock
        self._scale = self._states[0].scale
        self._random = rng.random
        self.drawn: float | None = None

    def _cost(self, index: int, now: float) -> float:
        """Seconds until one more request would be answered, as far as can be told.

        A weight divides what is in flight, not the latency: idle backends of all weights cost what they take.
        """
        waiting = self._states[index].in_flight / self._sizes[index]
        if self._scale is not None:
            waiting /= self._scale.unit
        estimate = self._estimates[index]
        if estimate.seconds is None:
            return _UNHEARD * waiting
        return self._expected(estimate.seconds, estimate, now) * (waiting + 1)

    def _is_being_heard(self, index: int) -> bool:
        """Whether its first answer is still on the way."""
        return self._estimates[index].seconds is None and self._states[index].in_flight > 0

    def _expected(self, seconds: float, estimate: Estimate, now: float) -> float:
        """What an estimate of `seconds` is worth by now."""
        raise NotImplementedError

    def _learn(self, seconds: float, estimate: Estimate, sample: float, elapsed: float) -> float:
        """The estimate after another `sample`."""
        raise NotImplementedError

    def started(self, state: BackendState, /) -> None:
        """It is being looked at."""
        estimate = self._known.get(state)
        if estimate is not None:
            estimate.used = self._clock()

    def observed(self, state: BackendState, latency: float, failed: bool, now: float, /) -> None:
        """An attempt was answered after `latency` seconds, or failed."""
        estimate = self._known.get(state)
        if estimate is None:
            return
        sample = estimate.charge(latency, failed)
        elapsed = max(0.0, now - estimate.answered)
        if estimate.seconds is None:
            estimate.seconds, estimate.count = sample, 1.0
        else:
            estimate.seconds = self._learn(estimate.seconds, estimate, sample, elapsed)
        estimate.answered = estimate.used = now


def _estimates(name: str, backends: Sequence[BackendState]) -> list[Estimate]:
    """Everybody's estimate; what was known before the set changed is still known."""
    known = [state.memory.get(name) for state in backends]
    mean = next((estimate.mean for estimate in known if isinstance(estimate, Estimate)), None) or _Mean()
    estimates: list[Estimate] = []
    for state, estimate in zip(backends, known, strict=True):
        if not isinstance(estimate, Estimate):
            estimate = state.memory[name] = Estimate(mean)
        estimates.append(estimate)
    return estimates


class PeakEWMAPicker(_MeasuringPicker):
    """Two choices by cost; `drawn` is the random number in [0, 1) for `Pairs.pair`."""

    __slots__ = ("_pair",)

    def __init__(self, name: str, backends: Sequence[BackendState], tau: float, rng: Rng) -> None:
        super().__init__(name, backends, tau, rng)
        self._pair = Pairs(self._weights).pair

    def _expected(self, seconds: float, estimate: Estimate, now: float) -> float:
        return seconds * math.exp((estimate.used - now) / self._tau)

    def _learn(self, seconds: float, estimate: Estimate, sample: float, elapsed: float) -> float:
        return peak_ewma(seconds, sample, elapsed, self._tau)

    def pick(self, key: bytes | None, /) -> BackendState:
        """The cheaper one of a pair, the first drawn when they are alike."""
        now = self._clock()
        self.drawn = self._random()
        first, second = self._pair(self.drawn)
        chosen = second if self._cost(second, now) < self._cost(first, now) * _TELLING else first
        if self._is_being_heard(chosen):
            # its first answer is still on the way: anyone near it will do, but not every one of ten thousand is asked
            count = len(self._states)
            near = [(chosen + step) % count for step in range(min(count, _SCANNED))]
            chosen = min(near, key=lambda index: self._cost(index, now))
        return self._states[chosen]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        for _ in range(_REDRAWS):
            state = self.pick(key)
            if state not in avoid:
                return state
        self.drawn = self._random()
        return weighted_rest(self._states, avoid, self.drawn)


class LeastResponseTimePicker(_MeasuringPicker):
    """The cheapest of all, or of a window; `drawn` is the random number in [0, 1) that places the window."""

    __slots__ = ("_table",)

    def __init__(self, name: str, backends: Sequence[BackendState], tau: float, rng: Rng) -> None:
        super().__init__(name, backends, tau, rng)
        self._table = alias_table(self._weights)

    def _expected(self, seconds: float, estimate: Estimate, now: float) -> float:
        """The lower end of what it may be: the fewer and older the answers, the wider the guess.

        It is forgotten towards the mean of the pool, and n answers place a mean to about 1 / sqrt(n) of itself
        (their spread is about their mean). Without this, a backend whose first answer was slow by chance would
        be shunned as if it were slow.
        """
        count = estimate.count * math.exp((estimate.used - now) / self._tau)
        mean = estimate.mean.seconds
        if mean is not None:
            seconds = (seconds * count + mean) / (count + 1)
        return seconds / (1 + 1 / math.sqrt(count + 1))

    def _learn(self, seconds: float, estimate: Estimate, sample: float, elapsed: float) -> float:
        count = min(estimate.count * math.exp(-elapsed / self._tau), _MOST_ANSWERS - 1)
        estimate.count = count + 1
        return (seconds * count + sample) / (count + 1)

    def pick(self, key: bytes | None, /) -> BackendState:
        """The cheapest one, the first drawn when none is cheaper by more than a twentieth."""
        state = self.pick_other(key, ())
        assert state is not None
        return state

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        now = self._clock()
        self.drawn = self._random()
        first = self._table.index(self.drawn)
        best: BackendState | None = None
        least = math.inf
        if self._states[first] not in avoid:
            best = self._states[first]
            least = self._cost(first, now) * _TELLING
        by_weight = best is None or not self._is_being_heard(first)
        for step in range(1, min(len(self._states), _SCANNED)):
            index = (first + step) % len(self._states)
            state = self._states[index]
            if state in avoid:
                continue
            # lighter ones take part as often as their weight says: see two_choices.py
            share = self._sizes[index] / self._sizes[first]
            if by_weight and share < 1 and self._random() >= share:
                continue
            cost = self._cost(index, now)
            if cost < least:
                best, least = state, cost
        return best or weighted_rest(self._states, avoid, self._random())
