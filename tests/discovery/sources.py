"""Sources for tests: one that says what it is told, and what a source has said so far."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from lbclient import Backend
from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery.watching import watching


class Scripted(Source):
    """Says what the test has it say; an exception among that is raised."""

    longest_pause = 0.2

    def __init__(self, *said: Said | Exception) -> None:
        self._script: list[Said | Exception] = list(said)
        self._more = anyio.Event()
        self.watched = 0
        self.closed = 0
        self.ends = False

    def say(self, *said: Said | Exception) -> None:
        self._script += said
        self._more.set()

    def end(self) -> None:
        self.ends = True
        self._more.set()

    async def watch(self) -> AsyncIterator[Said]:
        self.watched += 1
        try:
            while True:
                while self._script:
                    said = self._script.pop(0)
                    if isinstance(said, Exception):
                        raise said
                    yield said
                if self.ends:
                    return
                self._more = anyio.Event()
                await self._more.wait()
        finally:
            self.closed += 1


class Heard:
    """What a source has said so far."""

    def __init__(self) -> None:
        self.everything: list[Said] = []
        self.over = False

    @property
    def sets(self) -> list[tuple[str, ...]]:
        return [urls(said) for said in self.everything if not isinstance(said, Trouble)]

    @property
    def last(self) -> tuple[str, ...]:
        return self.sets[-1] if self.sets else ()

    @property
    def backends(self) -> dict[str, Backend]:
        """Those of the last set, by URL."""
        sets = [said for said in self.everything if not isinstance(said, Trouble)]
        return {backend.url: backend for backend in map(Backend.of, sets[-1])} if sets else {}

    @property
    def troubles(self) -> list[str]:
        return [said.words for said in self.everything if isinstance(said, Trouble)]


def urls(said: Said) -> tuple[str, ...]:
    assert not isinstance(said, Trouble), said
    return tuple(Backend.of(backend).url for backend in said)


@asynccontextmanager
async def listening(source: Source) -> AsyncIterator[Heard]:
    """Watch a source in a task of its own until the block ends."""
    heard = Heard()

    async def listen() -> None:
        async with watching(source) as everything:
            async for said in everything:
                heard.everything.append(said if isinstance(said, Trouble) else tuple(said))
        heard.over = True

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        try:
            yield heard
        finally:
            group.cancel_scope.cancel()


async def until(condition: Callable[[], bool], within: float = 20.0) -> None:
    """Wait for what has to come true."""
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)
