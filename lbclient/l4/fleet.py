"""What a pool's connections at layer 4 have in common: who is open where, the probes, drains and flips.

There is one `Fleet` to a pool and process, found by `fleet_of(pool)`. So whoever drains a backend reaches every
connection to it, of whichever forwarder, event loop or thread; and a pool is probed once, however many use it.

Connections may be *cut* from any thread: a stream by `shutdown(2)`, which wakes whoever waits for its socket in
whatever event loop, a forwarded connection by a call in its own loop. A connection leaves the fleet before its
descriptor is closed, under the lock that cutting holds, so what is cut is never somebody else's descriptor.
"""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Protocol

import httpx

from lbclient._async.deploy import drain, swap
from lbclient._async.probing import Probing
from lbclient._async.readiness import wait_until_ready
from lbclient._async.tls import OneContext
from lbclient.core.deploy import DrainReport, Guard, SwapReport
from lbclient.core.members import BackendLike
from lbclient.core.pool import Pool
from lbclient.core.ticket import Ticket


class Cuttable(Protocol):
    """A connection, as a fleet sees it."""

    def cut(self, reason: str) -> None:
        """End it: whoever uses it is told `reason`. From any thread, without blocking."""
        ...  # pragma: no cover - a protocol


class Fleet:
    """The layer-4 connections of one pool.

    Args:
        pool: Whose.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = weakref.ref(pool)  # it lives as long as the pool; whoever uses it has the pool as well
        self._lock = threading.RLock()  # what is cut in its own event loop leaves at once
        self._live: dict[str, weakref.WeakSet[Cuttable]] = {}
        self._cuts: dict[str, int] = {}
        self._context: ssl.SSLContext | None = None
        self._changing: dict[str | None, str] = {}
        self._users = 0
        self._probing: Probing | None = None

    def __repr__(self) -> str:
        return f"<Fleet of {self.pool!r}, {sum(self.connections().values())} connections>"

    @property
    def pool(self) -> Pool:
        """Whose."""
        pool = self._pool()
        assert pool is not None
        return pool

    def ssl_context(self) -> ssl.SSLContext:
        """TLS as the pool's `Connect` says, without ALPN; one, since building one costs tens of milliseconds."""
        if self._context is None:
            connect = self.pool.connect
            self._context = httpx.create_ssl_context(verify=connect.verify, cert=connect.cert)
        return self._context

    # Connections

    def connections(self) -> dict[str, int]:
        """Open connections by backend URL."""
        with self._lock:
            return {url: len(live) for url, live in self._live.items()}

    def cuts(self, url: str) -> int:
        """How often the connections to a backend have been cut: ask before connecting, for `enter`."""
        return self._cuts.get(url, 0)

    def enter(self, ticket: Ticket, connection: Cuttable, cuts: int) -> bool:
        """A connection has come about; False when the others to its backend were cut while it did."""
        url = ticket.state.url
        with self._lock:
            if self._cuts.get(url, 0) != cuts:
                return False
            self._live.setdefault(url, weakref.WeakSet()).add(connection)
            return True

    def leave(self, ticket: Ticket, connection: Cuttable) -> None:
        """It is over. To be called before its descriptor is closed."""
        url = ticket.state.url
        with self._lock:
            live = self._live.get(url)
            if live is not None:
                live.discard(connection)
                if not live:
                    del self._live[url]

    def replace(self, ticket: Ticket, old: Cuttable, new: Cuttable) -> None:
        """The connection is another object from now on."""
        with self._lock:
            live = self._live[ticket.state.url]
            live.discard(old)
            live.add(new)

    async def cut(self, url: str, reason: str) -> int:
        """Cut every connection to a backend; how many there were."""
        return self.cut_now(url, reason)

    def cut_now(self, url: str, reason: str) -> int:
        """The same, for those who have no event loop."""
        with self._lock:
            self._cuts[url] = self._cuts.get(url, 0) + 1
            live = list(self._live.get(url, ()))
            for connection in live:
                connection.cut(reason)
            return len(live)

    def cut_all(self, reason: str) -> int:
        """Cut every connection to every backend; how many there were."""
        with self._lock:
            urls = list(self._live)
        return sum(self.cut_now(url, reason) for url in urls)

    # Changing the set

    async def drain(self, url: str, grace: float) -> DrainReport:
        """See `lbclient.l4.drain`."""
        with self._alone(f"a drain of {url}", url):
            return await drain(self, url, grace)

    async def swap(
        self, backends: Iterable[BackendLike], when_healthy_within: float, grace: float, guard: Guard | None
    ) -> SwapReport:
        """See `lbclient.l4.swap`."""
        self.probe_in_a_thread()
        with self._alone(f"a swap of pool {self.pool.name!r}", None):
            return await swap(self, backends, when_healthy_within, grace, guard)

    @contextmanager
    def _alone(self, what: str, url: str | None) -> Generator[None, None, None]:
        """One change of a backend at a time, and a swap (None) alone."""
        with self._lock:
            for backend, busy in self._changing.items():
                if backend is None or url is None or backend == url:
                    raise RuntimeError(f"{busy} is under way; wait for it before you start {what}")
            self._changing[url] = what
        try:
            yield
        finally:
            with self._lock:
                del self._changing[url]

    # Probing, and following the pool's source

    @property
    def probing(self) -> bool:
        """Whether probes run and the source is followed, or there is neither."""
        return (self.pool.probe is None and self.pool.supply is None) or (
            self._probing is not None and self._probing.running
        )

    def join(self) -> None:
        """Somebody uses the pool in this event loop until `part`: probes run here, unless they do elsewhere."""
        self._users += 1
        if not self.probing:
            self._begin().begin_here()

    async def part(self) -> None:
        """The last one who leaves ends the probes."""
        self._users -= 1
        if not self._users:
            await self.stop_probing()

    def probe_in_a_thread(self) -> None:
        """Probe from now on, for those who never join: until `stop_probing`, or the end of the process."""
        if not self.probing:
            self._begin().begin()

    async def wait_until_ready(self, within: float | None) -> None:
        """Return when the pool knows its backends, and everybody has a first probe result."""
        self.probe_in_a_thread()
        await wait_until_ready(self.pool, within)

    async def stop_probing(self) -> None:
        """No more probes, until somebody needs them again."""
        probing, self._probing = self._probing, None
        if probing is not None:
            await probing.end()

    def _begin(self) -> Probing:
        if self._probing is None:  # made when needed: it holds on to the pool
            self._probing = Probing(self.pool, None, OneContext(self.pool.connect))
        return self._probing


_fleets: weakref.WeakKeyDictionary[Pool, Fleet] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def fleet_of(pool: Pool) -> Fleet:
    """The one there is.

    Raises:
        TypeError: `pool` is no `Pool`.
    """
    if not isinstance(pool, Pool):
        raise TypeError(f"pool is {pool!r}; write a Pool, like Pool(['tcp://10.0.0.5:6379'])")
    with _lock:
        fleet = _fleets.get(pool)
        if fleet is None:
            fleet = _fleets[pool] = Fleet(pool)
        return fleet
