"""What happened lately, for the dashboard: what lbclient logs of pools, kept for a while."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Literal, NamedTuple

KEPT = 200

Tone = Literal["bad", "info"]


class Happening(NamedTuple):
    """Something that was logged.

    Attributes:
        number: From 1.
        at: Seconds since 1970.
        tone: "bad" from WARNING on.
        text: The message.
    """

    number: int
    at: float
    tone: Tone
    text: str


class Happenings(logging.Handler):
    """Keeps the newest messages of the logger `lbclient`, from INFO on.

    Args:
        told: Called after each, from whatever thread it comes.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__(logging.INFO)
        self._told = told
        self._numbers = count(1)
        self.newest: deque[Happening] = deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        tone: Tone = "bad" if record.levelno >= logging.WARNING else "info"
        self.newest.append(Happening(next(self._numbers), time.time(), tone, record.getMessage()))
        self._told()
