"""What became of an attempt, and what that proves: who is to blame, and whether another attempt is safe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

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


@dataclass(slots=True)
class Outcome:
    """The end of one attempt, as far as the next decision needs it.

    Attributes:
        kind: How it failed; None when a response came.
        status: The response's status, when one came.
        unsent: Proven that nothing of the request reached the backend: any method may go elsewhere.
        stale: The connection had been used before and was closed while idle: the backend is not to blame.
        error: The error in words.
        elapsed: Seconds from the pick to the response headers or to the failure.
    """

    kind: Failure | None = None
    status: int | None = None
    unsent: bool = False
    stale: bool = False
    error: str = ""
    elapsed: float = 0.0

    def describe(self) -> str:
        """In a few words, for the record."""
        if self.kind is None:
            return str(self.status)
        return f"{self.kind} ({self.error})" if self.error else self.kind
