"""What goes on beside each other for one client, and what comes of it when several things happen at once.

The first failure counts and ends the rest, and it is raised by itself: a group of one would pass by whoever handles
it. A client that has left counts more, as nobody is there to hear of a failure, and most failures of that moment come
of its leaving. A bug counts most: it has to be heard of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from lbclient._async.errors import as_httpx
from lbclient.asgi.refusals import ClientGone, refusal_of

Way: TypeAlias = Callable[[], Awaitable[None]]


class Ways:
    """Several ways, of which one is the main one: the others are cancelled when it is over."""

    def __init__(self) -> None:
        self._failed: Exception | None = None
        self._tasks: TaskGroup

    async def run(self, main: Way, *beside: Way) -> Exception | None:
        """Until `main` is over, or any of them has failed: the failure that came first, if there was one."""
        async with anyio.create_task_group() as self._tasks:
            for way in beside:
                self.begin(way)
            await self._guarded(main)
            self.end()
        failed, self._failed = self._failed, None
        return failed

    def begin(self, way: Way) -> None:
        """One more, from now on."""
        self._tasks.start_soon(self._guarded, way)

    def end(self) -> None:
        """Cancel all of them."""
        self._tasks.cancel_scope.cancel()

    async def _guarded(self, way: Way) -> None:
        try:
            await way()
        except Exception as exc:  # noqa: BLE001  # whoever has called `run` hears of it
            if self._failed is None:
                self._failed = exc
            self.end()


def settle(gone: bool, failed: Exception | None) -> None:
    """Raise what has to be heard of how it ended.

    Args:
        gone: Whether the client has left.
        failed: What went wrong.

    Raises:
        ClientGone: It has left.
        Exception: `failed`, of a client that is there; and a bug in any case.
    """
    try:
        if failed is not None and not (gone and _is_an_answer(failed)):
            raise failed
        if gone:
            raise ClientGone from failed
    finally:
        del failed  # its traceback leads here


def _is_an_answer(exc: Exception) -> bool:
    """Whether a client that is there would be told of it."""
    return isinstance(exc, ClientGone) or refusal_of(as_httpx(exc), 0) is not None
