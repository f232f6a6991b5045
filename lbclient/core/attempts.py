"""Which attempt comes next. One place decides, from facts only; the shells carry it out.

So far the plan of a request is failover: while it is proven that nothing was sent, any method may go to a backend that
was not tried yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lbclient.core.errors import NoBackendAvailable
from lbclient.core.outcome import Outcome

if TYPE_CHECKING:
    from lbclient.core.facts import Facts, Header
    from lbclient.core.pool import Pool
    from lbclient.core.ticket import Ticket

MOST_ATTEMPTS = 3


class Attempts:
    """The attempts of one request: whom to try, whether to go on, and what there is to tell afterwards."""

    __slots__ = ("_facts", "_now", "key", "log", "pool", "skipped", "sticky")

    def __init__(self, pool: Pool, facts: Facts, now: float) -> None:
        self.pool = pool
        self.key = pool.key_of(facts)
        self.sticky = False
        self._facts = facts
        self._now = now
        self.log: list[tuple[Ticket, Outcome]] = []
        self.skipped: dict[str, str] = {}

    def first(self) -> Ticket:
        """The ticket of the first attempt: at the backend that the client is tied to, or whom the algorithm picks.

        Raises:
            NoBackendAvailable: There is nobody to try.
        """
        affinity = self.pool.affinity
        if affinity is not None:
            url = affinity.tie(self._facts, self.pool.ties(), self._now)
            ticket = None if url is None else self.pool.pick_tied(url)
            if ticket is not None:
                self.sticky = True
                return ticket
        try:
            return self.pool.pick(self.key)
        except NoBackendAvailable:
            self.skipped = self.pool.skipped()
            raise

    @property
    def tried(self) -> frozenset[str]:
        """The URLs of the backends that attempts went to."""
        return frozenset(ticket.state.url for ticket, _ in self.log)

    def others_left(self, ticket: Ticket) -> bool:
        """Whether another backend could be tried if this attempt fails."""
        return len(self.log) + 1 < MOST_ATTEMPTS and _within_reach(ticket) > len(self.log) + 1

    def observe(self, ticket: Ticket, outcome: Outcome) -> None:
        """Write down how an attempt ended."""
        self.log.append((ticket, outcome))

    def another(self) -> Ticket | None:
        """The ticket of the next attempt; None when the request has to do with what it has got."""
        _, outcome = self.log[-1]
        if not outcome.unsent or len(self.log) >= MOST_ATTEMPTS:
            return None
        self.sticky = False
        try:
            return self.pool.pick(self.key, exclude=self.tried)
        except NoBackendAvailable:
            return None

    @property
    def strip(self) -> str | None:
        """The cookie that is between client and balancer, and not sent on."""
        return None if self.pool.affinity is None else self.pool.affinity.strip

    def answer(self, headers: Sequence[Header]) -> Header | None:
        """What to add to the response, so that the client keeps to the backend that sent it."""
        affinity = self.pool.affinity
        if affinity is None:
            return None
        ticket, _ = self.log[-1]
        ticket.state.tied = True
        return affinity.answer(self._facts, ticket.state.url, headers, self._now)


def _within_reach(ticket: Ticket) -> int:
    return len(ticket.snapshot.candidates) + len(ticket.snapshot.reserve)
