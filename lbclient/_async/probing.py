"""Where a pool's probes run, and where its source is followed: a task of the event loop, or a daemon thread.

`_sync/probing.py` is its counterpart.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

from lbclient._async.background import BackgroundTask, BackgroundThread
from lbclient._async.inner import InnerTransports
from lbclient._async.prober import Ask, InnerProbe, NetworkProbe, probe_pool
from lbclient.core.pool import Pool
from lbclient.discovery.following import background_of, has_background, watch_over
from lbclient.sharing import in_turn


class Probing:
    """The probes of one pool and whoever listens to its source, begun at most once at a time.

    Args:
        pool: Says what to ask, and gets the results.
        inner: The caller's transports, if there are any: HTTP probes go through them.
        ssl_context: Makes the pool's one context, when somebody needs it.
    """

    def __init__(
        self, pool: Pool, inner: InnerTransports | None, ssl_context: Callable[[], ssl.SSLContext]
    ) -> None:
        self._pool = pool
        self._has_inner = inner is not None
        ask: Ask = (
            NetworkProbe(pool.connect, ssl_context) if inner is None else InnerProbe(inner, pool.connect)
        )
        self._main = partial(watch_over, pool, partial(in_turn, pool, partial(probe_pool, pool, ask)))
        self._name = background_of(pool)
        self._task: BackgroundTask | None = None
        self._thread: BackgroundThread | None = None

    @property
    def running(self) -> bool:
        """Whether probes run and the source is followed, or there is neither."""
        return (
            not has_background(self._pool)
            or (self._task is not None and self._task.running)
            or (self._thread is not None and self._thread.running)
        )

    def begin_here(self) -> None:
        """Probe from now on, in a task of the running event loop."""
        if not self.running:
            self._task = BackgroundTask(self._main, self._name)

    def begin(self) -> None:
        """Probe from now on, in a daemon thread: for a client that was never entered."""
        if self._has_inner:
            self.begin_here()  # the caller's transports belong to the caller's loop
        elif not self.running:
            if self._thread is None:
                self._thread = BackgroundThread(self._main, self._name)
            self._thread.start()

    def after_fork(self) -> None:
        """In the child: what runs, runs in the parent."""
        self._task = None

    def drop(self) -> None:
        """Probe no more, without waiting for the end."""
        if self._task is not None:
            self._task.stop_soon()
        if self._thread is not None:
            self._thread.stop_soon()

    async def end(self) -> None:
        """Probe no more."""
        if self._task is not None:
            await self._task.stop()
        if self._thread is not None:
            await self._thread.astop()
