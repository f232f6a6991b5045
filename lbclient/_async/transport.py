"""The transport: `httpx.AsyncClient(transport=AsyncBalancedTransport([...]))`, and each request picks its backend."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from time import time
from types import TracebackType
from typing import Any, NoReturn, cast

import anyio
import httpx

from lbclient._async.deploy import drain, swap
from lbclient._async.engine import Answer
from lbclient._async.errors import DeadlineExceeded
from lbclient._async.exchange import Exchange
from lbclient._async.inner import Inner
from lbclient._async.pool_io import PoolIO, check_schemes
from lbclient._async.readiness import wait_until_ready
from lbclient._async.streams import BalancedStream
from lbclient.context import CLIENT, ClientContext
from lbclient.core import errors as core_errors
from lbclient.core.checks import check_number
from lbclient.core.cookies import without_cookie
from lbclient.core.deploy import DrainReport, Guard, SwapReport
from lbclient.core.facts import Facts, Header
from lbclient.core.forking import new_lock
from lbclient.core.members import BackendLike, declared_as, known_as
from lbclient.core.options import check_options
from lbclient.core.pool import OPTIONS, Pool
from lbclient.core.routing import Router
from lbclient.core.source import Source
from lbclient.core.split import Split

_SCHEMES = frozenset({"http", "https", "ws", "wss"})  # what httpcore takes


class AsyncBalancedTransport(httpx.AsyncBaseTransport):
    """Spreads the requests of an `httpx.AsyncClient` over backends.

    Args:
        target: A `Pool`, `Router` or `Split`, or what a pool is made of: a list of URLs and `Backend`s, or a `Source`.
        inner: A function from `Backend` to `httpx.AsyncBaseTransport`, for those who bring their own connections:
            `ASGITransport`, `MockTransport`, proxies.
        pool_options: Arguments of `Pool`, when `target` is a list or a source.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.

    Attributes:
        gives_back_at_once: Whether no request waits for anything while it gives back what it took, so that cancelling
            cuts nothing off. It is so on asyncio where all pools use the native engine.

    Passing `transport=` to a client turns its environment proxies off: that is httpx's rule.
    """

    def __init__(
        self,
        target: Pool | Router | Split | Source | Iterable[BackendLike],
        *,
        inner: Inner | None = None,
        **pool_options: Any,
    ) -> None:
        if isinstance(target, (Pool, Router, Split)):
            if pool_options:
                raise TypeError(
                    f"{', '.join(pool_options)}: options of a pool go to Pool(...) when you make it yourself"
                )
            router = target if isinstance(target, Router) else Router([], default=target)
        else:
            check_options(pool_options, OPTIONS)
            router = Router([], default=Pool(target, **pool_options))
        self._inner = inner
        self._routing = (router, {pool.name: PoolIO(pool, inner) for pool in router.pools})
        self.gives_back_at_once = _all_native(self._ios)
        self._left: set[PoolIO] = set()
        self._entered = False
        self._closed = False
        self._says_so = True  # when nobody closes it
        self._changing: dict[tuple[str, str | None], str] = {}
        self._changing_lock = new_lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a transport has connections, which belong to this process; make one where it is used"
        )

    def __repr__(self) -> str:
        pools = ", ".join(repr(io.pool) for io in self._ios.values())
        return f"<AsyncBalancedTransport {pools}{', closed' if self._closed else ''}>"

    @property
    def router(self) -> Router:
        """Which pool serves which request; for a pool, a router whose default it is."""
        return self._routing[0]

    @property
    def _ios(self) -> Mapping[str, PoolIO]:
        return self._routing[1]

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools by name."""
        return {name: io.pool for name, io in self._ios.items()}

    def connections(self) -> dict[str, tuple[int, int]]:
        """Connections (open, idle) by backend URL; empty-handed for transports of the caller's own."""
        total: dict[str, tuple[int, int]] = {}
        for io in self._ios.values():
            for url, (opened, idle) in io.connections().items():
                before = total.get(url, (0, 0))
                total[url] = (before[0] + opened, before[1] + idle)
        return total

    async def wait_until_ready(self, timeout: float | None = 10.0) -> None:
        """Wait until every pool knows its backends, and for the first probe result of each.

        Args:
            timeout: Seconds; None for as long as it takes.

        Raises:
            ValueError, TypeError: `timeout` is no number of 0 or more.
            TimeoutError: A source has not said its first set, or some backend is still unknown; the message names it.
        """
        self._check_open()
        if timeout is not None:
            check_number("timeout", timeout, at_least=0)
        with anyio.move_on_after(timeout) as scope:
            for io in self._ios.values():
                io.probing.begin()
                await wait_until_ready(io.pool, None)
        if scope.cancelled_caught:
            for io in self._ios.values():
                await wait_until_ready(io.pool, 0)

    async def drain(self, url: str, *, grace: float = 300.0, pool: str | None = None) -> DrainReport:
        """Take a backend out without a broken request: no new picks from now on, and what is in flight may finish.

        Idle backends drain at once; one with sticky sessions keeps them until the grace period ends. Then the remaining
        connections are closed and their callers get a `DrainTimeout`. When this returns the backend is disabled.

        Args:
            url: How the backend is known.
            grace: Seconds; >= 0.
            pool: Where, when several pools have it.

        Raises:
            ValueError: The backend or the pool is unknown.
            RuntimeError: The backend is being drained already, or its pool is being swapped.
        """
        url = known_as(url)
        io = self._io_of(url, pool)
        with self._alone(f"a drain of {url}", io, url):
            return await drain(io, url, grace)

    async def swap(
        self,
        backends: Iterable[BackendLike],
        *,
        pool: str | None = None,
        when_healthy_within: float = 60.0,
        grace: float = 300.0,
        guard: Guard | None = None,
    ) -> SwapReport:
        """Flip to another set of backends at once (blue/green).

        The new ones join on standby, probed and not picked. Once *all* of the new set pass their probes (in a pool
        without a probe: at once) one assignment lets them serve, and the old ones drain. When they do not pass in time
        nothing changes. With a guard the old set stays on standby for the guard's window, and serves again when the
        share of requests that succeed falls by more than the guard allows.

        Args:
            backends: The whole new set; those that are members already stay.
            pool: Where; may be left out when there is one pool.
            when_healthy_within: Seconds; >= 0.
            grace: Seconds that the old ones have to drain; >= 0.
            guard: Whether and when to go back.

        Raises:
            ValueError, TypeError: An argument is out of its range, or the pool is unknown.
            RuntimeError: The pool is being swapped already, or one of its backends drained.
        """
        io = self._io_of(None, pool)
        declared = declared_as(backends)
        check_schemes(io.pool, declared)
        with self._alone(f"a swap of pool {io.pool.name!r}", io, None):
            return await swap(io, declared, when_healthy_within, grace, guard)

    async def reroute(self, target: Pool | Router | Split) -> LeftPools:
        """Route by other rules from now on. What is under way goes on as it began.

        Pools that are in both (the same objects) keep their connections and their probes.

        Args:
            target: Who serves requests now.

        Returns:
            The pools that left. They are not probed any more. Their connections are open until it is closed, which cuts
            off those in use: do so when the requests that began before have ended.

        Raises:
            TypeError: `target` is no pool, router or split.
        """
        self._check_open()
        if not isinstance(target, (Pool, Router, Split)):
            raise TypeError(f"target is {target!r}; write a Pool, a Router or a Split")
        router = target if isinstance(target, Router) else Router([], default=target)
        before = self._ios
        known = {io.pool: io for io in before.values()}
        ios = {pool.name: known.get(pool) or PoolIO(pool, self._inner) for pool in router.pools}
        self.gives_back_at_once = _all_native(ios)
        self._routing = (router, ios)  # one assignment: a request sees the old routes or the new ones
        left = [io for io in before.values() if io.pool not in router.pools]
        if self._entered:
            for io in ios.values():
                io.probing.begin_here()
        self._left.update(left)
        for io in left:
            await io.probing.end()
        return LeftPools(left, self._left)

    def _io_of(self, url: str | None, pool: str | None) -> PoolIO:
        """The pool of that name, or the only one there is, or the only one that has the backend."""
        self._check_open()
        if pool is not None:
            if pool not in self._ios:
                raise ValueError(f"pool is {pool!r}; the pools are {', '.join(map(repr, self._ios))}")
            return self._ios[pool]
        having = [
            io
            for io in self._ios.values()
            if url is None or url in {backend.url for backend in io.pool.declared}
        ]
        if len(having) == 1:
            return having[0]
        what = "this transport" if url is None else repr(url)
        names = ", ".join(repr(io.pool.name) for io in having)
        raise ValueError(f"{what} is in {'no pool' if not having else f'the pools {names}'}; write pool=")

    @contextmanager
    def _alone(self, what: str, io: PoolIO, url: str | None) -> Generator[None, None, None]:
        """One change of a backend at a time, and a swap of a pool alone."""
        name = io.pool.name
        with self._changing_lock:
            for (other, backend), busy in self._changing.items():
                if other == name and (backend is None or url is None or backend == url):
                    raise RuntimeError(f"{busy} is under way; wait for it before you start {what}")
            self._changing[name, url] = what
        try:
            yield
        finally:
            with self._changing_lock:
                del self._changing[name, url]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` to a backend, and as the pool's `Retry` says to another one.

        Raises:
            NoBackendAvailable: Nobody may be picked (it is an `httpx.ConnectError`).
            DeadlineExceeded: The request's own deadline passed (it is an `httpx.TimeoutException`).
            NoRoute: A router has no route for the request; the message lists those it has.
            httpx.UnsupportedProtocol: The URL has no scheme (a client without `base_url` was given a path), or another
                one than http, https, ws and wss.
            httpx.HTTPError: As httpx's own transport would, with a note that names the backend and with the record as
                `.lbclient`.
            RuntimeError: The transport is closed.
        """
        answer = await self.answer(request, request.headers.raw)
        stream = cast(BalancedStream, answer.stream)
        stream.response = response = httpx.Response(
            answer.status, headers=answer.headers, stream=stream, extensions=answer.extensions
        )
        return response

    async def answer(self, request: httpx.Request, headers: list[Header]) -> Answer:
        """The same in header pairs, for those who pass on requests and have no use for httpx's own objects.

        Args:
            request: The request.
            headers: Its headers.

        Returns:
            The answer, whose `stream` is a `BalancedStream`; it has to be closed.
        """
        self._check_open()
        if request.url.scheme not in _SCHEMES:
            raise _unsupported(request)
        client = CLIENT.get()
        try:
            facts = _RequestFacts(request, headers, client)
        except core_errors.DeadlineExceeded as exc:
            raise DeadlineExceeded(str(exc), request=request) from None
        now = time()
        router, ios = self._routing
        routed = router.route(facts, now)
        io = ios[routed.pool.name]
        if not io.probing.running:
            io.probing.begin()
        # Before the pick: from there to `engine.send` nothing may come in between.
        engine = io.engine_at_once() or await io.engine()
        plan = io.pool.attempts(facts, now)
        for name in routed.strip:
            headers = without_cookie(headers, name)
        exchange = Exchange(plan, request, headers, lambda: self._closed)
        ticket, answer = await exchange.carry_out(engine, exchange.first_at_once() or await exchange.first())
        if routed.set_cookie is not None or plan.pool.affinity is not None:
            new = [each for each in (routed.set_cookie, plan.answer(answer.headers)) if each is not None]
            if client is not None and client.affinity_cookies:
                client.keep(new)
            else:
                answer.headers = [*answer.headers, *new]
        answer.stream = stream = exchange.stream(ticket, answer)
        answer.extensions["lbclient"] = stream.record
        return answer

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not sys.is_finalizing():
            were_open = [io.pool.name for io in self._ios.values() if io.drop()]
            if were_open and self._says_so:
                warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(
                "this balanced transport is closed; make a new one (a client closes its transport)"
            )

    async def __aenter__(self) -> AsyncBalancedTransport:
        self._check_open()
        self._entered = True
        for io in self._ios.values():
            io.probing.begin_here()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop probing and close every connection, also those in use. A closed transport refuses requests."""
        if not self._closed:
            self._closed = True
            for io in (*self._ios.values(), *self._left):
                await io.aclose()
            self._left.clear()


def _unsupported(request: httpx.Request) -> httpx.UnsupportedProtocol:
    """What httpx's own transport would raise, and what to write instead."""
    scheme = request.url.scheme
    wrong = f"'{scheme}://' instead of" if scheme else "no"
    return httpx.UnsupportedProtocol(
        f"the request's URL {str(request.url)!r} has {wrong} 'http://' or 'https://'; "
        "write the logical one, like 'http://orders/42', or give the client a base_url",
        request=request,
    )


class LeftPools:
    """Pools that a transport does not route to any more.

    Args:
        ios: Their connections.
        known: Those of all pools that left the transport, and are not closed yet.
    """

    def __init__(self, ios: list[PoolIO], known: set[PoolIO]) -> None:
        self._ios = ios
        self._known = known

    def __repr__(self) -> str:
        return f"<LeftPools {', '.join(repr(io.pool.name) for io in self._ios)}>"

    async def aclose(self) -> None:
        """Close their connections, also those in use."""
        for io in self._ios:
            await io.aclose()
            self._known.discard(io)


def _all_native(ios: Mapping[str, PoolIO]) -> bool:
    return all(io.native for io in ios.values())


class _RequestFacts(Facts):
    """The facts of an `httpx.Request`, and of whom it is made for; its URL is looked at when somebody asks."""

    def __init__(self, request: httpx.Request, headers: list[Header], client: ClientContext | None) -> None:
        self._request = request
        self.method = request.method
        self.headers = headers
        options: Mapping[str, object] | None = request.extensions.get("lbclient")
        # An ABC takes its time to answer, and is asked last.
        if options is not None and not isinstance(options, (dict, Mapping)):
            raise TypeError(
                f'request.extensions["lbclient"] is {options!r}; write a dict, like {{"key": "tenant-7"}}'
            )
        self.options = options or {}
        if client is not None:
            self.headers = client.headers(headers)
            self.options = client.options(self.options)

    @property
    def target(self) -> bytes:  # type: ignore[override]  # read-only here
        """Path and query as they go over the wire."""
        return self._request.url.raw_path

    @property
    def host(self) -> str:  # type: ignore[override]  # read-only here
        """The logical host."""
        return self._request.url.host

    @property
    def content(self) -> bytes | None:
        """The body, where all of it is in memory."""
        return self._request.content if isinstance(self._request.stream, httpx.ByteStream) else None

    @property
    def scheme(self) -> str:  # type: ignore[override]  # read-only here
        """The logical scheme."""
        return self._request.url.scheme
