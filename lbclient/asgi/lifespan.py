"""Starting and closing with the app that a middleware stands in front of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from lbclient.asgi.types import Message, Send


def around_lifespan(
    send: Send, start: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
) -> Send:
    """What to give an app in place of `send` in its lifespan.

    Args:
        send: ASGI's.
        start: Called when the app has started.
        close: Called when it has ended.
    """

    async def sending(message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            await start()
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await close()
        await send(message)

    return sending
