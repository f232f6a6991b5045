"""What a pool needs of the outside world: TLS, connections in every event loop it is used from, and its prober."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec

from lbclient._async.elsewhere import in_every_loop, leave_to_parent
from lbclient._async.engine import Engine, InnerEngine
from lbclient._async.engines import check_pool, engine_class
from lbclient._async.inner import Inner, InnerTransports
from lbclient._async.loops import Loop, call_soon, is_over, running_loop
from lbclient._async.probing import Probing
from lbclient._async.tls import OneContext
from lbclient.core.backend import Backend
from lbclient.core.forking import new_lock, tell_after_fork
from lbclient.core.pool import Pool


class PoolIO:
    """The I/O of one pool, for one transport.

    Args:
        pool: The pool.
        inner: Makes a backend's transport, for those who bring their own.

    Raises:
        ValueError: A backend is not for HTTP.
        TypeError: `inner` is not a factory of httpx async transports.

    Attributes:
        native: The native engine carries out its requests.
    """

    def __init__(self, pool: Pool, inner: Inner | None) -> None:
        if pool.connect.http2:
            _require_http2()
        check_pool(pool, inner is not None)
        check_schemes(pool, pool.members())
        self.pool = pool
        self.native = inner is None and pool.connect.engine != "httpcore" and not pool.connect.http2
        self.ssl_context = OneContext(pool.connect)
        self._inner = None if inner is None else InnerTransports(inner, pool.members())
        self.probing = Probing(pool, self._inner, self.ssl_context)
        self._engines: dict[Loop, Engine] = {}
        self._lock = new_lock()  # guards _engines: loops run in threads
        self._informed = _Informed()
        self._unsubscribe = pool.subscribe(self._informed.forget)
        weakref.finalize(self, self._unsubscribe).atexit = False  # a pool may outlive its transports
        tell_after_fork(self)

    # Engines

    def engine_at_once(self) -> Engine | None:
        """What `engine` would give without giving way to the event loop."""
        loop = running_loop()
        return self._engines.get(loop) if loop in self._informed.loops else None

    async def engine(self) -> Engine:
        """The engine of the running event loop. Connections cannot be shared between loops; the pool's state is."""
        loop = running_loop()
        engine = self._engines.get(loop)
        if engine is None:
            engine = self._new_engine(loop)
        informed = self._informed.loops
        if loop not in informed:
            informed.add(loop)  # before we look: a change from now on makes a new set
            await engine.keep(frozenset(backend.url for backend in self.pool.members()))
            if self._inner is not None and len(self._engines) == 1:  # else other loops may use them
                await self._inner.keep(self.pool.concerned())
        return engine

    def _new_engine(self, loop: Loop) -> Engine:
        pool = self.pool
        with self._lock:
            engine = self._engines.get(loop)
            if engine is not None:  # another thread was faster
                return engine
            if self._inner is not None:
                engine = InnerEngine(self._inner, pool.preserve_host)
            else:
                engine = engine_class(pool)(pool.connect, pool.preserve_host, self.ssl_context)
            for known in [known for known in self._engines if is_over(known)]:
                del self._engines[known]  # its connections went with it
            self._engines[loop] = engine
        return engine

    def _engines_by_loop(self) -> dict[Loop, Engine]:
        with self._lock:
            return dict(self._engines)

    def connections(self) -> dict[str, tuple[int, int]]:
        """(open, idle) by backend, over all loops."""
        total = {backend.url: (0, 0) for backend in self.pool.members()}
        for engine in self._engines_by_loop().values():
            for url, (opened, idle) in engine.counts().items():
                before = total.get(url, (0, 0))
                total[url] = (before[0] + opened, before[1] + idle)
        return total

    async def cut(self, url: str, reason: str) -> int:
        """Close a backend's connections in every loop, also those in use; how many requests that cut off."""
        cuts = {loop: partial(engine.cut, url, reason) for loop, engine in self._engines_by_loop().items()}
        return sum(await in_every_loop(cuts, f"closing what is left to {url}"))

    def after_fork(self) -> None:
        """In the child: connections, prober and event loops are the parent's. Begin anew."""
        engines, self._engines = self._engines, {}
        self._informed.forget()
        self.probing.after_fork()
        if self._inner is not None:
            self._inner.after_fork()
        leave_to_parent(engines.values())

    # Ending

    def drop(self) -> bool:
        """End it without awaiting, because nobody closed it. Whether there were connections."""
        self.probing.drop()
        return sum(self.drop_in(loop) for loop in self._engines_by_loop()) > 0

    def drop_in(self, loop: Loop) -> bool:
        """Close without awaiting what is open in one event loop. Whether there was anything."""
        with self._lock:
            engine = self._engines.pop(loop, None)
        if engine is None:
            return False
        was_open = engine.is_open
        with suppress(RuntimeError):  # the loop is closed, and its connections with it
            call_soon(loop, engine.drop)
        return was_open

    async def aclose(self) -> None:
        """Stop probing and close the connections in every loop; those of a loop that is gone went with it."""
        self._unsubscribe()
        await self.probing.end()
        with self._lock:
            engines, self._engines = self._engines, {}
        closes = {loop: engine.aclose for loop, engine in engines.items()}
        await in_every_loop(closes, f"closing pool {self.pool.name!r}")
        if self._inner is not None:
            await self._inner.aclose()


class _Informed:
    """The loops whose engines know who is a member. The pool holds on to this, and not to what holds connections."""

    __slots__ = ("loops",)

    def __init__(self) -> None:
        self.loops: set[Loop] = set()

    def forget(self) -> None:
        """The membership may have changed."""
        self.loops = set()


def check_schemes(pool: Pool, backends: Iterable[Backend]) -> None:
    """All of them speak HTTP.

    Raises:
        ValueError: One does not.
    """
    for backend in backends:
        if backend.scheme not in ("http", "https"):
            raise ValueError(
                f"pool {pool.name!r} has {backend.url}, and this transport speaks HTTP; write http:// or https://, "
                "or balance connections with lbclient.l4"
            )


def _require_http2() -> None:
    if find_spec("h2") is None:
        raise ImportError("http2=True needs the package h2; install it with: pip install 'lbclient[http2]'")
