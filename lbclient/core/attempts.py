"""Which attempt comes next. One place decides, from facts only; the shells carry it out.

So far the plan of a request is failover: while it is proven that nothing was sent, any method may go to a backend that
was not tried yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbclient.core.errors import NoBackendAvailable
from lbclient.core.outcome import Outcome

if TYPE_CHECKING:
    from lbclient.core.facts import Facts
    from lbclient.core.pool import Pool
    from lbclient.core.ticket import Ticket

MOST_ATTEMPTS = 3


class Attempts:
    """The attempts of one request: whom to try, whether to go on, and what there is to tell afterwards."""

    __slots__ = ("key", "log", "pool", "skipped")

    def __init__(self, pool: Pool, facts: Facts) -> None:
        self.pool = pool
        self.key = pool.key_of(facts)
        self.log: list[tuple[Ticket, Outcome]] = []
        self.skipped: dict[str, str] = {}

    def first(self) -> Ticket:
        """The ticket of the first attempt.

        Raises:
            NoBackendAvailable: There is nobody to try.
        """
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
        return len(self.log) + 1 < MOST_ATTEMPTS and len(ticket.snapshot.candidates) > len(self.log) + 1

    def observe(self, ticket: Ticket, outcome: Outcome) -> None:
        """Write down how an attempt ended."""
        self.log.append((ticket, outcome))

    def another(self) -> Ticket | None:
        """The ticket of the next attempt; None when the request has to do with what it has got."""
        _, outcome = self.log[-1]
        if not outcome.unsent or len(self.log) >= MOST_ATTEMPTS:
            return None
        try:
            return self.pool.pick(self.key, exclude=self.tried)
        except NoBackendAvailable:
            return None
