"""Whether the client is still there: an exchange is carried out for as long as it is.

ASGI tells of a client that leaves to who waits for its next message, which takes a task beside the exchange. Of a
request without a body nothing else can come. Its exchange mostly ends before a client can lose its patience, so on
asyncio that task is begun only when the backend takes its time. And a server that can call back, as the sidecar's does,
needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias

import anyio

from lbclient.asgi.incoming import Incoming
from lbclient.asgi.ways import Way, Ways, settle

GONE = "lbclient.gone"
"""The extension of a scope that holds a `WhenGone`."""

WhenGone: TypeAlias = Callable[[Callable[[], object]], None]
"""Has the server call a function when the client leaves before it has its answer."""

LISTEN_AFTER = 0.005  # seconds that a client may have left before the backend hears of it


async def while_the_client_is_there(incoming: Incoming, relay: Way) -> None:
    """Carry an exchange out and listen to the client from the start; when it leaves, cancel the exchange.

    Raises:
        ClientGone: It has left.
    """
    ways = Ways()
    failed = await ways.run(relay, lambda: incoming.listen(ways.end))
    settle(incoming.gone, failed)


async def unless_the_client_leaves(incoming: Incoming, relay: Way, scope: AnyScope) -> None:
    """The same for a request without a body, on asyncio: listen from `LISTEN_AFTER` on.

    Args:
        incoming: The client's side.
        relay: The exchange.
        scope: A new one, to cancel it by.

    Raises:
        ClientGone: It has left.
    """
    loop = asyncio.get_running_loop()
    listening: asyncio.Task[None] | None = None
    failed: Exception | None = None
    with scope:

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
    if failed is not None or incoming.gone:
        settle(incoming.gone, failed)


async def until_the_server_says(when_gone: WhenGone, incoming: Incoming, relay: Way, scope: AnyScope) -> None:
    """The same under a server that calls back.

    Raises:
        ClientGone: It has left.
    """
    failed: Exception | None = None
    with scope:
        when_gone(partial(incoming.left, scope.cancel))
        try:
            await relay()
        except Exception as exc:  # noqa: BLE001  # settled below
            failed = exc
    if failed is not None or incoming.gone:
        settle(incoming.gone, failed)


class TaskScope:
    """What `anyio.CancelScope` is, for the running task of asyncio, and while nothing in it is shielded: 1 us, not 7.

    A task that is cancelled by asyncio is cancelled wherever it waits. That must not be in the middle of giving back
    what it has taken; so it is for exchanges over the native engine, which never waits in there.
    """

    __slots__ = ("_before", "_cancelled", "_task")

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._before = task.cancelling()
        self._cancelled = False
        return self

    def cancel(self) -> None:
        """Cancel what goes on inside."""
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        # As `asyncio.timeout` does: somebody else may have cancelled the task, too.
        return (
            self._cancelled
            and self._task.uncancel() <= self._before
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        )


AnyScope: TypeAlias = anyio.CancelScope | TaskScope


def _end_with(task: asyncio.Task[None], scope: AnyScope) -> None:
    """A server that cannot be listened to is one without the client."""
    if not task.cancelled() and task.exception() is not None:
        scope.cancel()
