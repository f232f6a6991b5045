"""The record of a request: who served it, after which attempts, and why.

Explaining must not cost a request that nobody asks about, so a `Record` holds on to what the attempts left behind and
makes something readable of it when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lbclient.core.outcome import Ending, Outcome

if TYPE_CHECKING:
    from lbclient.core.attempts import Attempts
    from lbclient.core.ticket import Ticket


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes:
        backend: Whom it went to.
        outcome: The response's status, or how it failed.
        elapsed: Seconds from the pick to the response headers or to the failure.
        reason: Why this backend.
        candidates: Who could have been picked, in declared order.
        loads: In flight at each candidate at that moment, in the same order; empty in large pools.
        skipped: Who could not be picked, and why.
        costs: What the algorithm compared, in the order of the candidates: under `Adaptive` the time that it
            expected of each, in mean latencies of the pool, None for who took no part. Empty where it compares only
            `loads`, and in large pools.
        drawn: The number that decided (a random draw, a position, a hash): with `candidates` and `loads` it replays
            the pick.
        generation: The snapshot that was picked from.
    """

    backend: str
    outcome: str
    elapsed: float
    reason: str
    candidates: tuple[str, ...]
    loads: tuple[int, ...]
    skipped: Mapping[str, str]
    drawn: float | None
    generation: int
    costs: tuple[float | None, ...] = ()


class Record:
    """`response.extensions["lbclient"]`, and `exc.lbclient` on errors.

    Attributes:
        pool: The pool's name.
    """

    __slots__ = ("__dict__", "_plan", "pool")

    def __init__(self, plan: Attempts) -> None:
        self._plan = plan
        self.pool = plan.pool.name

    @property
    def sticky(self) -> bool:
        """Whether the client was tied to the backend that answered."""
        last = self._plan.last
        return last is not None and self._plan.is_tied(last[0])

    @property
    def backend(self) -> str | None:
        """The URL of the backend that answered, or was tried last; None when nobody could be picked."""
        last = self._plan.last
        return None if last is None else last[0].state.url

    @property
    def tried(self) -> int:
        """How many attempts were made."""
        return len(self._plan.log)

    @property
    def seed(self) -> int | None:
        """The seed of the pool's random numbers; None when the caller brought its own."""
        return self._plan.pool.seed

    @cached_property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt, the one that answered last."""
        because = str(getattr(self._plan.pool.algorithm, "because", "the algorithm's choice"))
        tried: list[str] = []
        attempts: list[Attempt] = []
        before: Ending | None = None
        for ticket, outcome in self._plan.log:
            url = ticket.state.url
            reason = "the client is tied to it" if self._plan.is_tied(ticket) else because
            if url in tried and before is Ending.STALE and url == tried[-1]:
                reason = "once more, over a fresh connection: the one that was kept had been closed"
                tried.remove(url)
            elif url in tried:
                reason += "; after a wait, since everybody had been tried"
                tried = [last for last in tried[-1:] if last != url]
            attempts.append(_describe(ticket, outcome, reason, tried))
            tried.append(url)
            before = outcome.ending
        return tuple(attempts)

    def explain(self) -> str:
        """A few lines for a person."""
        plan = self._plan
        lines = [f"pool {self.pool}: {len(plan.log)} attempt{'' if len(plan.log) == 1 else 's'}"]
        for number, attempt in enumerate(self.attempts, 1):
            took = f"{attempt.elapsed * 1000:.1f} ms"
            lines.append(f"  {number}. {attempt.backend}: {attempt.outcome} after {took}; {attempt.reason}")
            if attempt.loads:
                pairs = zip(attempt.candidates, attempt.loads, strict=True)
                lines.append("     in flight: " + ", ".join(f"{url} {load}" for url, load in pairs))
            else:
                lines.append(f"     of {len(attempt.candidates)} candidates")
            if attempt.costs:
                costs = zip(attempt.candidates, attempt.costs, strict=True)
                lines.append("     expected: " + ", ".join(f"{url} {_in_means(c)}" for url, c in costs))
            lines.extend(f"     not {url}: {why}" for url, why in attempt.skipped.items())
        if not plan.log:
            lines.extend(f"  not {url}: {why}" for url, why in plan.skipped.items())
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """The same as plain data, ready for JSON."""
        return {
            "backend": self.backend,
            "pool": self.pool,
            "sticky": self.sticky,
            "seed": self.seed,
            "attempts": [{**asdict(attempt), "skipped": dict(attempt.skipped)} for attempt in self.attempts],
        }

    def __repr__(self) -> str:
        return f"<Record {self.backend}, {len(self._plan.log)} attempts>"


def _in_means(cost: float | None) -> str:
    return "took no part" if cost is None else f"{cost:.3g}"


def _describe(ticket: Ticket, outcome: Outcome, because: str, tried: list[str]) -> Attempt:
    snapshot = ticket.snapshot
    left = [(index, s.url) for index, s in enumerate(snapshot.candidates) if s.url not in tried]
    if ticket.trial:
        because = "its ejection ended: the one request that tries it"
    elif ticket.reason is not None:
        because = ticket.reason
    elif snapshot.panic:
        because += "; health ignored: too few backends are available"
    costs = ticket.costs or ()
    if len(costs) != len(snapshot.candidates) or not any(
        s is ticket.state and cost is not None for s, cost in zip(snapshot.candidates, costs, strict=True)
    ):
        costs = ()  # it was not picked by them: one of the reserve
    return Attempt(
        backend=ticket.state.url,
        outcome=outcome.describe(),
        elapsed=outcome.elapsed,
        reason=because,
        candidates=tuple(url for _, url in left),
        loads=tuple(ticket.loads[index] for index, _ in left) if ticket.loads else (),
        skipped={
            url: why
            for url, why in {**snapshot.skipped, **dict.fromkeys(tried, "already tried")}.items()
            if url != ticket.state.url
        },
        drawn=ticket.drawn,
        generation=snapshot.generation,
        costs=tuple(costs[index] for index, _ in left) if costs else (),
    )
