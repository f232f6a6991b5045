"""Waiting for one's turn: until another thread grants it, or the time is up."""

from __future__ import annotations

from lbclient._sync import blocking


class Turn:
    """A turn."""

    __slots__ = ("_granted",)

    def __init__(self) -> None:
        self._granted = blocking.Event()

    def grant(self) -> None:
        """It has come. After the end of the wait this does nothing."""
        self._granted.set()

    def wait(self, timeout: float | None) -> None:
        """Until it is granted.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimeoutError: It was not, in time.
        """
        with blocking.fail_after(timeout):
            self._granted.wait()


new_turn = Turn
