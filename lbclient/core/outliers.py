"""Outlier detection: what an outcome does to a backend's health, given how the others are.

`Health` knows one backend and when its own numbers ask for an ejection. Whether that may be is decided here, because it
depends on the rest of the pool: never the last backend standing, and by the ratio at most a share of the pool.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from random import Random
from typing import NamedTuple

from lbclient.core.backend import BackendState
from lbclient.core.health import Passive, PassiveHealth
from lbclient.core.ticket import Ticket

EJECTION_JITTER = 0.1


class Change(NamedTuple):
    """Something about a backend's health changed; in words, for the log."""

    level: int
    words: str
    args: tuple[object, ...]


class OutlierDetector:
    """Takes backends out by what live requests showed, and back in.

    Args:
        policy: When, and for how long.
        rng: For the jitter, so that the ejections of many clients do not end at once.
    """

    __slots__ = ("policy", "rng")

    def __init__(self, policy: PassiveHealth, rng: Random) -> None:
        self.policy = policy
        self.rng = rng

    def judge(
        self,
        ticket: Ticket,
        everybody: Collection[BackendState],
        now: float,
        failed: bool | None,
        overload: bool,
        why: str,
        alone: bool = False,
    ) -> Change | None:
        """Let a backend's health know of an outcome.

        Args:
            ticket: Whose outcome it is.
            everybody: The pool.
            now: On the pool's clock.
            failed: None for an outcome that proves nothing.
            overload: It counts against the ratio only.
            why: The failure in words.
            alone: It is enough by itself.
        """
        health = ticket.state.health
        if ticket.epoch != health.epoch:
            return None  # a straggler from before an ejection began or ended
        if health.passive is Passive.TRIAL:
            return (
                self._end_trial(ticket.state, now, None if overload else failed, why)
                if ticket.trial
                else None
            )
        if health.passive is not Passive.IN or failed is None:
            return None
        reason = health.record(self.policy, now, failed, overload) or ("consecutive" if alone else None)
        if reason is None or not self._may_eject(ticket.state, everybody, reason):
            return None
        if alone:
            words = why
        elif reason == "consecutive":
            words = f"{health.failures_in_a_row} failures in a row, the last: {why}"
        else:
            words = f"over {self.policy.failure_ratio:.0%} of its requests failed, the last: {why}"
        health.eject(self.policy, now, self._jitter(), words)
        return Change(logging.WARNING, "ejected for %.1f s: %s", (health.ejected_for(now), words))

    def hold(
        self,
        ticket: Ticket,
        everybody: Collection[BackendState],
        now: float,
        seconds: float,
        why: str,
    ) -> Change | None:
        """Leave a backend alone for a while, unless it is the last one standing or out already.

        A straggler holds nobody back: the backend was ejected and has proven itself since its request began.
        """
        state = ticket.state
        if ticket.epoch != state.health.epoch or state.health.passive is not Passive.IN:
            return None
        if not others_stand(state, everybody):
            return None
        seconds = min(seconds, self.policy.max_ejection)
        state.health.hold(now + seconds, why)
        return Change(logging.INFO, "held back for %.1f s: %s", (seconds, why))

    def _end_trial(self, state: BackendState, now: float, failed: bool | None, why: str) -> Change:
        health = state.health
        health.end_trial(
            None if failed is None else not failed, self.policy, now, self._jitter(), f"trial: {why}"
        )
        if failed is None:
            return Change(logging.DEBUG, "its trial proved nothing; the next request tries", ())
        if failed:
            words = "ejected for %.1f s: its trial failed: %s"
            return Change(logging.WARNING, words, (health.ejected_for(now), why))
        return Change(logging.INFO, "back in: its trial succeeded", ())

    def _may_eject(self, state: BackendState, everybody: Collection[BackendState], reason: str) -> bool:
        if not others_stand(state, everybody):
            return False
        if reason == "consecutive":
            return True
        out = sum(1 for other in everybody if other.health.passive is not Passive.IN)
        return out + 1 <= self.policy.max_ejected * len(everybody)

    def _jitter(self) -> float:
        return 1 + EJECTION_JITTER * (2 * self.rng.random() - 1)


def others_stand(state: BackendState, everybody: Collection[BackendState]) -> bool:
    """Whether it would not be the last one standing that goes."""
    return any(s.health.standing and s is not state and s.backend.weight > 0 for s in everybody)
