"""Having other event loops do something, most likely those of other threads, and waiting for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio

from lbclient._async.background import Wake
from lbclient._async.loops import Loop, call_soon, running_loop

if TYPE_CHECKING:
    from lbclient._async.engine import Engine

logger = logging.getLogger("lbclient")

_T = TypeVar("_T")
Errand: TypeAlias = Callable[[], Coroutine[Any, Any, _T]]

_PARENTS: list[Engine] = []

DONE_WITHIN = 5.0  # seconds; a loop that is blocked for longer does it when it gets to it


async def in_every_loop(errands: Mapping[Loop, Errand[_T]], what: str) -> list[_T]:
    """Run each errand in its loop, all at a time.

    Args:
        errands: By loop; one may be the running loop's.
        what: What they do, for the log.

    Returns:
        Their results, less those of loops that have ended, or do not get to it in time.
    """
    here = running_loop()
    results: list[_T] = []

    async def carry_out(loop: Loop, errand: Errand[_T]) -> None:
        if loop is here:
            results.append(await errand())
        else:
            results.extend(await run_in(loop, errand, what))

    async with anyio.create_task_group() as group:
        for loop, errand in errands.items():
            group.start_soon(carry_out, loop, errand)
    return results


def leave_to_parent(engines: Iterable[Engine]) -> None:
    """After a fork: neither their sockets nor their event loops are touched here, nor by the garbage collector."""
    _PARENTS.extend(engines)


async def run_in(loop: Loop, errand: Errand[_T], what: str) -> list[_T]:
    """Run `errand` in another loop, and wait for its result.

    Args:
        loop: Where.
        errand: Called there, without arguments. What it raises is logged.
        what: What it does, for the log.

    Returns:
        Nothing when it failed; when that loop has ended; and when it is not running, or does not get to it in time:
        then it does it when it does run.
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
        call_soon(loop, begin)
        if not isinstance(loop, asyncio.AbstractEventLoop) or loop.is_running():
            with anyio.move_on_after(DONE_WITHIN) as waiting:
                await finished.wait()
            if waiting.cancelled_caught:
                logger.warning("%s: another event loop did not get to it within %s s", what, DONE_WITHIN)
    return results
