"""Registries that are listed once and then watched: Kubernetes and etcd.

A list has a version, and a watch from that version tells every change since. So a watch that is cut is taken up where
it was cut, and nobody lists again unless the registry has forgotten that version, or another registry answers.

Whatever comes is written into a `View`; the newest set is made of it when somebody takes it. At thousands of changes a
second most sets are never made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import anyio
import httpx

from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery.feed import Feed
from lbclient.discovery.registry import RegistryError

FIRST_PAUSE = 0.1  # seconds before a watch that told nothing is taken up again
LONGEST_PAUSE = 5.0
TOO_OFTEN = 3  # times in a row that a watch breaks at once: that is trouble, and no longer a cut


class View(Protocol):
    """What a registry has said, as far as it is still true."""

    def said(self) -> Said:
        """The set it comes to."""
        ...  # pragma: no cover - a protocol


S = TypeVar("S")
V = TypeVar("V", bound=View)


class ListWatch(Source, Generic[S, V]):
    """Lists, and watches from there on. S is whom to ask, and V what it said."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[S]:
        """Whom to ask, for as long as nothing fails."""
        ...  # pragma: no cover - abstract

    @abstractmethod
    async def list(self, session: S) -> V:
        """Everything there is now."""
        ...  # pragma: no cover - abstract

    @abstractmethod
    async def follow(self, session: S, view: V, heard: Callable[[], None]) -> bool:
        """Write what changes into `view`, calling `heard` whenever it is whole, until the watch ends.

        Returns:
            Whether the view has to be listed anew: the registry has forgotten what came after it.

        Raises:
            httpx.ReadError, httpx.RemoteProtocolError, RegistryError: The watch was cut, or said that it is broken. It
                is taken up where it ended.
        """
        ...  # pragma: no cover - abstract

    async def watch(self) -> AsyncIterator[Said]:
        """See `Source`."""
        async with Feed[V](self._listen, f"lbclient: {self}") as feed:
            while (heard := await feed.take()) is not None:
                yield heard if isinstance(heard, Trouble) else heard.said()

    async def _listen(self, hear: Callable[[V | Trouble], None]) -> None:
        async with self.connect() as session:
            while True:
                view = await self.list(session)
                hear(view)
                await self._stay(session, view, hear)

    async def _stay(self, session: S, view: V, hear: Callable[[V | Trouble], None]) -> None:
        """Watch again and again, until the view has to be listed anew."""
        silent = 0

        def heard() -> None:
            nonlocal silent
            silent = 0
            hear(view)

        while True:
            began = anyio.current_time()
            try:
                if await self.follow(session, view, heard):
                    return
            except (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError, RegistryError):
                if silent >= TOO_OFTEN:
                    raise
            if anyio.current_time() - began > LONGEST_PAUSE:
                silent = 0  # it just had nothing to tell
            if silent:
                await anyio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(silent - 1, 30)))
            silent += 1
