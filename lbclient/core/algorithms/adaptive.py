"""Adaptive, the default: **a failure is a slow answer.**

One estimate per backend does the work of three mechanisms: it balances load, it notices failures, and it lets a backend
back in. No probes, no change on the servers, no failure counters, no ejections.

The rule
--------

Per client and backend: the sum `S` of what its outcomes cost and their count `W`, and what is in flight, `n`. Costs are
in units of `m`, the mean latency of all backends' successes at that moment. Everything fades with `tau` (`fading.py`).

    tau = max(2 s, 10 m)
    success              x = min(latency / m, 10)     the slowest of a backend is set aside: it says little; at most 4
                                                      where requests do not overlap
    failure, timeout     x = max(latency / m, 50)
    429                  x = max(latency / m, 10)     no failure, but a fast refusal must not attract more
    every outcome        S += x, W += 1
    L = (S + 1) / (W + 1)                             unknown backends cost 1, and all is forgotten towards that
    the oldest request that waits for its headers, of age a > L:
    L = (S + a + 1) / (W + 2)                         a hang shows before it ends
    score = L (1 + n)                                 the least wins, ties are drawn

**Reports.** When servers say how many requests they have in flight (`load_report.py`), `r`, of which the mean is `r'`,
then `1 + n` becomes `1 + n + 0.6 min(3, max(0.5, r / (r' + 1)))`, `r` fading towards `r'` within 0.4 s.

**Memory.** Failures fade with `tau`. Answers do as well, but not before four rounds (a round is as many picks as there
are backends; 2 min at most): where traffic is sparse, nothing would be known of anybody otherwise. There a failure
leaves no more than 2 of the answers before it. A second failure in a row is charged twice, a third three times, and all
that follow four times, however long it was left alone in between: what was good for long, and fails now, is failing.

**Trials.** A charge of 50 fades into the noise after about `tau ln 50`, 8 s in a fast pool, 11 s of four in a row, and
the next request tries. A client with many requests need not wait for that: a failure is paid for by about 13 picks for
each mean that it cost, 650 if it was quick, and when they have gone by, one request tries (none that has failed
elsewhere before, and one per 650 picks however many are failing). So trials fail 0.15 % of the requests, and take a
thirteenth of the time that others take. They are for whoever has failed and not answered what began after that, or
failed most of what is remembered; the charges of one that answers, and fails now and then, fade. Whoever answers a
trial, or the first request after its charge had faded, is charged with nothing any more, and not doubted for 50 rounds.

A trial is left to a request that would be sent again if it failed, so that no caller sees it fail: not to a POST. Where
a client sends nothing else there are no trials, and whoever failed has to wait until its charge has faded. POSTs also
pass over whoever has failed and not answered since, and of a trial's answer they want 20 more for a proof; but for half
a `tau` only, in case that nobody comes by who would be sent again. With retries off all requests are alike, and any of
them may be a trial.

**Doubt.** Where requests overlap, a cost that stands on little is multiplied by `1 + d W ** -0.5`: of many that are
noise, the least is too good to be true. `d` is 0.8; where the standard deviation of answers, `s`, is below 0.7 means,
there is less noise, and `d` is `0.8 s / 0.7`. A backend that was not picked for `k` rounds pays `(1 + 0.02 k) ** -0.5`
of what its answers cost (0.19 instead of 0.02 where `s` is below 0.7: looks are cheap where answers are alike), so that
nobody is doubted for ever. One that joins or comes back is not doubted for 50 rounds; nor is whoever failed lately,
because that is paid for already, and where all fail now and then nobody would come back.

**Curiosity.** With traffic one request at a time nothing is in flight when a pick is made, and whoever is a hair
better than the mean would keep all of it. So of what successes cost, a backend that was not picked for `k` rounds (as
many picks as there are backends) pays only `(1 + 1.5 k) ** -0.5`. It is counted in picks, so that three hundred
requests in a second spread as well as three hundred in an hour; what failures cost is not reduced, so that a backend
which fails has to wait until that has faded, whatever the rate; and it goes away as requests begin to overlap (more
than 0.15 of a request waiting on average), where differences say who is busy: kept on, it costs 100 clients of a busy
fleet half of their p99. In the same way it goes down as a round takes longer than half a second: there forgetting does
its work, and a look at a slow backend every few seconds is what makes the p99.

How it goes with the rest of a pool
-----------------------------------

* **Passive ejection** is off (`passive` left out): one mechanism for one job. One that is given works as ever.
* **Fail open**: nobody is out, so when all fail the least bad one is picked. There is nothing to open.
* **Retry-After, drains, probes, priorities and zones** take backends out of the set, and this algorithm chooses among
  those that are left. What was known of one that comes back has faded by then.
* **Sticky sessions** do not follow a backend that fails most requests, or hangs, while others do not: the client is
  tied to another one, as if the backend had been ejected.
* **Weights** are no divisor: a canary of weight 1 among twenties would stay idle until everybody else has twenty in
  flight. A lighter backend takes no part until 0.6 of the picks have gone by that its share takes, which bounds it to
  1.7 times its share, and then with the probability 1.5 weight / heaviest, which brings it near its share when it is
  like the others. Slow start lowers weights, and so works as one would think. When the best of those that take part is
  bad (above 5), everybody takes part.
* **max_in_flight** makes the pool step around who is full, as under any algorithm.

How many are looked at
----------------------

Of up to 64 all. Of more, a window of 64 of the client's own subset, which is as large as its traffic needs
(`aperture.py`), so that a pick costs no more however large the pool is.

Where it comes from, what it was measured against and what did not help is in docs/adaptive.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms import fading
from lbclient.core.algorithms.aperture import WINDOW, Aperture
from lbclient.core.algorithms.fading import Estimate, estimates_of
from lbclient.core.algorithms.picker import Again, Avoided
from lbclient.core.backend import BackendState
from lbclient.core.checks import check_peer

SLOWEST_SUCCESS = 10.0  # means
SLOWEST_ALONE = 4.0  # means, where requests do not overlap: nobody else is slowed down by a wrong guess
FAILURE_COSTS = 50.0  # means
REFUSAL_COSTS = 10.0  # means
CURIOSITY = 1.5  # per round
CURIOUS_ROUNDS = 100
CURIOUS_ANYWAY = 0.02  # per round, where requests overlap
SPENT = 0.002  # of a failure: what is left after 12 s in a fast pool is nothing
DOUBT = 0.8  # of its cost, for one outcome, where requests overlap
ALONE = 0.15  # requests waiting for their headers, on average, where curiosity ends
OVERLAP_SHARE = 0.05  # of the newest pick in that average
QUICK_ROUND = 0.5  # seconds: rounds that take longer need less curiosity, because forgetting does its work
_LEVELS = 8
PACE = 0.6  # of the picks that a share takes
EAGER = 1.5
BAD = 5.0  # means: where it is worth to look beyond the aperture and the weights
SUSPECT = 1.5  # means: whoever is expected to take less is not avoided, however fast others are
AVOIDED = 3.0  # times the cheapest other
HANGS = 1.0  # seconds, at least
REPORT_COUNTS = 0.6  # requests in flight of our own that a server with the mean load counts
REPORT_FADES = 2.5  # a second: a report is old news after 0.4 s
REPORT_SHARE = 0.05  # of the newest report in their mean
LEAST_REPORT, MOST_REPORT = 0.5, 3.0  # unbounded, a hundred clients herd: p99 12 to 16 times worse
TRIAL_COSTS = 13.0  # picks for each mean that a failure cost: trials cost a thirteenth of what requests take
WORTH_A_TRIAL = 3.0  # means: whoever is expected to take less is asked anyway
FORGOTTEN = 0.05  # of a failure: whoever is picked with so little left of it has waited for long
ALIKE = 0.7  # standard deviation of answers, in means: where it is less, a doubt needs less
COSTS_SHOWN = 16  # backends; a larger pool's records do without
TRIAL = "it has failed: the one request that tries it again"
SPARED = "another would be the least, but has failed: that is left to a request that would be sent again"
_NOBODY: frozenset[BackendState] = frozenset()


@dataclass(frozen=True, slots=True)
class Adaptive:
    """The backend with the least expected time to an answer, a failure being a slow one. The default.

    Args:
        peer: (index, count): which of `count` clients this one is, from 0. Each then looks at a slice of its own of a
            large pool, so that all of it is used evenly; left out, at a random subset.

    Raises:
        ValueError, TypeError: `peer` is no such pair.
    """

    peer: tuple[int, int] | None = None

    name: ClassVar[str] = "adaptive"
    because: ClassVar[str] = "least expected time: latency x (in flight + 1), failures being slow answers"
    charges_failures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.peer is not None:
            check_peer(self.peer)

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> AdaptivePicker:
        """A picker of the best of `backends`."""
        return AdaptivePicker(self.name, backends, self.peer, rng)


class AdaptivePicker:
    """Scores every backend in reach.

    Attributes:
        costs: What the last pick expected of each backend, in mean latencies; None for who took no part. Empty in
            large pools.
        reason: Why the last pick was not the least of them; None when it was.
    """

    __slots__ = (
        "_aperture",
        "_cheapest",
        "_clock",
        "_discounts",
        "_fleet",
        "_name",
        "_order",
        "_random",
        "_restricted",
        "_scale",
        "_shown",
        "costs",
        "reason",
    )

    def __init__(
        self, name: str, backends: Sequence[BackendState], peer: tuple[int, int] | None, rng: Rng
    ) -> None:
        self._name = name
        self._clock = backends[0].clock
        self._scale = backends[0].scale
        self._random = rng.random
        self._fleet, self._order = estimates_of(name, list(backends), self._clock())
        weighted = _give_shares(self._order)
        few = len(backends) <= (WINDOW if peer is None else Aperture.LEAST)
        self._aperture = None if few else Aperture(self._order, peer, rng)
        self._restricted = weighted or self._aperture is not None
        reach = len(backends) if self._aperture is None else WINDOW
        self._discounts = _discounts(min(len(backends), reach))
        self._shown = len(backends) <= COSTS_SHOWN
        self._cheapest: tuple[float, Estimate, float, float] | None = None
        self.costs: Sequence[float | None] = ()
        self.reason: str | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """The one with the least score."""
        state = self._pick(_NOBODY, None)
        assert state is not None
        return state

    def pick_for(self, key: bytes | None, again: Again, /) -> BackendState:
        """The same, where trials are left to requests that would be sent `again`."""
        state = self._pick(_NOBODY, again)
        assert state is not None
        return state

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        return self._pick(avoid, None)

    def _pick(self, avoid: Collection[BackendState], again: Again | None) -> BackendState | None:
        now = self._clock()
        fleet = self._fleet
        fleet.advance(now)
        self.reason = None
        if self._restricted:
            best = self._best(avoid, now, again)
        else:
            best = self._least(self._order, avoid, now, False, again)
        if best is None:
            return None
        if again is not None and (best.in_a_row or best.owes) and best.may_be_left(now) and not again():
            other = self._best({best.state}, now, None)
            if other is not None and not other.in_a_row and not other.owes:
                best, self.reason = other, SPARED
        if best.trial < math.inf and best.charges < FORGOTTEN * fleet.charge:
            best.trying = True
        fleet.picked(now)
        best.turn = fleet.turn
        return best.state

    def _best(self, avoid: Collection[BackendState], now: float, again: Again | None) -> Estimate | None:
        """The estimate with the least score within reach; beyond, where those are bad."""
        fleet = self._fleet
        aperture = self._aperture
        order = self._order if aperture is None else aperture.window(now, fleet.turn)
        best = self._least(order, avoid, now, self._restricted, again)
        if (
            self._restricted
            and self.reason is None
            and (best is None or best.expected(now, fleet.grown, fleet.charge) > BAD)
        ):
            order = self._order if aperture is None else aperture.beyond()
            best = self._least(order, avoid, now, False, again) or best
            if best is None and aperture is not None:
                best = self._least(self._order, avoid, now, False, again)
        return best

    def _least(
        self,
        order: Sequence[Estimate],
        avoid: Collection[BackendState],
        now: float,
        restricted: bool,
        again: Again | None,
    ) -> Estimate | None:
        """The estimate with the least score, of those that take part; or that of a trial.

        `Estimate.expected` is written out: this is what a pick costs, 140 ns a backend (benchmarks/picks.py).
        """
        fleet = self._fleet
        grown = fleet.grown
        fade = grown / fleet.charge
        spent = SPENT * fleet.charge
        prior = fading.PRIOR * grown
        mean = fleet.mean
        turn = fleet.turn
        alone = fleet.overlap < ALONE
        scatter = fleet.scatter / ALIKE
        discounts = self._discounts[self._curiosity() if alone else int(scatter < 1)]
        doubt = 0.0 if alone else DOUBT * min(1.0, scatter) * math.sqrt(grown)
        unit = 1.0 if self._scale is None else self._scale.unit
        known = len(discounts)
        last = discounts[-1]
        costs: list[float | None] | None = [] if self._shown else None
        best: Estimate | None = None
        least = math.inf
        ties = 1
        overlap = 0
        reports = fleet.reported
        trial: Estimate | None = None
        due = -math.inf if avoid or turn < fleet.trial else turn
        for estimate in order:
            state = estimate.state
            since = turn - estimate.turn
            if (avoid and state in avoid) or (
                restricted and estimate.pace and (since < estimate.pace or self._random() >= estimate.share)
            ):
                if costs is not None:
                    costs.append(None)
                continue
            discount = discounts[since] if since < known else last
            total = (estimate.total + prior) * discount
            count = estimate.count + prior
            if estimate.charges > spent:
                total += estimate.charged * fade
                count += estimate.charges * fade
                cost = total / count
                if (
                    estimate.trial <= due
                    and cost > WORTH_A_TRIAL
                    and (estimate.in_a_row or estimate.is_failing(grown, fleet.charge))
                ):
                    due = estimate.trial
                    trial = estimate
            else:
                cost = total / count
                if doubt and turn >= estimate.welcome and not estimate.pace:
                    cost += cost * doubt * count**-0.5
            busy: float = state.in_flight
            if busy:
                busy /= unit
                waiting = state.waiting
                if waiting:
                    overlap += len(waiting)
                    age = (now - waiting[0]) / mean
                    if age > cost:
                        cost = (total + age * grown) / (count + grown)
            if reports < 0:
                cost *= busy + 1
            else:
                fresh = 1 - (now - estimate.reported_at) * REPORT_FADES
                seen = reports + (estimate.reported - reports) * fresh if fresh > 0 else reports
                seen /= reports + 1
                seen = LEAST_REPORT if seen < LEAST_REPORT else min(MOST_REPORT, seen)
                cost *= busy + 1 + REPORT_COUNTS * seen
            if costs is not None:
                costs.append(cost)
            if cost < least:
                best, least, ties = estimate, cost, 1
            elif cost == least:
                ties += 1
                if self._random() * ties < 1:
                    best = estimate
        if costs is not None:
            self.costs = costs
        fleet.overlap += OVERLAP_SHARE * (overlap - fleet.overlap)
        if trial is not None and (again is None or again()):
            fleet.trial = turn + TRIAL_COSTS * FAILURE_COSTS
            trial.trial = math.inf
            trial.trying = True
            self.reason = TRIAL
            return trial
        return best

    def _curiosity(self) -> int:
        """How sequential and quick the traffic is: 1 to _LEVELS."""
        fleet = self._fleet
        curiosity = 1 - fleet.overlap / ALONE
        round_takes = fleet.size * fleet.pause
        if round_takes > QUICK_ROUND:
            curiosity *= QUICK_ROUND / round_takes
        return math.ceil(_LEVELS * curiosity)

    def observed(self, state: BackendState, latency: float, failed: bool, now: float, /) -> None:
        """An attempt was answered after `latency` seconds, or failed."""
        estimate = state.memory.get(self._name)
        if not isinstance(estimate, Estimate):
            return
        fleet = estimate.fleet
        fleet.advance(now)
        self._cheapest = None
        if failed:
            means = max(latency / fleet.mean, FAILURE_COSTS)
            estimate.failed(means, TRIAL_COSTS * means * (0.5 + self._random()), now)
        else:
            most = SLOWEST_SUCCESS if fleet.overlap > ALONE else SLOWEST_ALONE
            estimate.answered(fleet.succeeded(latency, most), now - latency)

    def refused(self, state: BackendState, latency: float, now: float, /) -> None:
        """It answered that it has too much to do (429)."""
        estimate = state.memory.get(self._name)
        if isinstance(estimate, Estimate):
            estimate.fleet.advance(now)
            self._cheapest = None
            estimate.refused(max(latency / estimate.fleet.mean, REFUSAL_COSTS))

    def reported(self, state: BackendState, in_flight: float, now: float, /) -> None:
        """A server said how many requests it has in flight, over all its clients."""
        estimate = state.memory.get(self._name)
        if isinstance(estimate, Estimate):
            estimate.reported, estimate.reported_at = in_flight, now
            fleet = estimate.fleet
            mean = fleet.reported
            fleet.reported = in_flight if mean < 0 else mean + REPORT_SHARE * (in_flight - mean)

    def avoided(self, state: BackendState, now: float, /) -> Avoided | None:
        """Why the backend gets less than others, if it does."""
        estimate = state.memory.get(self._name)
        if not isinstance(estimate, Estimate):
            return None
        units = self._fleet.units_at(now)  # nothing is written: a status is read without the pool's lock
        expected = estimate.expected(now, *units)
        if expected <= SUSPECT or expected <= AVOIDED * self._least_of_others(estimate, now, units):
            return None
        mean = self._fleet.mean
        age = now - next(iter(state.waiting), now)
        if age > max(HANGS, SLOWEST_SUCCESS * mean):
            return Avoided(f"a request has been waiting for {age:.1f} s", failing=True)
        if estimate.failures:
            share = estimate.failing(*units)
            return Avoided(f"{share:.0%} of its latest requests failed", failing=estimate.is_failing(*units))
        return Avoided(
            f"it takes {expected * mean * 1e3:.0f} ms, the pool {mean * 1e3:.0f} ms", failing=False
        )

    def _least_of_others(self, estimate: Estimate, now: float, units: tuple[float, float]) -> float:
        """What the cheapest of the others is expected to take. Everybody is asked once for a status of all."""
        known = self._cheapest
        if known is None or known[0] != now:
            least, second, cheapest = math.inf, math.inf, estimate
            for other in self._order:
                expected = other.expected(now, *units)
                if expected < least:
                    least, second, cheapest = expected, least, other
                elif expected < second:
                    second = expected
            known = self._cheapest = now, cheapest, least, second
        return known[3] if known[1] is estimate else known[2]


@lru_cache(maxsize=8)
def _discounts(backends: int) -> list[list[float]]:
    """What curiosity makes of a cost: by how sequential the traffic is, and by the picks since a backend's last one."""
    return [
        [(1 + curiosity * picks / backends) ** -0.5 for picks in range(CURIOUS_ROUNDS * backends)]
        for curiosity in (CURIOUS_ANYWAY, *(CURIOSITY * level / _LEVELS for level in range(1, _LEVELS + 1)))
    ]


def _give_shares(estimates: Sequence[Estimate]) -> bool:
    """Say how often each takes part; whether somebody does not always."""
    heaviest = max(estimate.state.weight for estimate in estimates)
    shares = [estimate.state.weight / heaviest for estimate in estimates]
    total = math.fsum(shares)
    for estimate, share in zip(estimates, shares, strict=True):
        estimate.share = min(1.0, EAGER * share)
        estimate.pace = 0.0 if share == 1 else PACE * total / max(share, 1e-12)
    return any(estimate.pace for estimate in estimates)
