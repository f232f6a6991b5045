"""What became of an attempt, and what that proves: who is to blame, and whether another attempt is safe.

`ENDINGS` is the one table of it. The shells say which row an exception is; nobody else looks at exceptions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

Failure: TypeAlias = Literal["connect", "timeout", "reset", "status", "cancelled", "local"]
"""How an attempt failed:

connect     no connection came about: refused, unknown host, TLS failure, connect timeout
timeout     the backend took longer than a read or write timeout
reset       the connection broke, or what came over it was no HTTP
status      a response whose status counts as a failure
cancelled   the caller gave up
local       the caller's own doing, or a limit of ours: a bad header, a full pool, a body that raised
"""
FAILURES: tuple[str, ...] = get_args(Failure)

BACKEND_S_FAULT: frozenset[str] = frozenset({"connect", "timeout", "reset", "status"})
"""What counts against a backend. Cancellation and local errors never do."""


class Elsewhere(enum.Enum):
    """Whether the request may be sent again, to another backend."""

    ANY = "any method"
    IDEMPOTENT = "idempotent methods"
    NEVER = "never"


class Ending(enum.Enum):
    """How an attempt ended that brought no response: the rows of the table."""

    UNREACHABLE = "no connection came about: refused, unknown, TLS failure, connect timeout"
    STARVED = "our own event loop was too busy to connect in time"
    FULL = "no connection came free within our own limit"
    OURS = "the caller's own doing: a bad header, a body of another length, a bug"
    BROKEN = "the connection ended, or carried something else than HTTP, before the response"
    STALE = "a kept connection, idle until this request, ended without a byte of a response"
    SLOW = "it took longer than a timeout to take the request or to begin the response"
    HURRIED = "the deadline of the request left it too little time"
    REFUSED = "the server said that it did not process it (HTTP/2 GOAWAY below it, REFUSED_STREAM)"
    LEAVING = "the server was going away and ended before the response (HTTP/2 GOAWAY at or above it)"
    TRUNCATED = "the body broke off"
    CUT = "we closed the connection: a drain cut it off, or the transport was closed"
    BEATEN = "another attempt was faster"
    CANCELLED = "the caller gave up"


class Proof(NamedTuple):
    """What an ending says about the backend, and about the request."""

    failure: Failure
    elsewhere: Elsewhere


ENDINGS: dict[Ending, Proof] = {
    Ending.UNREACHABLE: Proof("connect", Elsewhere.ANY),
    Ending.STARVED: Proof("local", Elsewhere.ANY),
    Ending.FULL: Proof("local", Elsewhere.ANY),
    Ending.OURS: Proof("local", Elsewhere.NEVER),
    Ending.BROKEN: Proof("reset", Elsewhere.IDEMPOTENT),
    Ending.STALE: Proof("local", Elsewhere.IDEMPOTENT),
    Ending.SLOW: Proof("timeout", Elsewhere.IDEMPOTENT),
    Ending.HURRIED: Proof("cancelled", Elsewhere.IDEMPOTENT),
    Ending.REFUSED: Proof("local", Elsewhere.ANY),
    Ending.LEAVING: Proof("local", Elsewhere.IDEMPOTENT),
    Ending.TRUNCATED: Proof("reset", Elsewhere.NEVER),
    Ending.CUT: Proof("local", Elsewhere.NEVER),
    Ending.BEATEN: Proof("cancelled", Elsewhere.NEVER),
    Ending.CANCELLED: Proof("cancelled", Elsewhere.NEVER),
}
"""Which endings are whose fault, and what may follow them."""


@dataclass(slots=True)
class Outcome:
    """The end of one attempt, as far as the next decision needs it.

    Attributes:
        ending: How it failed; None when a response came.
        status: The response's status, when one came; None for a connection that carries something else than HTTP.
        unsent: Proven, by counting bytes, that nothing of the request was sent: what is safe for idempotent methods is
            safe for any.
        retry_after: Seconds that the response asked to be left alone.
        error: The error in words.
        elapsed: Seconds from the pick to the response headers or to the failure.
    """

    ending: Ending | None = None
    status: int | None = None
    unsent: bool = False
    retry_after: float | None = None
    error: str = ""
    elapsed: float = 0.0

    @property
    def failure(self) -> Failure | None:
        """What it is to the backend; None when a response came."""
        return None if self.ending is None else ENDINGS[self.ending].failure

    @property
    def elsewhere(self) -> Elsewhere:
        """Whether another attempt is safe. After a response that is the retry policy's to say: idempotent at most."""
        if self.ending is None:
            return Elsewhere.IDEMPOTENT
        proof = ENDINGS[self.ending]
        return Elsewhere.ANY if self.unsent and proof.elsewhere is Elsewhere.IDEMPOTENT else proof.elsewhere

    def describe(self) -> str:
        """In a few words, for the record."""
        if self.ending is None:
            return "connected" if self.status is None else str(self.status)
        word = self.ending.name.lower() if self.failure in ("local", "cancelled") else str(self.failure)
        return f"{word} ({self.error})" if self.error else word
