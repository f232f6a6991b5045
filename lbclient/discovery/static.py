"""A list, as a source: for configuration that names a source, and for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from lbclient.core.backend import Backend
from lbclient.core.members import BackendLike
from lbclient.core.source import Said, Source


class Static(Source):
    """Says one set, and no other.

    Args:
        backends: URLs and `Backend`s, mixed; at least one.

    Raises:
        ValueError, TypeError: It is no list of backends.
    """

    def __init__(self, backends: Iterable[BackendLike]) -> None:
        if isinstance(backends, (str, Backend)):
            raise TypeError(f"backends is {backends!r}; write a list of URLs or Backends")
        self._backends = tuple(Backend.of(backend) for backend in backends)
        if not self._backends:
            raise ValueError("backends is empty; write at least one, like 'http://10.0.0.5:8080'")

    def __str__(self) -> str:
        return f"static list of {len(self._backends)}"

    async def watch(self) -> AsyncIterator[Said]:
        """See `Source`."""
        yield self._backends
