"""The part of a set that a client is meant to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lbclient.core.backend import Backend
from lbclient.core.source import Said, Source
from lbclient.discovery.wrapping import Sieve


class Filter(Sieve):
    """Keeps the backends that meet all of what is asked for.

    Args:
        source: Whose sets.
        zone: Their zone. To prefer a zone and not insist on it use the pool's own `zone=`.
        metadata: Entries that their metadata has to have, with these values.
        where: Called with each backend; true for those to keep.

    Raises:
        TypeError: Nothing is asked for.
    """

    def __init__(
        self,
        source: Source,
        *,
        zone: str | None = None,
        metadata: Mapping[str, object] | None = None,
        where: Callable[[Backend], bool] | None = None,
    ) -> None:
        super().__init__(source)
        if zone is None and not metadata and where is None:
            raise TypeError("Filter keeps everything; write zone=, metadata= or where=")
        self._zone = zone
        self._metadata = dict(metadata or {})
        self._where = where

    def sift(self, backends: tuple[Backend, ...]) -> Said:
        """See `Sieve`."""
        return tuple(backend for backend in backends if self._keeps(backend))

    def _keeps(self, backend: Backend) -> bool:
        return (
            (self._zone is None or backend.zone == self._zone)
            and all(
                name in backend.metadata and backend.metadata[name] == value
                for name, value in self._metadata.items()
            )
            and (self._where is None or bool(self._where(backend)))
        )
