"""The core's own errors. What a transport raises is also what users of its client already catch."""

from __future__ import annotations


class NoBackendAvailable(Exception):
    """Nobody may be picked; the message says why each backend was passed over."""


class NoSetYet(NoBackendAvailable):
    """The pool's source has not said yet who there is."""


class PoolFull(NoBackendAvailable):
    """Nobody may be picked right now, but somebody may as soon as a request ends."""


class DrainTimeout(Exception):
    """The grace period of a drain ended, and with it the connection of this request."""


class DeadlineExceeded(Exception):
    """The deadline of the request passed before a response came, or before it was whole."""
