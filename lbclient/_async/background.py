"""Where long-running coroutines live: a task of the current event loop, or a daemon thread with its own.

Neither is a task group that somebody enters. A task group has to be left by the task that entered it, which
is not what test fixtures and dependency injection do, and a failure inside it cancels the caller. What lives
here may be started in one task and stopped in another, and its failures go to the log.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread

from lbclient._async.loops import Loop, call_soon, running_loop

logger = logging.getLogger("lbclient")

Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

JOIN_WITHIN = 5.0


class Wake:
    """One coroutine waits; any thread may wake it.

    A `wake()` while nobody waits is kept for the next `wait()`, and any number of them count as one.
    """

    __slots__ = ("_lock", "_pid", "_raised", "_waiting")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._raised = False
        self._waiting: tuple[Loop, anyio.Event] | None = None

    def __repr__(self) -> str:
        return f"<Wake {'raised' if self._raised else 'waited for' if self._waiting else 'quiet'}>"

    def wake(self) -> None:
        """From any thread, at any time: after the loop was closed and in a forked child it does nothing."""
        if self._pid != os.getpid():
            return  # the lock may have been held when we forked, and the loop is the parent's
        with self._lock:
            if self._raised:
                return
            self._raised = True
            waiting = self._waiting
        if waiting is not None:
            loop, event = waiting
            with suppress(RuntimeError):  # the loop is closed
                call_soon(loop, event.set)

    async def wait(self) -> None:
        """Return when somebody has called `wake()` since the last time."""
        event = anyio.Event()
        with self._lock:
            if not self._raised:
                self._waiting = (running_loop(), event)
        try:
            if self._waiting is None:
                await anyio.lowlevel.checkpoint()
            else:
                await event.wait()
            self._raised = False
        finally:
            self._waiting = None


class BackgroundTask:
    """Runs an async function in the current event loop, from now on until it is stopped.

    On asyncio it is a task, on trio a system task; either is cancelled when its loop ends. It has no context
    variables of the task that happened to start it.

    Args:
        main: Called once, without arguments. What it raises is logged, and is the end of it.
        name: For the log and for debuggers.
    """

    def __init__(self, main: Main, name: str) -> None:
        self._main = main
        self._name = name
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._loop = running_loop()
        if isinstance(self._loop, asyncio.AbstractEventLoop):
            context = contextvars.Context()
            self._task = self._loop.create_task(self._run(), name=name, context=context)
            # A task that is cancelled before its first step never runs, nor does what is in its `finally`.
            self._task.add_done_callback(lambda _: self._ended.set())
        else:
            import trio

            trio.lowlevel.spawn_system_task(self._run, name=name)

    def __repr__(self) -> str:
        return f"<BackgroundTask {self._name!r} {'running' if self.running else 'ended'}>"

    @property
    def running(self) -> bool:
        """Whether it has not ended, by itself, by `stop` or with its loop."""
        if isinstance(self._loop, asyncio.AbstractEventLoop) and self._loop.is_closed():
            return False
        return not self._ended.is_set()

    async def _run(self) -> None:
        # A system task that raises takes trio's whole run down. A task group inside `main` may raise failures
        # and cancellations as one: the scope takes its own, `except*` the failures, the rest is the loop's.
        try:
            with self._scope:
                await self._main()
        except* Exception as failures:
            logger.error("%s failed, and does not run any more", self._name, exc_info=failures)
        finally:
            self._ended.set()

    def stop_soon(self) -> None:
        """Cancel it, without waiting. From any thread."""
        with suppress(RuntimeError):  # that loop is closed, and its tasks with it
            call_soon(self._loop, self._scope.cancel)

    async def stop(self) -> None:
        """Cancel it, and wait until it has ended, even when the caller is cancelled meanwhile. Idempotent.

        From another event loop it is only asked to end: its own may never run again.
        """
        if running_loop() is not self._loop:
            self.stop_soon()
            return
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()


class BackgroundThread:
    """Runs an async function in a daemon thread, in an asyncio loop of its own, from `start` to `stop`.

    After a fork the child has no such thread, and may start one. When this object is garbage the thread ends,
    provided that `main` does not hold on to it. An interpreter that exits does not wait for it.

    Args:
        main: Called without arguments at every start. What it raises is logged, and is the end of it.
        name: The thread's.
    """

    def __init__(self, main: Main, name: str) -> None:
        self._main = main
        self._name = name
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._started: tuple[threading.Thread, Wake] | None = None

    def __repr__(self) -> str:
        return f"<BackgroundThread {self._name!r} {'running' if self.running else 'not running'}>"

    @property
    def running(self) -> bool:
        """Whether it was started, in this process, and not stopped."""
        return self._started is not None and self._pid == os.getpid()

    def start(self) -> None:
        """Begin, unless it is running. From any thread."""
        # In the thread the import could be half done when somebody forks, and would stay so in the child.
        importlib.import_module("anyio._backends._asyncio")
        if self._pid != os.getpid():
            self._forget()  # the lock too: somebody may have held it when we forked
        with self._lock:
            if self._started is not None:
                return
            stop = Wake()
            arguments = (self._main, self._name, stop)
            thread = threading.Thread(target=_run_until, args=arguments, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:  # the interpreter is going down, or the system has no threads left
                logger.warning("%s does not run: %s", self._name, exc)
                return
            self._started = thread, stop
            weakref.finalize(self, stop.wake).atexit = False

    def stop_soon(self) -> None:
        """Ask it to end, without waiting. From any thread; idempotent."""
        self._ask_to_end()

    def stop(self, within: float = JOIN_WITHIN) -> None:
        """Ask it to end, and wait for that, at most so many seconds. From any thread; idempotent."""
        thread = self._ask_to_end()
        if thread is not None and thread is not threading.current_thread():
            thread.join(within)

    async def astop(self, within: float = JOIN_WITHIN) -> None:
        """`stop` that does not block the event loop; waits even when the caller is cancelled meanwhile."""
        thread = self._ask_to_end()
        if thread is not None and thread is not threading.current_thread():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(thread.join, within)

    def _ask_to_end(self) -> threading.Thread | None:
        if self._pid != os.getpid():
            return None
        with self._lock:
            started, self._started = self._started, None
        if started is None:
            return None
        thread, stop = started
        stop.wake()
        return thread


def _run_until(main: Main, name: str, stop: Wake) -> None:
    """What the thread does. It does not know the object that started it, so that one can become garbage."""

    async def live() -> None:
        task = BackgroundTask(main, name)
        await stop.wait()
        await task.stop()

    anyio.run(live)
