"""One attempt's hold on one backend, from the pick to the end of the body."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from lbclient.core.outcome import FAILURES, Failure

if TYPE_CHECKING:
    from lbclient.core.backend import Backend, BackendState
    from lbclient.core.pool import Pool
    from lbclient.core.snapshot import Snapshot

Drawn: TypeAlias = int | float | None


class Answer(enum.Enum):
    """What the response headers of an attempt said."""

    GOOD = enum.auto()
    OVERLOAD = enum.auto()
    FAILURE = enum.auto()


class Ticket:
    """Counts as in flight until it ends, also when nobody holds it any more; every end after the first is ignored.

    As a context manager it ends as a success when the block does, and as a reset of the backend's when the block
    raises an `OSError`, as nobody's fault otherwise.
    """

    __slots__ = (
        "_pool",
        "answer",
        "costs",
        "drawn",
        "epoch",
        "loads",
        "open",
        "reason",
        "size",
        "snapshot",
        "started",
        "state",
        "trial",
    )

    def __init__(
        self,
        pool: Pool,
        state: BackendState,
        snapshot: Snapshot,
        started: float,
        loads: list[int] | None,
        drawn: Drawn,
        trial: bool,
        costs: Sequence[float | None] | None = None,
        size: int = 1,
        reason: str | None = None,
    ) -> None:
        self._pool = pool
        self.state = state
        self.snapshot = snapshot
        self.started = started
        self.loads = loads
        self.drawn = drawn
        self.trial = trial
        self.costs = costs
        self.size = size
        self.reason = reason
        self.epoch = state.health.epoch
        self.open = True
        self.answer: Answer | None = None

    @property
    def backend(self) -> Backend:
        """Whom the ticket is for."""
        return self.state.backend

    def answered(self, latency: float, status: int = 200, retry_after: float | None = None) -> None:
        """The response headers came; the body goes on and so does the ticket.

        A status that counts as a failure counts now, a success only when the body has ended well.

        Args:
            latency: Seconds to the response headers.
            status: The response's status.
            retry_after: Seconds that the server asked to be left alone.
        """
        self._pool.ticket_answered(self, latency, status, retry_after)

    def reported(self, in_flight: float) -> None:
        """The response said how many requests the backend has in flight, over all clients (`X-LB-Inflight`)."""
        self._pool.ticket_reported(self, in_flight)

    def succeeded(self, latency: float, status: int = 200) -> None:
        """It is over, and a response came: `latency` is the seconds to its headers.

        Raises:
            ValueError, TypeError: `latency` is negative, not finite or no number; `status` is none.
        """
        _check_latency(latency)
        if not isinstance(status, int):
            raise TypeError(f"status is {status!r}; write a number, like 200")
        self._pool.ticket_answered(self, latency, status, None)
        self._pool.ticket_ended(self, None, None)

    def failed(self, kind: Failure, latency: float | None = None) -> None:
        """It is over, without a whole response.

        Args:
            kind: "connect", "timeout", "reset", "status", "cancelled" or "local"; the last two are nobody's fault.
            latency: Seconds to the failure; taken from the pool's clock when left out.

        Raises:
            ValueError, TypeError: `kind` is something else, or `latency` is negative, not finite or no number.
        """
        if latency is not None:
            _check_latency(latency)
        if kind not in FAILURES:
            raise ValueError(f"kind is {kind!r}; write one of {', '.join(FAILURES)}")
        self._pool.ticket_ended(self, kind, latency)

    def beaten(self) -> None:
        """It is over: it was still connecting when an attempt that began later had connected."""
        self._pool.ticket_beaten(self)

    def release(self) -> None:
        """It is over: a success if a response came, and otherwise nothing is said of the backend."""
        self._pool.ticket_ended(self, "cancelled" if self.answer is None else None, None)

    def abandon(self) -> None:
        """The same from a finalizer, which may run in the middle of anything, the pool's own work included."""
        self._pool.ticket_abandoned(self)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            self.succeeded(max(0.0, self._pool.clock() - self.started))
        else:
            self.failed("reset" if isinstance(exc, OSError) else "cancelled")

    def __repr__(self) -> str:
        return f"<Ticket {self.state.url}, {'in flight' if self.open else 'ended'}>"


def _check_latency(latency: float) -> None:
    try:
        if 0 <= latency < math.inf:  # else it would be in every average from then on
            return
    except TypeError:
        raise TypeError(f"latency is {latency!r}; write seconds, a finite number >= 0") from None
    raise ValueError(f"latency is {latency!r}; write seconds, a finite number >= 0")
