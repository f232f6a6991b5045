"""Listening to a pool's source, in the background and for as long as the pool is used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

import anyio

from lbclient.core.pool import Pool
from lbclient.core.source import Source, Trouble
from lbclient.discovery.watching import watching

logger = logging.getLogger("lbclient")

FIRST_PAUSE = 0.1  # seconds
REST = 4.0  # times as long as a set took to take in: a source that never stops talking gets a fifth of a core
LONGEST_REST = 1.0  # seconds


async def watch_over(pool: Pool, probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """What goes on in the background of a pool: who belongs to it, and how they are.

    Args:
        pool: Learns of both.
        probe: Probes its backends until cancelled.
    """
    async with anyio.create_task_group() as group:
        group.start_soon(follow, pool)
        group.start_soon(probe)


async def follow(pool: Pool) -> None:
    """Tell `pool` what its source says, until cancelled or until the source has said its last.

    A source that raises is in trouble, and is watched anew after pauses that double. In a pool without one it returns
    at once.
    """
    if pool.supply is None:
        return
    source = pool.supply.source

    def look() -> None:
        if pool.is_half_down():
            source.doubt()

    unsubscribe = pool.subscribe(look)
    try:
        await _follow(pool, source)
    finally:
        unsubscribe()


async def _follow(pool: Pool, source: Source) -> None:
    failures = 0
    while True:
        sets = 0
        try:
            async with watching(source) as everything:
                async for said in everything:
                    began = perf_counter()
                    pool.receive(said)
                    if not isinstance(said, Trouble):
                        sets += 1
                        failures = 0
                    await anyio.sleep(min(LONGEST_REST, REST * (perf_counter() - began)))
            if sets:
                return
            pool.receive(Trouble("its watch() ended before it had said a set"))
        except Exception as exc:
            logger.debug("%s: watching %s failed", pool.name, source, exc_info=exc)
            pool.receive(Trouble(in_words(exc)))
        failures += 1
        pause = min(source.longest_pause, FIRST_PAUSE * 2.0 ** min(failures - 1, 30))
        await anyio.sleep(pause * (1 - pool.rng.random() / 4))  # not in step with everybody else who lost it


def has_background(pool: Pool) -> bool:
    """Whether there is anything to do in the background."""
    return pool.probe is not None or pool.supply is not None or pool.shared is not None


def background_of(pool: Pool) -> str:
    """What goes on in the background of a pool, for debuggers and the log."""
    what = "probes" if pool.supply is None else str(pool.supply.source)
    return f"lbclient: {what} of pool {pool.name!r}"


def in_words(exc: BaseException) -> str:
    """An error as the status tells it."""
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
