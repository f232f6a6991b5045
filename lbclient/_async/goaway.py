"""h2's state of a connection, except that a GOAWAY does not end it: what is in flight may still be answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from h2.connection import H2Connection

if TYPE_CHECKING:
    from h2.events import Event
    from hyperframe.frame import Frame, GoAwayFrame


@dataclass(frozen=True, slots=True)
class GoAway:
    """What the server said when it began to close.

    Attributes:
        last_stream: It has not looked at streams above this one, and will not (RFC 9113, 6.8).
        code: Why; 0 when nothing is wrong.
    """

    last_stream: int
    code: int


class LastingState(H2Connection):
    """h2 refuses every frame after a GOAWAY, also those of the answers that the GOAWAY promises.

    Attributes:
        goaway: The lowest last stream that was named, and the latest reason; None until the server goes away.
    """

    goaway: GoAway | None = None

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        # A graceful server sends two: one that forbids new streams, and when those underway have come in the real one.
        last = frame.last_stream_id
        if self.goaway is not None:
            last = min(last, self.goaway.last_stream)
        self.goaway = GoAway(last, frame.error_code)
        return [], []
