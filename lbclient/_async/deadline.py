"""The caller's timeouts, trimmed to what is left of the request's deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

PHASES = ("connect", "pool", "read", "write")
SHORTEST = 0.001  # seconds: 0 would mean "do not block" to a socket


class TrimmedTimeouts(Mapping[str, float | None]):
    """Looks like a request's `timeout` extension. Every look at it trims anew: each phase gets what is left by then.

    Args:
        own: The caller's timeouts.
        left: Seconds until the deadline.
    """

    def __init__(self, own: Mapping[str, float | None], left: Callable[[], float]) -> None:
        self._own = own
        self._left = left

    def __getitem__(self, phase: str) -> float:
        if phase not in PHASES:
            raise KeyError(phase)
        own = self._own.get(phase)
        left = max(SHORTEST, self._left())
        return left if own is None else min(own, left)

    def __iter__(self) -> Iterator[str]:
        return iter(PHASES)

    def __len__(self) -> int:
        return len(PHASES)
