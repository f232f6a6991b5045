"""Event loops, asyncio's and trio's: which one runs, whether one has ended, and having another one do something."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import anyio

from lbclient._async.background import Wake

logger = logging.getLogger("lbclient")

Loop: TypeAlias = object  # an asyncio event loop, or a trio token, which stands for one run of trio
_T = TypeVar("_T")

DONE_WITHIN = 5.0  # seconds; a loop that is blocked for longer does it when it gets to it


def running_loop() -> Loop:
    """The event loop of this task."""
    trio: Any = sys.modules.get("trio")  # not imported for those who have no use for it
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def is_over(loop: Loop) -> bool:
    """Whether nothing will ever run in it again."""
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.is_closed()
    try:
        _call_soon(loop, _nothing)
    except RuntimeError:  # trio.RunFinishedError; there is no other way to ask
        return True
    return False


async def run_in(loop: Loop, errand: Callable[[], Coroutine[Any, Any, _T]], what: str) -> _T | None:
    """Run `errand` in another loop, most likely another thread's, and wait for its result.

    Args:
        loop: Where.
        errand: Called there, without arguments. What it raises is logged.
        what: What it does, for the log.

    Returns:
        None when it failed; when that loop has ended; and when it is not running, or does not get to it in time: then
        it does it when it does run.
    """
    finished = Wake()
    results: list[_T] = []
    tasks: list[object] = []  # a task that nobody holds may be collected

    async def carry_out() -> None:
        try:
            results.append(await errand())
        except Exception:
            logger.exception("%s failed in another event loop", what)
        finally:
            finished.wake()

    def begin() -> None:
        if isinstance(loop, asyncio.AbstractEventLoop):
            tasks.append(loop.create_task(carry_out()))
        else:
            import trio

            with suppress(RuntimeError):  # the run is at its end, and takes no more tasks
                trio.lowlevel.spawn_system_task(carry_out)

    with suppress(RuntimeError):  # it has ended
        _call_soon(loop, begin)
        if not isinstance(loop, asyncio.AbstractEventLoop) or loop.is_running():
            with anyio.move_on_after(DONE_WITHIN) as waiting:
                await finished.wait()
            if waiting.cancelled_caught:
                logger.warning("%s: another event loop did not get to it within %s s", what, DONE_WITHIN)
    return results[0] if results else None


def _call_soon(loop: Any, function: Callable[[], None]) -> None:
    if isinstance(loop, asyncio.AbstractEventLoop):
        # not in our context: there it is written that trio runs, if it does
        loop.call_soon_threadsafe(function, context=contextvars.Context())
    else:
        loop.run_sync_soon(function)


def _nothing() -> None:
    pass
