"""The core's own errors. What a transport raises is also what users of its client already catch."""

from __future__ import annotations


class NoBackendAvailable(Exception):
    """Nobody may be picked; the message says why each backend was passed over."""
