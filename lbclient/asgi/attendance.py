"""Whether the client is still there: an exchange is carried out for as long as it is.

ASGI tells of a client that leaves to who waits for its next message, which takes a task beside the exchange. Of a
request without a body nothing else can come. Its exchange mostly ends before a client can lose its patience, so on
asyncio that task is begun only when the backend takes its time.
"""

from __future__ import annotations

import asyncio

import anyio

from lbclient.asgi.incoming import Incoming
from lbclient.asgi.ways import Way, Ways, settle

LISTEN_AFTER = 0.005  # seconds that a client may have left before the backend hears of it


async def while_the_client_is_there(incoming: Incoming, relay: Way) -> None:
    """Carry an exchange out and listen to the client from the start; when it leaves, cancel the exchange.

    Raises:
        ClientGone: It has left.
    """
    ways = Ways()
    failed = await ways.run(relay, lambda: incoming.listen(ways.end))
    settle(incoming.gone, failed)


async def unless_the_client_leaves(incoming: Incoming, relay: Way) -> None:
    """The same for a request without a body, on asyncio: listen from `LISTEN_AFTER` on.

    Raises:
        ClientGone: It has left.
    """
    loop = asyncio.get_running_loop()
    listening: asyncio.Task[None] | None = None
    failed: Exception | None = None
    with anyio.CancelScope() as scope:

        def listen() -> None:
            nonlocal listening
            listening = loop.create_task(incoming.listen(scope.cancel))
            listening.add_done_callback(lambda task: _end_with(task, scope))

        timer = loop.call_later(LISTEN_AFTER, listen)
        try:
            await relay()
        except Exception as exc:  # noqa: BLE001  # settled below
            failed = exc
        finally:
            timer.cancel()
            if listening is not None:
                listening.cancel()
    if listening is not None and listening.done() and not listening.cancelled():
        try:
            listening.result()
        except Exception as exc:  # noqa: BLE001  # it came first, as the relay's end ends the listening
            failed = exc
    settle(incoming.gone, failed)


def _end_with(task: asyncio.Task[None], scope: anyio.CancelScope) -> None:
    """A server that cannot be listened to is one without the client."""
    if not task.cancelled() and task.exception() is not None:
        scope.cancel()
