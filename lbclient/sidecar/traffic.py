"""What serves requests: pools, routes, limits and the proxy over them, made anew by every reload.

A reload replaces the whole with one assignment: a request sees one configuration or the other. What has not changed is
the same object before and after, so its connections, its health and its sessions stay. What is under way ends as it
began, and only then are connections closed that nobody needs any more.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from lbclient._async.transport import AsyncBalancedTransport, LeftPools
from lbclient.asgi.forwarding import ClientFrom, Trust
from lbclient.asgi.proxy import ReverseProxy
from lbclient.asgi.rate_limiting import MOST_REMEMBERED, RateLimitMiddleware
from lbclient.asgi.types import App, AtOnce, Message, Receive, Scope, Send
from lbclient.core.backend import Backend
from lbclient.core.explain import Record
from lbclient.core.facts import Header
from lbclient.core.pool import Pool
from lbclient.core.routing import Router
from lbclient.core.split import Split
from lbclient.sidecar.configuration import Configuration
from lbclient.sidecar.pools import BackendSection, PoolSection
from lbclient.sidecar.requests import Served

logger = logging.getLogger("lbclient.sidecar")

_CLOSE = (b"connection", b"close")
_STARTS = ("http.response.start", "websocket.http.response.start")


@dataclass
class Generation:
    """One configuration, and what was made of it.

    Attributes:
        configuration: It.
        pools: By name.
        splits: By name.
        router: Over them; None when nothing comes in by HTTP.
        app: What serves its requests.
        limits: The middleware that limits them, when there is one.
        trust: Whose word about the client counts.
        client_from: In which header.
        active: Requests that began with it and have not ended.
        left: The pools that its successor does not have.
    """

    configuration: Configuration
    pools: dict[str, Pool]
    splits: dict[str, Split]
    router: Router | None
    app: App
    limits: RateLimitMiddleware | None
    trust: Trust
    client_from: ClientFrom
    active: int = 0
    left: LeftPools | None = None


class Traffic:
    """An ASGI app that serves by the newest configuration.

    Args:
        secret: What signs cookies for which the file has no secret: the same through all reloads.

    Attributes:
        leaving: Whether answers close their connections, since the process is about to end.
        observers: Called with every request that is over.
    """

    def __init__(self, secret: str | None = None) -> None:
        self.leaving = False
        self.observers: tuple[Callable[[Served], None], ...] = ()
        self.transport: AsyncBalancedTransport | None = None
        self._secret = secrets.token_urlsafe(32) if secret is None else secret
        self._buckets: Any = None
        self._now: Generation | None = None
        self._before: deque[Generation] = deque()

    @property
    def generation(self) -> Generation:
        """The newest.

        Raises:
            RuntimeError: Nothing has been applied yet.
        """
        if self._now is None:
            raise RuntimeError("no configuration has been applied")
        return self._now

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools by name."""
        return {} if self._now is None else self._now.pools

    @property
    def active(self) -> int:
        """Requests that are under way."""
        return sum(generation.active for generation in (*self._before, self.generation))

    def connections(self) -> dict[str, tuple[int, int]]:
        """(open, idle) by backend URL."""
        return {} if self.transport is None else self.transport.connections()

    # Reloading

    async def apply(self, configuration: Configuration) -> None:
        """Serve by another configuration from now on.

        Raises:
            ValueError, OSError: It cannot be served; nothing has changed then.
        """
        before = self._now
        pools = {name: self._pool(name, section) for name, section in configuration.pools.items()}
        splits = {name: self._split(name, configuration, pools) for name in configuration.splits}
        router = configuration.router(pools, splits)
        updates = [
            (pool, members)
            for name, pool in pools.items()
            if (members := self._members(name, configuration.pools[name])) is not None
            and members != list(pool.declared)
        ]
        transport = self.transport
        if transport is None and router is not None:
            transport = AsyncBalancedTransport(router)
        app, limits = self._app(configuration, transport)
        left = None
        if transport is not self.transport:
            assert transport is not None
            self.transport = await transport.__aenter__()
        elif router is not None:
            assert transport is not None
            left = await transport.reroute(router)
        for pool, members in updates:
            pool.update(members)
        for name, split in splits.items():
            weights = configuration.splits[name].weights
            kept = before is not None and before.splits.get(name) is split
            if kept and before is not None and weights != before.configuration.splits[name].weights:
                split.set({pools[pool]: weight for pool, weight in weights.items()})
        proxy = configuration.proxy
        self._now = Generation(
            configuration, pools, splits, router, app, limits, proxy.trust(), proxy.client_from
        )
        if before is not None:
            before.left = left
            self._before.append(before)
            await self._forget()

    def _pool(self, name: str, section: PoolSection) -> Pool:
        """The pool that there is, or, when its options have changed, one in its place that knows what it knew."""
        before = self._now
        if before is None or name not in before.pools:
            return section.build(name, self._secret)
        old, was = before.pools[name], before.configuration.pools[name]
        if _options(section) == _options(was):
            return old
        if any(backend.admin == "standby" for backend in old.status().backends):
            raise ValueError(f"pool {name!r} is being swapped; reload its other options when that is over")
        options = section.options(self._secret)
        if section.affinity == was.affinity:
            options["affinity"] = old.affinity  # its sessions, and the secret of its cookies
        live = list(old.declared)
        if section.discovery is not None:
            # whoever is known serves until the source says more
            initial = {"initial": live} if live else section.initially()
            new = Pool(section.members(), name=name, **initial, **options)
        else:
            members = self._members(name, section)
            new = Pool(live if members is None else members, name=name, **options)
        new.inherit(old)
        return new

    def _members(self, name: str, section: PoolSection) -> list[Backend] | None:
        """The backends as they are declared now; None when the file says the same of them as before.

        What operators have changed stays, of backends of which the file says the same as before.
        """
        before = self._now
        if before is None or name not in before.pools:
            return None
        was = before.configuration.pools[name].backends
        if section.backends is None or section.backends == was:
            return None
        written = {one.build().url: one for one in was or ()}
        live = {backend.url: backend for backend in before.pools[name].declared}
        return [_as_it_is(one, written, live) for one in section.backends]

    def _split(self, name: str, configuration: Configuration, pools: Mapping[str, Pool]) -> Split:
        section = configuration.splits[name]
        before = self._now
        if before is not None and name in before.splits:
            old, was = before.splits[name], before.configuration.splits[name]
            same = section.model_copy(update={"weights": was.weights}) == was
            if same and set(old.pools) == {pools[pool] for pool in section.weights}:
                return old
            if section == was:  # a pool is another one; the weights are the operators'
                weights = {pool.name: weight for pool, weight in old.weights.items()}
                section = section.model_copy(update={"weights": weights})
        return section.build(name, dict(pools), self._secret)

    def _app(
        self, configuration: Configuration, transport: AsyncBalancedTransport | None
    ) -> tuple[App, RateLimitMiddleware | None]:
        if transport is None:
            return _nowhere, None
        proxy = ReverseProxy(transport, **configuration.proxy.options())
        section = configuration.rate_limits
        if section is None:
            return proxy, None
        limits = RateLimitMiddleware(
            proxy,
            [limit.build() for limit in section.limits],
            store=self._store() if section.store is None else section.store,
            trusted=configuration.proxy.trusted,
            client_from=configuration.proxy.client_from,
            headers=section.headers,
            fail_open=section.fail_open,
        )
        return limits, limits

    def _store(self) -> Any:
        """The buckets in memory: the same through all reloads."""
        if self._buckets is None:
            from throttled.asyncio import MemoryStore

            self._buckets = MemoryStore(options={"MAX_SIZE": MOST_REMEMBERED})
        return self._buckets

    async def _forget(self) -> None:
        """Close what nobody needs any more: the oldest first, since a request may be with any later one's pools."""
        while self._before and not self._before[0].active:
            gone = self._before.popleft()
            if gone.left is not None:
                await gone.left.aclose()
            if gone.limits is not None:
                await gone.limits.aclose()

    async def aclose(self) -> None:
        """Close every connection, also those in use."""
        for generation in (*self._before, *([] if self._now is None else [self._now])):
            if generation.limits is not None:
                await generation.limits.aclose()
        self._before.clear()
        if self.transport is not None:
            await self.transport.aclose()

    # Serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        generation = self.generation
        began = perf_counter()
        sending = _Watched(self, send)
        generation.active += 1
        try:
            await generation.app(scope, receive, sending)
        except Exception as exc:  # noqa: BLE001  # the server cuts the connection of a response that is not whole
            logger.warning("%s %s broke off: %r", scope.get("method", "WebSocket"), scope["path"], exc)
        finally:
            generation.active -= 1
            if self.observers:
                record = scope.get("state", {}).get("lbclient")
                seconds = perf_counter() - began
                self._tell(generation, scope, sending.status, sending.sent, seconds, record)
            if not generation.active and self._before:
                await self._forget()

    def refused(self, scope: Scope, status: int, sent: int) -> None:
        """A request that the server did not let through to us.

        Args:
            scope: As much as is known of it.
            status: What it was answered with; 0 when it was not.
            sent: Bytes of the answer's body.
        """
        self._tell(self.generation, scope, status, sent, 0.0, None)

    def _tell(
        self,
        generation: Generation,
        scope: Scope,
        status: int,
        sent: int,
        seconds: float,
        record: Record | None,
    ) -> None:
        source = generation.client_from
        served = Served(scope, generation.trust, source, status, sent, seconds, record)
        for observer in self.observers:
            observer(served)


