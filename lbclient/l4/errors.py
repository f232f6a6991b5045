"""What goes wrong at layer 4, as users of anyio streams and of sockets already catch it."""

from __future__ import annotations

import anyio

from lbclient.core import errors as core_errors
from lbclient.core.explain import Record


class NoBackendAvailable(core_errors.NoBackendAvailable, ConnectionError):
    """Nobody may be picked; the message says why each backend was passed over."""


class CutOff(core_errors.DrainTimeout, anyio.BrokenResourceError, ConnectionError):
    """The grace period of a drain ended, and with it this connection."""


def explained(exc: BaseException, record: Record) -> None:
    """Give an exception its record, and a note that names the backends: a socket's own messages name none."""
    tried = ", ".join(f"{attempt.backend} ({attempt.outcome})" for attempt in record.attempts)
    if tried:
        exc.add_note(f"lbclient: pool {record.pool!r}, attempt {len(record.attempts)}: {tried}")
    exc.lbclient = record  # type: ignore[attr-defined]  # the documented place, next to response.extensions
