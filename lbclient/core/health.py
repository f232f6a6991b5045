"""The health of one backend: three facts, and the one place where they change.

What is known of a backend comes from three sources that know nothing of each other, so there are three separate
facts, and its status is derived from them and never stored:

    admin     what the operator said:       ACTIVE  DRAINING  STANDBY  DISABLED
    check     what the active probes say:   UNKNOWN  PASSING  FAILING
    passive   what live requests showed:    IN  EJECTED  HALF_OPEN  TRIAL

A backend is *available* when admin is ACTIVE, check is not FAILING and passive is not EJECTED. (TRIAL is decided by
the pool, see below.) A shallow `/health` that passes does not cancel an ejection: it only says that the process runs.

The passive machine
-------------------

            failures in a row, or too many of the window          the ejection ends
    IN ----------------------------------------------> EJECTED ----------------------> HALF_OPEN
     ^                                                    ^                              |    ^
     |  the trial succeeds                                | the trial fails      picked  |    | the trial proves
     +----------------------------------- TRIAL ----------+                              |    | nothing
                                            ^  |                                         |    |
                                            |  +---------------------------------------- | ---+
                                            +--------------------------------------------+

* An ejection lasts `min(base x k, max)`, jittered, k being the ejections so far; k falls by one per clean `base`
  seconds, counted outside ejections only. (Envoy's outlier detection.)
* When it ends exactly one request tries the backend: HALF_OPEN is pickable, TRIAL is not until that request ends.
* Every change of the passive fact starts a new *epoch*. A ticket remembers the epoch it was picked in, and an outcome
  from another epoch changes nothing here: stragglers neither open nor close an ejection.
* The failures in a row are cleared by one success, the window is not; and the window is made of exact buckets, because
  in a moving average a tight burst has almost no weight and an idle time has none. (linkerd's success rate breaker.)
* `Retry-After` is a server's own word: it holds the backend back without a count and without a trial after it. That of
  a straggler does not: it was asked for by a request from before the trial that brought the backend back.

Rules for whoever edits this
----------------------------

1. Nothing here reads a clock or draws a number: `now` and `jitter` are arguments.
2. Nothing here knows the other backends. That the last one standing is never ejected, and how many may be, is for the
   pool to say: `record` answers *whether* to eject, the pool decides, `eject` does it.
3. A change that time brings is found by asking (`settle`), never by a timer. `settle` is idempotent.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass

from lbclient.core.checks import check_flag, check_fraction, check_number, check_statuses, check_whole

_NEVER = math.inf
_NOT_FAILURES = frozenset({501, 505})  # "not implemented" and "version not supported" are about the request
_TOO_MANY_REQUESTS = 429
BUCKETS = 10
RAMP_FLOOR = 0.1
RAMP_STEPS = 10


class Admin(enum.Enum):
    """What the operator said."""

    ACTIVE = "active"
    DRAINING = "draining"
    STANDBY = "standby"
    DISABLED = "disabled"


class Check(enum.Enum):
    """What the active probes say."""

    UNKNOWN = "unknown"
    PASSING = "passing"
    FAILING = "failing"


class Passive(enum.Enum):
    """What live requests showed."""

    IN = "in"
    EJECTED = "ejected"
    HALF_OPEN = "half-open"
    TRIAL = "trial"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassiveHealth:
    """When live traffic takes a backend out, and for how long.

    Args:
        consecutive_failures: Failures in a row that eject; >= 1.
        failure_ratio: The share of failed requests in the window above which a backend is ejected; 0 to 1. The
            comparison is strict: exactly this share does not eject.
        min_requests: Requests in the window below which the ratio is not looked at; >= 1.
        window: Seconds that the ratio looks back, in ten exact buckets; > 0.
        base_ejection: Seconds of the first ejection; > 0. The k-th lasts k times as long.
        max_ejection: Seconds that no ejection, and no `Retry-After`, exceeds; >= base_ejection.
        max_ejected: The share of the pool that the *ratio* may have ejected at a time; 0 to 1. Failures in a row are
            not bound by it. Neither ever ejects the last backend standing.
        failure_statuses: Response statuses that are failures; by default all 5xx but 501 and 505. By default 429 counts
            against the ratio only.
        retry_after: Whether a 429 or 503 with `Retry-After` holds the backend back that long.

    Raises:
        ValueError, TypeError: A value is out of its range.

    The machine is Envoy's outlier detection with linkerd's window and a half-open trial.
    """

    consecutive_failures: int = 5
    failure_ratio: float = 0.5
    min_requests: int = 20
    window: float = 10.0
    base_ejection: float = 30.0
    max_ejection: float = 300.0
    max_ejected: float = 0.5
    failure_statuses: Collection[int] | None = None
    retry_after: bool = True

    def __post_init__(self) -> None:
        check_whole("consecutive_failures", self.consecutive_failures, at_least=1)
        check_fraction("failure_ratio", self.failure_ratio)
        check_whole("min_requests", self.min_requests, at_least=1)
        check_number("window", self.window, above=0)
        check_number("base_ejection", self.base_ejection, above=0)
        check_number("max_ejection", self.max_ejection, above=0)
        check_fraction("max_ejected", self.max_ejected)
        check_flag("retry_after", self.retry_after)
        if self.max_ejection < self.base_ejection:
            raise ValueError(
                f"max_ejection is {self.max_ejection}; write at least base_ejection ({self.base_ejection})"
            )
        if self.failure_statuses is not None:
            check_statuses("failure_statuses", self.failure_statuses)
            object.__setattr__(self, "failure_statuses", frozenset(self.failure_statuses))

    def is_failure(self, status: int) -> bool:
        """Whether a response with this status counts against the backend that sent it."""
        if self.failure_statuses is None:
            return status >= 500 and status not in _NOT_FAILURES
        return status in self.failure_statuses

    def is_overload(self, status: int) -> bool:
        """Whether it counts against the ratio only: the backend works, and has too much to do."""
        return status == _TOO_MANY_REQUESTS and self.failure_statuses is None

    def ejection_seconds(self, k: int) -> float:
        """How long the k-th ejection in a row lasts, before jitter."""
        return min(self.base_ejection * k, self.max_ejection)


class Window:
    """Successes and failures of the last seconds, in exact buckets: what is older than the window has no weight."""

    __slots__ = ("_bad", "_bucket", "_good", "_width", "bad", "good")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._bucket = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._good = [0] * BUCKETS
        self._bad = [0] * BUCKETS
        self.good = self.bad = 0

    def add(self, now: float, failed: bool) -> None:
        """Count one outcome."""
        slot = self._turn(now)
        if failed:
            self._bad[slot] += 1
            self.bad += 1
        else:
            self._good[slot] += 1
            self.good += 1

    def failure_ratio(self, now: float, at_least: int) -> float:
        """The share of failures in the window; 0 when it holds fewer than `at_least` outcomes."""
        self._turn(now)
        total = self.good + self.bad
        return self.bad / total if total >= at_least else 0.0

    def _turn(self, now: float) -> int:
        bucket = int(now / self._width)
        ahead = bucket - self._bucket
        if ahead > 0:
            for stale in range(self._bucket + 1, self._bucket + 1 + min(ahead, BUCKETS)):
                slot = stale % BUCKETS
                self.good -= self._good[slot]
                self.bad -= self._bad[slot]
                self._good[slot] = self._bad[slot] = 0
            self._bucket = bucket
        return self._bucket % BUCKETS


class Health:
    """The three facts of one backend."""

    __slots__ = (
        "_check_run",
        "_clean_since",
        "_window",
        "admin",
        "check",
        "drain_until",
        "ejected_ever",
        "ejected_until",
        "ejections",
        "epoch",
        "failures_in_a_row",
        "passive",
        "ramp_since",
        "reason",
        "trial_after",
    )

    def __init__(self, epoch: int = 0) -> None:
        self.admin = Admin.ACTIVE
        self.check = Check.UNKNOWN
        self.passive = Passive.IN
        self.epoch = epoch
        self.ejected_ever = 0
        self.ejections = 0  # k, the multiplier of the next ejection is one more
        self.ejected_until = 0.0
        self.trial_after = True
        self.reason = ""  # why it was ejected last
        self.failures_in_a_row = 0
        self.drain_until = _NEVER
        self.ramp_since: float | None = None
        self._check_run = 0
        self._clean_since = 0.0
        self._window: Window | None = None

    def carried_over(self, *, checked: bool, judged: bool) -> Health:
        """A copy for another pool, less what nothing there would ever correct.

        Args:
            checked: Whether the other pool has a probe.
            judged: Whether live requests eject there.
        """
        copy = deepcopy(self)
        if not checked:
            copy.check = Check.UNKNOWN
        if not judged:
            copy.passive = Passive.IN
        elif copy.passive is Passive.TRIAL:
            copy.passive = Passive.HALF_OPEN  # the one request that tries it is the old pool's
        return copy

    # What it comes to

    @property
    def available(self) -> bool:
        """Whether anything speaks against a pick."""
        return (
            self.admin is Admin.ACTIVE
            and self.check is not Check.FAILING
            and (self.passive is Passive.IN or self.passive is Passive.HALF_OPEN)
        )

    @property
    def fit(self) -> bool:
        """Whether neither its probes nor live requests speak against it, whatever the operator said."""
        return self.check is not Check.FAILING and self.passive is Passive.IN

    @property
    def standing(self) -> bool:
        """Whether it serves and nothing casts doubt on it: what may be the last one."""
        return self.admin is Admin.ACTIVE and self.fit

    def ejected_for(self, now: float) -> float:
        """Seconds until the ejection ends; 0 when it is not ejected."""
        return max(0.0, self.ejected_until - now) if self.passive is Passive.EJECTED else 0.0

    def describe(self, now: float) -> str:
        """The state in words, as the record and the logs say it."""
        if self.admin is not Admin.ACTIVE:
            return str(self.admin.value)
        if self.check is Check.FAILING:
            return "failing its probe"
        if self.passive is Passive.EJECTED:
            return f"ejected for {self.ejected_for(now):.1f} s more ({self.reason})"
        if self.passive is Passive.TRIAL:
            return "waiting for its trial request"
        return "half-open" if self.passive is Passive.HALF_OPEN else "available"

    # Time

    def settle(self, now: float) -> bool:
        """Carry out what time has brought: an ejection or a drain that ended. True when something changed."""
        changed = False
        if self.passive is Passive.EJECTED and now >= self.ejected_until:
            if self.trial_after:
                self._enter(Passive.HALF_OPEN)
            else:
                self.passive = Passive.IN  # it was only held back: its count of failures in a row goes on
            changed = True
        if self.admin is Admin.DRAINING and now >= self.drain_until:
            self.admin = Admin.DISABLED
            changed = True
        return changed

    def changes_at(self) -> float:
        """When `settle` will next have something to do."""
        at = self.ejected_until if self.passive is Passive.EJECTED else _NEVER
        return min(at, self.drain_until) if self.admin is Admin.DRAINING else at

    def ramp(self, now: float, seconds: float) -> float:
        """The share of its weight that slow start grants: linear from a tenth. 1 when the ramp is over.

        Envoy's slow start with aggression 1; restarts after every recovery.
        """
        if self.ramp_since is None:
            return 1.0
        share = max(RAMP_FLOOR, (now - self.ramp_since) / seconds)
        if share >= 1:
            self.ramp_since = None
            return 1.0
        return share

    # Active checks

    def probed(self, passed: bool, healthy_threshold: int, unhealthy_threshold: int, now: float) -> bool:
        """One probe result. True when the check's fact changed.

        The first result ever counts alone, either way; later ones by the thresholds, and any opposite result
        restarts the count. (Envoy's health checker.)
        """
        verdict = Check.PASSING if passed else Check.FAILING
        if self.check is verdict:
            self._check_run = 0
            return False
        if self.check is not Check.UNKNOWN:
            self._check_run += 1
            if self._check_run < (healthy_threshold if passed else unhealthy_threshold):
                return False
        if self.check is Check.FAILING:
            self.ramp_since = now
        self.check = verdict
        self._check_run = 0
        return True

    # Live requests

    def record(self, policy: PassiveHealth, now: float, failed: bool, overload: bool = False) -> str | None:
        """Count an outcome of this epoch; why to eject, when it is time to.

        Stragglers (another epoch, or no longer IN) are the caller's to keep away.
        """
        window = self._window
        if window is None:
            window = self._window = Window(policy.window)
        window.add(now, failed or overload)
        if not failed and not overload:
            self.failures_in_a_row = 0
            return None
        self._forgive(policy, now)
        if failed:
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= policy.consecutive_failures:
                return "consecutive"
        return "ratio" if window.failure_ratio(now, policy.min_requests) > policy.failure_ratio else None

    def eject(self, policy: PassiveHealth, now: float, jitter: float, reason: str) -> None:
        """Out, for longer each time; `jitter` is a factor around 1."""
        self._forgive(policy, now)
        self.ejections += 1
        self.ejected_ever += 1
        self.ejected_until = now + policy.ejection_seconds(self.ejections) * jitter
        self.reason = reason
        self.trial_after = True
        self._enter(Passive.EJECTED)

    @property
    def out(self) -> bool:
        """Whether live requests have taken it out, and it has not proven itself since."""
        return self.passive is not Passive.IN and self.trial_after

    def eject_until(self, until: float, reason: str) -> None:
        """Out until a moment that another process has decided; a trial follows."""
        self.ejected_ever += 1
        self.ejected_until = until
        self.reason = reason
        self.trial_after = True
        self._enter(Passive.EJECTED)

    def let_in(self, now: float) -> None:
        """In again: another process has tried it."""
        self._enter(Passive.IN)
        self._clean_since = now
        self.ramp_since = now

    def hold(self, until: float, reason: str) -> None:
        """Out until a moment that the server named; no count, and no trial after it."""
        self.ejected_until = until
        self.reason = reason
        self.trial_after = False
        self.passive = Passive.EJECTED  # in the same epoch

    def begin_trial(self) -> None:
        """The one request that tries the backend was picked."""
        self.passive = Passive.TRIAL

    def end_trial(
        self, verdict: bool | None, policy: PassiveHealth, now: float, jitter: float, reason: str
    ) -> None:
        """The trial succeeded, failed, or (None) proved nothing, so that the next request may try."""
        if verdict is None:
            self.passive = Passive.HALF_OPEN
        elif verdict:
            self._enter(Passive.IN)
            self._clean_since = now
            self.ramp_since = now
        else:
            self._clean_since = now
            self.eject(policy, now, jitter, reason)

    def _forgive(self, policy: PassiveHealth, now: float) -> None:
        """K falls by one for every whole `base` that passed without a failure, outside ejections."""
        self.ejections = max(0, self.ejections - int((now - self._clean_since) / policy.base_ejection))
        self._clean_since = now

    def _enter(self, passive: Passive) -> None:
        self.passive = passive
        self.epoch += 1
        self.failures_in_a_row = 0
        if self._window is not None:
            self._window.clear()