class _Watched:
    """ASGI's `send`, with an eye on what is sent.

    Attributes:
        status: Of the response; 101 for a WebSocket that was opened, 0 before.
        sent: Bytes of its body.
    """

    __slots__ = ("_send", "_traffic", "sent", "status")

    def __init__(self, traffic: Traffic, send: Send) -> None:
        self._traffic = traffic
        self._send = send
        self.status = self.sent = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            self.sent += len(message.get("body", b""))
        elif kind in _STARTS:
            self.status = message["status"]
            if self._traffic.leaving:
                message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
        elif kind == "websocket.accept":
            self.status = 101
        await self._send(message)

    def at_once(self, status: int, headers: list[Header], body: bytes) -> bool:
        """See `AtOnce`."""
        at_once: AtOnce | None = getattr(self._send, "at_once", None)
        if at_once is None:
            return False
        if self._traffic.leaving:
            headers = [*headers, _CLOSE]
        taken = at_once(status, headers, body)
        if taken:
            self.status, self.sent = status, len(body)
        return taken


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing comes in by HTTP."""
    raise RuntimeError("there is no route")


def _options(section: PoolSection) -> Iterable[tuple[str, object]]:
    """All of a pool's section but its backends."""
    return sorted(section.given("backends").items())


def _as_it_is(
    section: BackendSection, written: Mapping[str, BackendSection], live: Mapping[str, Backend]
) -> Backend:
    backend = section.build()
    unchanged = written.get(backend.url) == section
    return live.get(backend.url, backend) if unchanged else backend
