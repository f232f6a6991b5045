"""What a pool needs of the outside world: TLS, connections in every event loop it is used from, and its prober."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeAlias

import httpx

from lbclient._async.background import BackgroundTask, BackgroundThread
from lbclient._async.elsewhere import in_every_loop
from lbclient._async.engine import Engine, HttpcoreEngine, InnerEngine
from lbclient._async.loops import Loop, is_over, running_loop
from lbclient._async.native import NativeEngine
from lbclient._async.prober import InnerProbe, NetworkProbe, probe_pool
from lbclient.core.backend import Backend
from lbclient.core.pool import Pool

Inner: TypeAlias = Callable[[Backend], httpx.AsyncBaseTransport]


class PoolIO:
    """The I/O of one pool, for one transport.

    Args:
        pool: The pool.
        inner: Makes a backend's transport, for those who bring their own.

    Raises:
        TypeError: `inner` is not a factory of httpx async transports.
    """

    def __init__(self, pool: Pool, inner: Inner | None) -> None:
        self.pool = pool
        self._inner = None if inner is None else InnerTransports(inner, pool.members())
        self._context: ssl.SSLContext | None = None
        self._engines: dict[Loop, Engine] = {}
        self._lock = threading.Lock()  # guards _engines: loops run in threads
        self._up_to_date: set[Loop] = set()  # whose engines know who is a member; a new one after each change
        self._task: BackgroundTask | None = None
        self._thread: BackgroundThread | None = None
        self._unsubscribe = pool.subscribe(self._membership_may_have_changed)
        if pool.connect.http2:
            _require_http2()

    # Engines

    async def engine(self) -> Engine:
        """The engine of the running event loop. Connections cannot be shared between loops; the pool's state is."""
        loop = running_loop()
        engine = self._engines.get(loop)
        if engine is None:
            engine = self._new_engine(loop)
        up_to_date = self._up_to_date
        if loop not in up_to_date:
            up_to_date.add(loop)  # before we look: a change from now on makes a new set
            await engine.keep(frozenset(backend.url for backend in self.pool.members()))
        return engine

    def _new_engine(self, loop: Loop) -> Engine:
        engine: Engine
        if self._inner is not None:
            engine = InnerEngine(self._inner, self.pool.preserve_host)
        else:
            engine = self._engine_class()(self.pool.connect, self.pool.preserve_host, self.ssl_context)
        with self._lock:
            for known in [known for known in self._engines if is_over(known)]:
                del self._engines[known]  # its connections went with it
            self._engines[loop] = engine
        return engine

    def _engines_by_loop(self) -> dict[Loop, Engine]:
        with self._lock:
            return dict(self._engines)

    def _engine_class(self) -> type[NativeEngine | HttpcoreEngine]:
        """The fastest that can do what is asked for."""
        connect = self.pool.connect
        wanted = connect.engine
        on_asyncio = isinstance(running_loop(), asyncio.AbstractEventLoop)
        if wanted == "native" and not on_asyncio:
            raise RuntimeError(
                f"pool {self.pool.name!r} has engine='native', which runs on asyncio only; write 'auto' or 'httpcore'"
            )
        if wanted == "httpcore" or connect.http2 or not on_asyncio:
            return HttpcoreEngine
        return NativeEngine

    def ssl_context(self) -> ssl.SSLContext:
        """The pool's one context: building one costs tens of milliseconds."""
        if self._context is None:
            connect = self.pool.connect
            context = httpx.create_ssl_context(verify=connect.verify, cert=connect.cert)
            context.set_alpn_protocols(
                (["http/1.1"] if connect.http1 else []) + (["h2"] if connect.http2 else [])
            )
            self._context = context
        return self._context

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

    def _membership_may_have_changed(self) -> None:
        self._up_to_date = set()

    # Probing

    @property
    def probing(self) -> bool:
        """Whether probes run, or there are none to run."""
        return (
            self.pool.probe is None
            or (self._task is not None and self._task.running)
            or (self._thread is not None and self._thread.running)
        )

    def probe_in_this_loop(self) -> None:
        """Probe from now on, in a task of the running event loop."""
        if not self.probing:
            self._task = BackgroundTask(self._probe_forever(), self._prober_name)

    def probe_in_a_thread(self) -> None:
        """Probe from now on, in a daemon thread: for a client that was never entered."""
        if self._inner is not None:
            self.probe_in_this_loop()  # the caller's transports belong to the caller's loop
        elif not self.probing:
            if self._thread is None:
                self._thread = BackgroundThread(self._probe_forever(), self._prober_name)
            self._thread.start()

    def _probe_forever(self) -> Callable[[], Coroutine[Any, Any, None]]:
        connect = self.pool.connect
        ask = (
            NetworkProbe(connect, self.ssl_context)
            if self._inner is None
            else InnerProbe(self._inner, connect)
        )
        return partial(probe_pool, self.pool, ask)

    @property
    def _prober_name(self) -> str:
        return f"lbclient: probes of pool {self.pool.name!r}"

    # Ending

    async def aclose(self) -> None:
        """Stop probing and close the connections in every loop; those of a loop that is gone went with it."""
        self._unsubscribe()
        if self._task is not None:
            await self._task.stop()
        if self._thread is not None:
            await self._thread.astop()
        with self._lock:
            engines, self._engines = self._engines, {}
        closes = {loop: engine.aclose for loop, engine in engines.items()}
        await in_every_loop(closes, f"closing pool {self.pool.name!r}")
        if self._inner is not None:
            await self._inner.aclose()


class InnerTransports:
    """The caller's transports, made once for each backend and checked when they are."""

    def __init__(self, factory: Inner, backends: tuple[Backend, ...]) -> None:
        if isinstance(factory, httpx.AsyncBaseTransport) or not callable(factory):
            raise TypeError(
                f"inner is {factory!r}; write a function from Backend to transport, "
                "like inner=lambda backend: httpx.AsyncHTTPTransport()"
            )
        self._factory = factory
        self._made: dict[str, httpx.AsyncBaseTransport] = {}
        for backend in backends:
            self(backend)

    def __call__(self, backend: Backend) -> httpx.AsyncBaseTransport:
        transport = self._made.get(backend.url)
        if transport is None:
            transport = self._factory(backend)
            if not isinstance(transport, httpx.AsyncBaseTransport):
                raise TypeError(
                    f"inner returned {transport!r} for {backend.url}, which is no httpx.AsyncBaseTransport; "
                    "transports of httpx and httpx2, and sync and async ones, do not mix"
                )
            self._made[backend.url] = transport
        return transport

    async def aclose(self) -> None:
        """Close them all; one that is shared by several backends is closed once."""
        for transport in set(self._made.values()):
            await transport.aclose()
        self._made.clear()


def _require_http2() -> None:
    if find_spec("h2") is None:
        raise ImportError("http2=True needs the package h2; install it with: pip install 'lbclient[http2]'")
