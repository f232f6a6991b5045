"""Time that stands still until it is told to go on."""

from __future__ import annotations


class FakeClock:
    """A clock for `Pool(clock=...)` that only moves when it is told to.

    Args:
        now: Seconds at the start.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` (>= 0) pass.

        Raises:
            ValueError: Time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"seconds is {seconds!r}; time does not go back, write a number of 0 or more")
        self.now += seconds
