"""A coroutine that listens in the background, and the newest of what it hears.

An async generator may hold no task group over a `yield`: whoever iterates is another task's code, and cancellation goes
astray. So a source that has to read on while its sets are taken in reads in a `BackgroundTask`, and its generator takes
the newest from a `Feed`. What was not taken before the next came is not taken at all, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from lbclient._async.background import BackgroundTask, Wake
from lbclient.core.source import Trouble

T = TypeVar("T")


class Feed(Generic[T]):
    """The newest of what `listen` hears. A context manager, to be left by whoever has entered it.

    Args:
        listen: Called in the background with a function, to call with everything it hears. What it raises is raised by
            `take`, after everything else has been taken.
        name: For debuggers.
    """

    def __init__(self, listen: Callable[[Callable[[T | Trouble], None]], Awaitable[None]], name: str) -> None:
        self._listen = listen
        self._name = name
        self._heard: list[T | Trouble] = []
        self._over = False
        self._error: Exception | None = None
        self._news = Wake()

    def __repr__(self) -> str:
        return f"<Feed {self._name!r}, {len(self._heard)} not taken{', over' if self._over else ''}>"

    async def __aenter__(self) -> Self:
        self._task = BackgroundTask(self._run, self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._task.stop()

    async def _run(self) -> None:
        try:
            await self._listen(self._hear)
        except Exception as exc:  # noqa: BLE001  # `take` raises it
            self._error = exc
        finally:
            self._over = True
            self._news.wake()

    def _hear(self, said: T | Trouble) -> None:
        # Trouble does not take the place of a set that came before it: that one is true all the same.
        kept = [older for older in self._heard if not isinstance(older, Trouble)]
        self._heard = [*kept, said] if isinstance(said, Trouble) else [said]
        self._news.wake()

    async def take(self) -> T | Trouble | None:
        """The newest that was not taken yet, as soon as there is one; None when there will be no more.

        Raises:
            Exception: What `listen` raised.
        """
        while not self._heard and not self._over:
            await self._news.wait()
        if self._heard:
            return self._heard.pop(0)
        if self._error is not None:
            raise self._error
        return None
