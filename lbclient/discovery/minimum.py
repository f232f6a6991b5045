"""Sets too small to be true."""

from __future__ import annotations

from lbclient.core.backend import Backend
from lbclient.core.checks import check_whole
from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery.wrapping import Sieve


class MinimumSize(Sieve):
    """Refuses sets of fewer backends than that: more often it is the registry that has lost them than they are gone.

    The last set that was large enough stays, and the status says why. Those that drain do not count.

    Args:
        source: Whose sets.
        size: Backends; >= 1.

    Raises:
        ValueError, TypeError: An argument is out of its range.
    """

    def __init__(self, source: Source, size: int) -> None:
        super().__init__(source)
        self._size = check_whole("size", size, at_least=1)

    def sift(self, backends: tuple[Backend, ...]) -> Said:
        """See `Sieve`."""
        count = sum(not backend.draining for backend in backends)
        if count < self._size:
            return Trouble(f"its set has {count} backends, fewer than the minimum size of {self._size}")
        return backends
