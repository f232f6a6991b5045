"""Where a pool's probes run, and where its source is followed: a daemon thread. Written by hand: the prober itself is the async one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

import anyio.to_thread

from lbclient._async.background import BackgroundThread
from lbclient._async.prober import Ask, NetworkProbe, probe_pool
from lbclient._sync.inner import InnerTransports
from lbclient._sync.inner_probe import ask_through
from lbclient.core.backend import Backend
from lbclient.core.pool import Pool
from lbclient.core.probes import Probe, TcpProbe
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
        over_network = NetworkProbe(pool.connect, ssl_context)
        ask: Ask = over_network if inner is None else _Through(inner, over_network)
        main = partial(watch_over, pool, partial(in_turn, pool, partial(probe_pool, pool, ask)))
        self._thread = BackgroundThread(main, background_of(pool))

    @property
    def running(self) -> bool:
        """Whether probes run and the source is followed, or there is neither."""
        return not has_background(self._pool) or self._thread.running

    def begin(self) -> None:
        """Probe from now on."""
        if not self.running:
            self._thread.start()

    begin_here = begin

    def after_fork(self) -> None:
        """In the child: the thread knows by itself that it is the parent's."""

    def drop(self) -> None:
        """Probe no more, without waiting for the end."""
        self._thread.stop_soon()

    def end(self) -> None:
        """Probe no more."""
        self._thread.stop()


class _Through:
    """Sends HTTP probes through the caller's transports, which block: each in a thread."""

    def __init__(self, inner: InnerTransports, over_network: NetworkProbe) -> None:
        self._inner = inner
        self._over_network = over_network

    async def __call__(self, backend: Backend, probe: Probe) -> str | None:
        """See `Ask`."""
        if isinstance(probe, TcpProbe):
            return await self._over_network(backend, probe)
        asking = partial(ask_through, self._inner(backend), backend, probe)
        return await anyio.to_thread.run_sync(asking, abandon_on_cancel=True)
