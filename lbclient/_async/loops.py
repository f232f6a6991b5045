"""Event loops, asyncio's and trio's: which one runs, whether it has ended, how any thread has it call something."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

Loop: TypeAlias = object  # an asyncio event loop, or a trio token, which stands for one run of trio


def running_loop() -> Loop:
    """The event loop of this task."""
    loop = asyncio._get_running_loop()
    if loop is not None and asyncio.current_task(loop) is not None:
        return loop
    # Trio's, or, as a guest of asyncio's, in a callback of that; else a callback of asyncio's.
    trio: Any = sys.modules.get("trio")  # not imported for those who have no use for it
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def call_soon(loop: Any, function: Callable[[], object]) -> None:
    """Have `loop` call `function`. From any thread.

    Raises:
        RuntimeError: The loop has ended.
    """
    if isinstance(loop, asyncio.AbstractEventLoop):
        # not in our context: there it is written that trio runs, if it does
        loop.call_soon_threadsafe(function, context=contextvars.Context())
    else:
        loop.run_sync_soon(function)


def is_over(loop: Loop) -> bool:
    """Whether nothing will ever run in it again."""
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.is_closed()
    try:
        call_soon(loop, _nothing)
    except RuntimeError:  # trio.RunFinishedError; there is no other way to ask
        return True
    return False


def _nothing() -> None:
    pass
