"""Where connections live: in this process. A fork makes it another one, which opens its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

Loop: TypeAlias = int  # the number of a process; what is an event loop to the async transport

running_loop = os.getpid


def call_soon(loop: Loop, function: Callable[[], object]) -> None:
    """Call `function`; any thread may."""
    if not is_over(loop):
        function()


def is_over(loop: Loop) -> bool:
    """Whether nothing will ever use them again: they are the parent's."""
    return loop != os.getpid()
