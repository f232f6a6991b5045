"""Sets that follow each other closely, taken as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio

from lbclient.core.checks import check_number
from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery.feed import Feed
from lbclient.discovery.watching import watching
from lbclient.discovery.wrapping import Wrapping


class Debounce(Wrapping):
    """Passes a set on when none has followed for a while. The first is passed on at once.

    Args:
        source: Whose sets.
        quiet: Seconds without another set; > 0.
        at_most: Seconds that a set is held back while others keep coming; >= quiet.

    Raises:
        ValueError, TypeError: An argument is out of its range.
    """

    def __init__(self, source: Source, quiet: float = 0.1, at_most: float = 1.0) -> None:
        super().__init__(source)
        check_number("quiet", quiet, above=0)
        check_number("at_most", at_most, at_least=quiet)
        self._quiet = quiet
        self._at_most = at_most

    async def _listen(self, hear: Callable[[Said], None]) -> None:
        async with watching(self.source) as everything:
            async for said in everything:
                hear(said if isinstance(said, Trouble) else tuple(said))

    async def watch(self) -> AsyncIterator[Said]:
        """See `Source`."""
        async with Feed(self._listen, f"lbclient: {self}") as feed:
            said = await feed.take()
            while said is not None:
                yield said
                said = await feed.take()
                trouble: Trouble | None = None
                if said is None or isinstance(said, Trouble):
                    continue
                until = anyio.current_time() + self._at_most
                while trouble is None:
                    pause = min(self._quiet, until - anyio.current_time())
                    newer = None
                    with anyio.move_on_after(pause):
                        newer = await feed.take()
                    if newer is None:
                        break
                    if isinstance(newer, Trouble):
                        trouble = newer
                    else:
                        said = newer
                if trouble is not None:
                    yield said
                    said = trouble
