"""Which attempt comes next. One place decides, from facts only; the shells carry it out.

A request has one plan. The shell asks it for a ticket, carries the attempt out, tells it the outcome, and asks what
follows. The rules, in the order in which they are looked at:

1. A response ends it, unless its status is one to ask again for.
2. What may follow a failure is in the table of `outcome.py`: any method, idempotent methods, nothing.
3. The body has to be there a second time: only the shell knows.
4. A kept connection that turns out to have been closed while it was idle is nobody's fault: once in a request it is
   replaced by a fresh one to the same backend, for free.
5. The caller's deadline and the policy's `stop` may end it.
6. Next is a backend that was not tried. Only when there is none, one that was, after the policy's `wait` or what
   `Retry-After` asks for.
7. What adds load has to be paid for from the pool's budget. Going elsewhere with what was never sent adds none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tenacity import Future, RetryCallState

from lbclient.core.checks import check_flag, check_number
from lbclient.core.errors import NoBackendAvailable
from lbclient.core.outcome import Elsewhere, Ending, Outcome

if TYPE_CHECKING:
    from lbclient.core.facts import Facts, Header
    from lbclient.core.pool import Pool
    from lbclient.core.retry import Retry
    from lbclient.core.ticket import Ticket
    from lbclient.core.waiting import Place


SOON = 0.002  # seconds: timers may be early, and an attempt takes longer


class Step(NamedTuple):
    """What comes next.

    Attributes:
        ticket: Whom to try; None when that is to be asked (`again`) after the wait.
        wait: Seconds before it.
        fresh: It needs a connection that has not been idle.
    """

    ticket: Ticket | None
    wait: float = 0.0
    fresh: bool = False


class Attempts:
    """The attempts of one request: whom to try, whether to go on, and what there is to tell afterwards.

    Args:
        pool: Where the request goes.
        facts: The request's.
        now: The wall clock, for affinities.

    Attributes:
        replayable: Whether the body is one that can be sent a second time, however much of it was: the shell says.

    Raises:
        ValueError, TypeError: The request's own `deadline` or `idempotent` is none.
    """

    __slots__ = (
        "_cost",
        "_facts",
        "_free",
        "_now",
        "_round",
        "_seconds",
        "_tied",
        "deadline",
        "key",
        "log",
        "pool",
        "replayable",
        "skipped",
        "tickets",
    )

    def __init__(self, pool: Pool, facts: Facts, now: float) -> None:
        self.pool = pool
        options = facts.options
        self.key = pool.key_of(facts) if options or pool.reads_key else None
        self._cost = 1 if pool.cost is None else pool.cost_of(facts)
        self._facts = facts
        self._now = now
        self._round = 0  # the first ticket of this round: everybody is tried before anybody is tried again
        self._free = 0
        self._tied: str | None = None
        self.tickets: list[Ticket] = []
        self.log: list[tuple[Ticket, Outcome]] = []
        self.skipped: dict[str, str] = {}
        self._seconds = 0.0
        self.deadline: float | None = None
        self.replayable = True
        if options and (seconds := options.get("deadline")) is not None:
            self._seconds = check_number("deadline", seconds, above=0)
            self.deadline = pool.clock() + self._seconds
        if options and (idempotent := options.get("idempotent")) is not None:
            check_flag("idempotent", idempotent)

    # The deadline

    def left(self) -> float:
        """Seconds until the deadline; infinity when there is none."""
        return math.inf if self.deadline is None else self.deadline - self.pool.clock()

    def hurried(self, ticket: Ticket) -> bool:
        """Whether a timeout was the deadline's doing, and not the backend's: that had less than half of it."""
        return self.left() <= SOON and self.pool.clock() - ticket.started < self._seconds / 2

    # Whom to try

    def first(self, place: Place | None = None) -> Ticket:
        """The ticket of the first attempt: at the backend that the client is tied to, or whom the algorithm picks.

        Args:
            place: In the pool's queue, for those who have waited there.

        Raises:
            PoolFull: There is somebody as soon as a request ends; `pool.queue` is where to wait for that.
            NoBackendAvailable: There is nobody to try.
        """
        pool = self.pool
        affinity = pool.affinity
        # Without retries all requests are alike.
        again = self.would_follow if pool.most_attempts > 1 else None
        ticket = None
        if affinity is not None:
            url = affinity.tie(self._facts, pool.ties(), self._now)
            ticket = None if url is None else pool.pick_tied(url, self._cost)
            self._tied = None if ticket is None else url
        if ticket is None:
            try:
                ticket = pool.pick(self.key, place=place, cost=self._cost, again=again)
            except NoBackendAvailable:
                self.skipped = pool.skipped()
                raise
        if pool.budget is not None:
            pool.budget.deposit()
        self.tickets.append(ticket)
        return ticket

    def would_follow(self) -> bool:
        """Whether another attempt would follow the first if that failed, even with all of the request sent."""
        budget = self.pool.budget
        return (
            self.pool.most_attempts > 1
            and self.replayable
            and self.idempotent
            and (budget is None or budget.left > 0)
        )

    def others_left(self, ticket: Ticket) -> bool:
        """Whether another backend could be tried if this attempt fails."""
        made = len(self.tickets)
        return made < self.pool.most_attempts and ticket.snapshot.within_reach > made

    def observe(self, ticket: Ticket, outcome: Outcome) -> None:
        """Write down how an attempt ended."""
        self.log.append((ticket, outcome))
        hedging = self.pool.hedging
        if hedging is not None and outcome.ending is None and ticket is self.tickets[0]:
            hedging.observed(outcome.elapsed)

    def is_tied(self, ticket: Ticket) -> bool:
        """Whether it is for the backend that the client was tied to when the request began."""
        return ticket.state.url == self._tied

    def settle_on(self, ticket: Ticket) -> None:
        """Of several attempts beside each other, this is the one whose answer counts."""
        self.log.sort(key=lambda entry: entry[0] is ticket)

    @property
    def last(self) -> tuple[Ticket, Outcome] | None:
        """The attempt that decides what becomes of the request; None when none was made."""
        for entry in reversed(self.log):
            if entry[1].ending is not Ending.BEATEN:
                return entry
        return None

    def asks_again_after(self, status: int) -> bool:
        """Whether a response with this status may be followed by another attempt; `another` says if it is."""
        retry = self.pool.retry
        return retry is not None and status in retry.statuses

    def another(self, replayable: bool, error: Exception | None = None) -> Step | None:
        """What follows the attempt that was observed last; None when the request has to do with what it has got.

        Args:
            replayable: Whether the body can be sent once more.
            error: What it raised, for tenacity's policies. It is not kept: it will hold on to this plan.
        """
        retry = self.pool.retry
        assert self.last is not None
        ticket, outcome = self.last
        if retry is None or not replayable or not self._may_follow(retry, outcome):
            return None
        if self.left() <= SOON:
            return None
        if outcome.ending is Ending.STALE and not self._free:
            again = self.pool.pick_tied(ticket.state.url, self._cost)
            if again is not None:
                self._free = 1
                self.tickets.append(again)
                self.pool.telemetry.retried()
                return Step(again, fresh=True)
        state = self._call_state(outcome, error)
        if retry.stop(state):
            return None
        free = outcome.unsent
        if not free and not self._pay():
            return None
        other = self._retry_elsewhere()
        return self._second_round(retry, state, outcome, free) if other is None else Step(other)

    def _may_follow(self, retry: Retry, outcome: Outcome) -> bool:
        if outcome.ending is None and outcome.status not in retry.statuses:
            return False
        elsewhere = outcome.elsewhere
        return elsewhere is Elsewhere.ANY or (elsewhere is Elsewhere.IDEMPOTENT and self.idempotent)

    @property
    def idempotent(self) -> bool:
        """Whether the request may be carried out twice: the caller's word, or else its method's."""
        own = self._facts.options.get("idempotent")
        if own is not None:
            return bool(own)
        retry = self.pool.retry
        return retry is not None and self._facts.method in retry.methods and not self._only_once

    @property
    def _only_once(self) -> bool:
        """Whether it may not be carried out twice, whatever its method: the caller's word, or an `Upgrade`.

        A WebSocket's handshake is a GET, but what it opens at the server is not opened twice for nothing.
        """
        own = self._facts.options.get("idempotent")
        return not own if own is not None else self._facts.header("upgrade") is not None

    def _pay(self) -> bool:
        return self.pool.budget is None or self.pool.budget.withdraw()

    def _retry_elsewhere(self) -> Ticket | None:
        ticket = self._pick_untried()
        if ticket is not None:
            self.pool.telemetry.retried()
        return ticket

    def _pick_untried(self) -> Ticket | None:
        tried = {ticket.state.url for ticket in self.tickets[self._round :]}
        try:
            ticket = self.pool.pick(self.key, exclude=tried, cost=self._cost)
        except NoBackendAvailable:
            return None
        self.tickets.append(ticket)
        return ticket

    def _second_round(
        self, retry: Retry, state: RetryCallState, outcome: Outcome, was_free: bool
    ) -> Step | None:
        """Everybody was tried: somebody is tried again, after a wait. That is not free."""
        wait = float(retry.wait(state))
        if outcome.retry_after is not None:
            if outcome.retry_after > retry.max_retry_after:
                return None
            wait = max(wait, outcome.retry_after)
        state.upcoming_sleep = wait
        if retry.stop(state) or (was_free and not self._pay()):
            return None
        if self.left() <= wait:
            return None
        return Step(None, wait)

    def again(self) -> Ticket | None:
        """The ticket after a wait: anybody but the last one tried, if there is anybody else; None for nobody."""
        self._round = len(self.tickets) - 1
        other = self._retry_elsewhere()
        if other is None:
            self._round = len(self.tickets)
            other = self._retry_elsewhere()
        return other

    def _call_state(self, outcome: Outcome, error: Exception | None) -> RetryCallState:
        """The attempts so far as tenacity's policies want to see them."""
        number = len(self.tickets) - self._free
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]  # no policy asks for it
        state.attempt_number = number
        state.start_time = self.tickets[0].started
        state.outcome_timestamp = self.pool.clock()
        state.outcome = Future(number)
        if error is None:
            state.outcome.set_result(outcome.status)
        else:
            state.outcome.set_exception(error)
        return state

    # A second attempt beside the first

    def beside(self) -> Ticket | None:
        """A ticket for an attempt beside one that is still under way, at a backend that was not tried; or None."""
        if len(self.tickets) >= self.pool.most_attempts:
            return None
        return self._pick_untried()

    def hedge_delay(self) -> float | None:
        """Seconds after which a copy of this request is due; None for none at all."""
        hedging = self.pool.hedging
        if hedging is None or self._tied is not None or self._facts.method not in hedging.policy.methods:
            return None
        return None if self._only_once else hedging.delay()

    def copy(self) -> Ticket | None:
        """The ticket of a copy, paid for; None when it may not be made."""
        hedging = self.pool.hedging
        if hedging is None or not hedging.withdraw() or not self._pay():
            return None
        ticket = self._pick_untried()
        if ticket is not None:
            self.pool.telemetry.hedged()
        return ticket

    # What to tell the client

    def answer(self, headers: Sequence[Header]) -> Header | None:
        """What to add to the response, so that the client keeps to the backend that sent it."""
        affinity = self.pool.affinity
        if affinity is None:
            return None
        assert self.last is not None
        ticket, _ = self.last
        ticket.state.tied = True
        return affinity.answer(self._facts, ticket.state.url, headers, self._now)
