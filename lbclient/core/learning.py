"""What a pool learns of its backends: from its tickets, from other processes, from the pool whose place it takes.

`Membership` says who there is, `Pool` picks among them; in between is everything that live requests tell, which
algorithms, passive health, limits and the status go by. All of it happens under the membership's lock.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random

from lbclient.core.backend import BackendState
from lbclient.core.health import Admin, Check, PassiveHealth
from lbclient.core.members import BackendLike
from lbclient.core.membership import Membership
from lbclient.core.outcome import BACKEND_S_FAULT, Failure
from lbclient.core.outliers import Change, OutlierDetector, others_stand
from lbclient.core.probes import HttpProbe, TcpProbe
from lbclient.core.snapshot import Rules
from lbclient.core.source import Source
from lbclient.core.telemetry import Telemetry
from lbclient.core.ticket import Answer, Ticket
from lbclient.core.waiting import Queue

ASK_FOR_TIME = frozenset({429, 503})
BEATEN_TIMEOUTS = 5  # connect timeouts for which the loser of a race to connect is left alone
TOLD_AFTER = 5  # failures in a row: where nobody is ejected, the log has it when somebody would have been
TOLD_EVERY = 10.0  # seconds, at most: some fail by turns
LATENCY_SHARE = 0.2  # of the newest answer in the status's moving average
_FIRST_OVERLOAD = 429  # no lower status says anything against a backend, unless the caller says which do
_CHECKS = (Check.UNKNOWN, Check.PASSING, Check.FAILING)
DEFAULT_PASSIVE = PassiveHealth()  # also what counts as a failure where there is no passive health


class Learning(Membership):
    """A membership that live requests tell about its backends.

    Args:
        backends: See `Membership`, as for `initial`, `name`, `rules`, `probe`, `clock` and `rng`.
        initial: Who serves until the source has said it.
        name: For the logs and the messages.
        rules: What decides who may be picked.
        probe: Whose thresholds probe results go by.
        passive: When live requests take a backend out; None for never.
        heeds: Whether `Retry-After` holds a backend back also where there is no passive health.
        connect_timeout: Seconds that connecting may take.
        max_pending: Requests that may wait for room; None where nothing is limited.
        clock: Seconds that never go back.
        rng: Where random choices come from.
    """

    def __init__(
        self,
        backends: Iterable[BackendLike] | Source,
        *,
        initial: Iterable[BackendLike] | None,
        name: str,
        rules: Rules,
        probe: HttpProbe | TcpProbe | None,
        passive: PassiveHealth | None,
        heeds: bool,
        connect_timeout: float,
        max_pending: int | None,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        super().__init__(backends, initial=initial, name=name, rules=rules, probe=probe, clock=clock, rng=rng)
        self.passive = passive
        self.telemetry = Telemetry()
        self.queue = None if max_pending is None else Queue(name, max_pending)
        if self.queue is not None:
            self.subscribe(self.queue.stir)
        self._connect_timeout = connect_timeout
        self._in_flight = 0
        self._abandoned: deque[Ticket] = deque()
        self._outliers = None if passive is None else OutlierDetector(passive, rng)
        self._holds = OutlierDetector(DEFAULT_PASSIVE, rng) if passive is None and heeds else self._outliers

    # What tickets tell (Ticket is the only caller)

    def ticket_answered(self, ticket: Ticket, latency: float, status: int, retry_after: float | None) -> None:
        """The response headers of `ticket` came."""
        policy = self.passive or DEFAULT_PASSIVE
        if status < _FIRST_OVERLOAD and policy.failure_statuses is None:
            failed = overload = False
        else:
            failed, overload = policy.is_failure(status), policy.is_overload(status)
        now = self.clock()
        with self._lock:
            if not ticket.open or ticket.answer is not None:
                return
            state = ticket.state
            state.waiting.remove(ticket.started)
            refused = self._snapshot.refused
            if overload and refused is not None:
                refused(state, latency, now)
            else:
                self._observe(state, latency, failed, now)
            if failed:
                ticket.answer = Answer.FAILURE
                state.failures += 1
            else:
                ticket.answer = Answer.OVERLOAD if overload else Answer.GOOD
                seen = state.latency
                state.latency = latency if seen is None else seen + LATENCY_SHARE * (latency - seen)
                if state.failed_in_a_row:
                    self._answers_again(state, now)
            if failed or overload or ticket.trial:
                self._judge(ticket, now, failed, overload, f"status {status}")
            if retry_after and self._holds is not None and policy.retry_after and status in ASK_FOR_TIME:
                everybody, why = self._states.values(), "it sent Retry-After"
                self._took_effect(state, now, self._holds.hold(ticket, everybody, now, retry_after, why))
        if self._news.items:
            self._news.tell()
        for listener in self.telemetry.listeners:
            listener(state.url, latency, status)

    def ticket_ended(self, ticket: Ticket, kind: Failure | None, latency: float | None) -> None:
        """`ticket` is over: with a failure of this kind, or (None) with whatever its response was."""
        with self._lock:
            if not ticket.open:
                return
            ticket.open = False
            state = ticket.state
            state.in_flight -= ticket.size
            self._in_flight -= ticket.size
            if state.in_flight < 0:
                self._in_flight += ticket.size  # it was the parent's, before a fork, and is not among ours
                return
            snapshot = self._snapshot
            if snapshot.ended is not None:
                snapshot.ended(state)
            answer = ticket.answer
            if answer is None:
                state.waiting.remove(ticket.started)
            if answer is Answer.FAILURE:
                pass  # its status has been charged
            elif kind in BACKEND_S_FAULT:
                state.failures += 1
                now = self.clock()
                took = now - ticket.started if latency is None else latency
                self._observe(state, took, True, now)
                # A connection that nobody took costs each request this much: once is enough.
                alone = kind == "connect" and took >= self._connect_timeout
                why = f"no connection within {took:.1f} s" if alone else str(kind)
                self._judge(ticket, now, True, why=why, alone=alone)
            elif kind is None or answer is not None:
                state.successes += 1
                if kind is None and answer is Answer.GOOD and self._outliers is not None:
                    self._judge(ticket, self.clock(), False)
            elif ticket.trial:
                self._judge(ticket, self.clock(), None)
            if not state.in_flight and state.health.admin is Admin.DRAINING:
                self._log(logging.INFO, "nothing in flight any more", state)
        if self._news.items:
            self._news.tell()
        if self.queue:
            self.queue.stir()
        if self._abandoned:
            self._end_abandoned()

    def ticket_abandoned(self, ticket: Ticket) -> None:
        """Nobody holds `ticket` any more; said by a finalizer.

        Those run wherever memory is allocated, also in a thread that has our lock. Then the ticket has to wait until
        the lock is free: whoever is at work ends it a moment later.
        """
        self._abandoned.append(ticket)
        if not self._lock.locked() and (self.queue is None or not self.queue.busy):
            self._end_abandoned()

    def _end_abandoned(self) -> None:
        while self._abandoned:
            with suppress(IndexError):  # another thread was faster
                self._abandoned.popleft().release()

    def ticket_reported(self, ticket: Ticket, in_flight: float) -> None:
        """The backend of `ticket` said how many requests it has in flight."""
        now = self.clock()
        with self._lock:
            reported = self._snapshot.reported
            if reported is not None:
                reported(ticket.state, in_flight, now)

    def ticket_beaten(self, ticket: Ticket) -> None:
        """Another backend took a connection while `ticket`'s, which had been asked before, did not."""
        now = self.clock()
        with self._lock:
            if ticket.open and self._outliers is not None:
                seconds = BEATEN_TIMEOUTS * self._connect_timeout
                words = "another backend took a connection sooner"
                held = self._outliers.hold(ticket, self._states.values(), now, seconds, words)
                self._took_effect(ticket.state, now, held)
            if ticket.open:
                self._observe(ticket.state, now - ticket.started, True, now)
        self.ticket_ended(ticket, "cancelled", None)

    def _observe(self, state: BackendState, latency: float, failed: bool, now: float) -> None:
        observed = self._snapshot.observed
        if observed is not None:
            observed(state, latency, failed, now)

    def _fails(self, state: BackendState, now: float, why: str) -> None:
        """A request failed where nobody is ejected: nothing else would say in the log that a backend is gone."""
        state.failed_in_a_row += 1
        if state.failed_in_a_row >= TOLD_AFTER and not state.told and now >= state.told_at + TOLD_EVERY:
            state.told, state.told_at = True, now
            self._log(
                logging.WARNING, "%d failures in a row, the last: %s", state, state.failed_in_a_row, why
            )

    def _answers_again(self, state: BackendState, now: float) -> None:
        if state.told:
            words = "answers again: after %.1f s and %d failures in a row"
            self._log(logging.INFO, words, state, now - state.told_at, state.failed_in_a_row)
        state.failed_in_a_row = 0
        state.told = False

    def _judge(
        self,
        ticket: Ticket,
        now: float,
        failed: bool | None,
        overload: bool = False,
        why: str = "",
        alone: bool = False,
    ) -> None:
        if self._outliers is not None:
            everybody = self._states.values()
            change = self._outliers.judge(ticket, everybody, now, failed, overload, why, alone)
            self._took_effect(ticket.state, now, change)
        elif failed:
            self._fails(ticket.state, now, why)

    def _took_effect(self, state: BackendState, now: float, change: Change | None) -> None:
        if change is not None:
            self._log(change.level, change.words, state, *change.args)
            self._publish(now)

    # What others know

    def inherit(self, other: Learning) -> None:
        """Begin with what another pool has learned of the backends that both have.

        Taken over are what operators said of them, their health as far as this pool looks after it, latencies and
        counts; not what is in flight there. For a pool that takes the place of one with other options.
        """
        checked, judged = self.probe is not None, self.passive is not None
        with other._lock:
            known = {
                url: (state, state.health.carried_over(checked=checked, judged=judged))
                for url, state in other._states.items()
            }
        with self._lock:
            for url, state in self._states.items():
                if url in known:
                    before, state.health = known[url]
                    state.picks, state.successes = before.picks, before.successes
                    state.failures, state.latency = before.failures, before.latency
                    state.tied = before.tied
            self._publish(self.clock())
        self._news.tell()

    def findings(self) -> dict[str, tuple[int, float]]:
        """What this process has found out about each backend: its check (0 unknown, 1 passing, 2 failing), and until
        when it is ejected (0: it is not).
        """
        with self._lock:
            return {url: _finding(state) for url, state in self._states.items()}

    def learn(self, url: str, check: int | None, ejected_until: float | None) -> tuple[int, float] | None:
        """What another process has found out about a backend, as its `findings` say it; None for what is no news.

        Returns:
            What that comes to here: the last backend standing is not ejected. None when there is no such backend.
        """
        now = self.clock()
        with self._lock:
            state = self._states.get(url)
            if state is None:
                return None
            health = state.health
            if check is not None and health.check is not _CHECKS[check]:
                if health.check is Check.FAILING:
                    health.ramp_since = now
                health.check = _CHECKS[check]
                self._log(logging.INFO, "probe %s, says another process", state, health.check.value)
            if ejected_until is not None:
                longer = ejected_until > max(now, health.ejected_until if health.out else 0.0)
                if longer and (health.out or others_stand(state, self._states.values())):
                    health.eject_until(ejected_until, "another process ejected it")
                    self._log(logging.WARNING, "ejected by another process", state)
                elif not ejected_until and health.out:
                    health.let_in(now)
                    self._log(logging.INFO, "let back in by another process", state)
            self._publish(now)
            finding = _finding(state)
        self._news.tell()
        return finding


def _finding(state: BackendState) -> tuple[int, float]:
    health = state.health
    return _CHECKS.index(health.check), health.ejected_until if health.out else 0.0
