"""A source around a source: what all decorators have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator

from lbclient.core.backend import Backend
from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery.watching import watching


class Wrapping(Source):
    """Goes by the name and the rules of the source inside.

    Args:
        source: The one inside.

    Raises:
        TypeError: It is none.
    """

    def __init__(self, source: Source) -> None:
        if not isinstance(source, Source):
            raise TypeError(f"source is {source!r}; write a source, such as File('backends.yaml')")
        self.source = source
        self.allow_empty = source.allow_empty
        self.longest_pause = source.longest_pause

    def __str__(self) -> str:
        return str(self.source)

    def doubt(self) -> None:
        """See `Source`."""
        self.source.doubt()


class Sieve(Wrapping):
    """Makes of each set another one."""

    async def watch(self) -> AsyncIterator[Said]:
        """See `Source`."""
        async with watching(self.source) as everything:
            async for said in everything:
                if isinstance(said, Trouble):
                    yield said
                else:
                    yield self.sift(tuple(Backend.of(backend) for backend in said))

    @abstractmethod
    def sift(self, backends: tuple[Backend, ...]) -> Said:
        """What becomes of one set."""
        ...  # pragma: no cover - abstract
