"""The core's own errors. What a transport raises is also what users of its client already catch."""

from __future__ import annotations


class NoBackendAvailable(Exception):
    """Nobody may be picked; the message says why each backend was passed over."""


class DrainTimeout(Exception):
    """The grace period of a drain ended, and with it the connection of this request."""
