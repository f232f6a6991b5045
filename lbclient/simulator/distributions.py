"""How long requests take: distributions that come out the same on every machine and Python.

They are built on `Random.random()` alone, whose numbers Python promises to keep; `expovariate` and its like may change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from lbclient.core.checks import check_fraction, check_number


@dataclass(frozen=True, slots=True)
class Exponential:
    """Seconds of work, exponential: many small, few large."""

    mean: float

    def __post_init__(self) -> None:
        check_number("mean", self.mean, above=0)

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Draws from it."""
        random, log, scale = rng.random, math.log, -self.mean
        return lambda: scale * log(1.0 - random())


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Seconds of work, log-normal: a heavy tail from `sigma` 1.5 on.

    Args:
        mean: Seconds.
        sigma: Of the logarithm.
    """

    mean: float
    sigma: float

    def __post_init__(self) -> None:
        check_number("mean", self.mean, above=0)
        check_number("sigma", self.sigma, at_least=0)

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Draws from it (Box and Muller 1958)."""
        random, log, sqrt, cos, exp = rng.random, math.log, math.sqrt, math.cos, math.exp
        mu, sigma, turn = math.log(self.mean) - self.sigma**2 / 2, self.sigma, 2 * math.pi
        return lambda: exp(mu + sigma * sqrt(-2 * log(1.0 - random())) * cos(turn * random()))


@dataclass(frozen=True, slots=True)
class Uniform:
    """Seconds of work, anything from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        check_number("low", self.low, above=0)
        check_number("high", self.high, at_least=self.low)

    @property
    def mean(self) -> float:
        """Seconds."""
        return (self.low + self.high) / 2

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Draws from it."""
        random, low, width = rng.random, self.low, self.high - self.low
        return lambda: low + width * random()


@dataclass(frozen=True, slots=True)
class Mixed:
    """Two kinds of requests: a `share` of them takes `large` seconds, the others `small`; +-10 % each."""

    small: float
    large: float
    share: float

    def __post_init__(self) -> None:
        check_number("small", self.small, above=0)
        check_number("large", self.large, above=0)
        check_fraction("share", self.share)

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.small * (1 - self.share) + self.large * self.share

    def sampler(self, rng: Random) -> Callable[[], float]:
        """Draws from it."""
        random, small, large, share = rng.random, self.small, self.large, self.share
        return lambda: (large if random() < share else small) * (0.9 + 0.2 * random())


Distribution = Exponential | LogNormal | Uniform | Mixed
