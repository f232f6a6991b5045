"""The end of an event loop, for a proxy that no lifespan tells of it.

asyncio and trio close the asynchronous generators that are left when they end. One that waits for nothing but that
closes the connections of its loop, while there still is a loop to close them in.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator
from contextlib import suppress

from lbclient._async.loops import Loop, is_over, running_loop
from lbclient._async.transport import AsyncBalancedTransport


class LoopEnds:
    """The event loops in which a transport is used, each until its end, or until this is collected.

    Args:
        transport: Whose connections.
    """

    def __init__(self, transport: AsyncBalancedTransport) -> None:
        self._transport = transport
        self._waiting: dict[Loop, AsyncGenerator[None]] = {}
        weakref.finalize(self, _end, self._waiting).atexit = False

    async def wait_in_this_loop(self) -> None:
        """Close what is open in the running event loop when that ends."""
        loop = running_loop()
        if loop in self._waiting:
            return
        for known in list(self._waiting):
            if is_over(known):
                del self._waiting[known]
        self._waiting[loop] = waiting = _until_the_end(loop, self._transport)
        await anext(waiting)

    def forget(self) -> None:
        """Wait no more."""
        _end(self._waiting)


async def _until_the_end(loop: Loop, transport: AsyncBalancedTransport) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        for io in transport._ios.values():
            io.drop_in(loop)


def _end(waiting: dict[Loop, AsyncGenerator[None]]) -> None:
    while waiting:
        _, generator = waiting.popitem()
        with suppress(StopIteration):
            generator.aclose().send(None)  # without awaiting, as it awaits nothing either
