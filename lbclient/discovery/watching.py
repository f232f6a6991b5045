"""Watching a source in a loop that may be left at any time: its generator is closed there, not by the collector."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from lbclient.core.source import Said, Source


@asynccontextmanager
async def watching(source: Source) -> AsyncGenerator[AsyncIterator[Said], None]:
    """What `source` says, for an `async for`; decorators watch the source inside them with it.

    Raises:
        TypeError: Its `watch` is no async generator.
    """
    said: object = source.watch()
    if not isinstance(said, AsyncIterator):
        close = getattr(said, "close", None)
        if close is not None:
            close()  # a coroutine that nobody awaits complains
        raise TypeError(f"watch() of {source} returns {said!r}; write it with `async def` and `yield`")
    try:
        yield said
    finally:
        if isinstance(said, AsyncGenerator):
            await said.aclose()
