"""Limits on how often somebody may ask: a token bucket each, in memory or shared through Redis (throttled-py).

The algorithm is GCRA, which is the token bucket without a timer: a bucket holds `burst` tokens, one goes with each
request, and they come back at `requests` in `per` seconds. Who finds none gets 429 and is told when the next one will
be there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from lbclient.asgi.facts import facts_of
from lbclient.asgi.forwarding import ClientFrom, Trust, client_of
from lbclient.asgi.lifespan import around_lifespan
from lbclient.asgi.refusals import STARTS, Refusal, refuse
from lbclient.asgi.types import App, Message, Receive, Scope, Send
from lbclient.core.checks import check_flag, check_methods, check_whole
from lbclient.core.facts import Facts, Header, KeyLike, KeyReader, key_reader
from lbclient.core.patterns import Pattern, checked_path, path_pattern

if TYPE_CHECKING:
    from throttled.asyncio import BaseRateLimiter, BaseStore

logger = logging.getLogger("lbclient.asgi")

MOST_REMEMBERED = 100_000  # buckets in memory; those that were not used for the longest time are forgotten
REDIS_TIMEOUT = 1.0  # seconds
REDIS = ("redis://", "rediss://", "unix://", "redis+sentinel://", "redis+cluster://")
_IPV6_CUSTOMER = 64  # bits: a customer has a network of that size, and any address in it


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How often each client may ask.

    Args:
        requests: How many, in `per` seconds; >= 1.
        per: Seconds, whole; >= 1.
        burst: How many may come at once; None for `requests`.
        key: Who counts as one: "client_ip" (of IPv6 the /64), "header:NAME", "cookie:NAME", "query:NAME", "path", or a
            callable of the request's facts. A request that has no such key is not limited.
        path: The requests that count, as in `Route`: "/login", or "/api/*". None for all.
        methods: Likewise, such as ("POST",). None for all.
        name: In headers and in the store; limits that share a store and a name share their buckets.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    requests: int
    per: int = 1
    burst: int | None = None
    key: KeyLike = "client_ip"
    path: str | None = None
    methods: Collection[str] | None = None
    name: str = "default"

    _read: KeyReader = field(init=False, repr=False, compare=False)
    _path: Pattern | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_whole("requests", self.requests, at_least=1)
        check_whole("per", self.per, at_least=1)
        if self.burst is not None:
            check_whole("burst", self.burst, at_least=1)
        if self.methods is not None:
            check_methods(self.methods)
        if not self.name.isascii() or not self.name.isprintable() or '"' in self.name or "\\" in self.name:
            raise ValueError(f"name is {self.name!r}; write printable ASCII without quotes")
        object.__setattr__(self, "_read", _by_address if self.key == "client_ip" else key_reader(self.key))
        object.__setattr__(self, "_path", path_pattern(checked_path(self.path)))

    def _is_at(self, path: str) -> bool:
        """Encoded or not: who writes %6c for an l is limited all the same."""
        assert self._path is not None
        return self._path.match(path) is not None or self._path.match(unquote(path)) is not None

    def bucket(self, facts: Facts) -> str | None:
        """Whose tokens a request takes; None when this limit is not for it."""
        if self._path is not None and not self._is_at(facts.path):
            return None
        if self.methods is not None and facts.method not in self.methods:
            return None
        key = self._read(facts)
        return None if key is None else f"{self.name}:{key.decode('utf-8', 'backslashreplace')}"


class RateLimitMiddleware:
    """Answers 429 to those who ask too often, with Retry-After; everybody is told by RateLimit headers where he stands.

    Args:
        app: What is protected.
        limits: One or several; of several, every one that is for a request has to let it pass.
        store: None for the memory of this process; the URL of a Redis ("redis://127.0.0.1:6379/0",
            "redis+sentinel://...", "redis+cluster://...") for a limit that several processes share; or a store of
            throttled-py's own, which stays yours to close.
        trusted: As in `ReverseProxy`: whose word about the client's address counts.
        client_from: Likewise.
        headers: Whether to send the RateLimit headers.
        fail_open: Whether requests pass while the store cannot be reached; else they get 503.

    Raises:
        ValueError, TypeError: An argument is out of its range.
        ImportError: throttled-py is missing; the message says how to install it.
    """

    def __init__(
        self,
        app: App,
        limits: RateLimit | Iterable[RateLimit],
        *,
        store: str | BaseStore | None = None,
        trusted: Iterable[str] = (),
        client_from: ClientFrom = "x-forwarded-for",
        headers: bool = True,
        fail_open: bool = True,
    ) -> None:
        self.app = app
        self._limits = [limits] if isinstance(limits, RateLimit) else list(limits)
        if not self._limits or not all(isinstance(limit, RateLimit) for limit in self._limits):
            raise TypeError(f"limits is {limits!r}; write RateLimit(...), or a list of them")
        self._trust = Trust(trusted)
        self._client_from: ClientFrom = client_from
        self._headers = check_flag("headers", headers)
        self._fail_open = check_flag("fail_open", fail_open)
        self._failing = False
        shared = _store(store)
        # throttled-py has no public way to close a store.
        self._own_store: Any = shared if isinstance(store, str) else None
        self._limiters = [(limit, _limiter(limit, shared)) for limit in self._limits]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, around_lifespan(send, _nothing, self.aclose))
            return
        told: list[Header] = []
        try:
            standing = await self._take(facts_of(scope, client_of(scope, self._trust, self._client_from)))
            if standing is not None and self._headers:
                told = standing.headers()
            if standing is not None and standing.retry_after > 0:
                seconds = math.ceil(standing.retry_after)
                raise Refusal(429, "too many requests", [(b"retry-after", b"%d" % seconds), *told])
        except Refusal as refusal:
            await refuse(refusal, scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] in STARTS:
                message = {**message, "headers": [*message.get("headers", ()), *told]}
            await send(message)

        await self.app(scope, receive, sending if told else send)

    async def aclose(self) -> None:
        """Close the connections to Redis, unless the store was given. The end of the lifespan does it."""
        if self._own_store is not None:
            await self._own_store._backend.get_client().connection_pool.disconnect()

    async def _take(self, facts: Facts) -> Standing | None:
        """Take a token from every bucket of a request; where it stands in the emptiest of them."""
        worst: Standing | None = None
        for limit, limiter in self._limiters:
            bucket = limit.bucket(facts)
            if bucket is None:
                continue
            standing = await self._ask(limit, limiter, bucket)
            if standing is None:
                continue
            if standing.retry_after > 0:
                return standing
            if worst is None or standing.share < worst.share:
                worst = standing
        return worst

    async def _ask(self, limit: RateLimit, limiter: BaseRateLimiter, bucket: str) -> Standing | None:
        try:
            result = await limiter.limit(bucket)
        except _unreachable() as exc:
            if not self._failing:
                self._failing = True
                logger.warning("the store of rate limits cannot be reached: %s", exc)
            if self._fail_open:
                return None
            raise Refusal(503, "rate limits cannot be checked", [(b"retry-after", b"1")]) from exc
        if self._failing:
            self._failing = False
            logger.info("the store of rate limits can be reached again")
        state = result.state
        wait = state.retry_after if result.limited else 0.0
        return Standing(limit, state.limit, state.remaining, state.reset_after, wait)


class Standing(NamedTuple):
    """Where somebody stands in a limit.

    Attributes:
        limit: Which one.
        capacity: Tokens that his bucket can hold.
        remaining: Tokens that it holds.
        reset_after: Seconds until it is full.
        retry_after: Seconds until there is a token; 0 when there was one.
    """

    limit: RateLimit
    capacity: int
    remaining: int
    reset_after: float
    retry_after: float

    @property
    def share(self) -> float:
        """How full the bucket is, from 0 to 1."""
        return self.remaining / self.capacity

    def headers(self) -> list[Header]:
        """The fields of draft-ietf-httpapi-ratelimit-headers, and their older form that more clients read."""
        limit, reset = self.limit, math.ceil(self.reset_after)
        return [
            (b"ratelimit-policy", f'"{limit.name}";q={limit.requests};w={limit.per}'.encode()),
            (b"ratelimit", f'"{limit.name}";r={self.remaining};t={reset}'.encode()),
            (b"ratelimit-limit", b"%d" % self.capacity),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % reset),
        ]


def _by_address(facts: Facts) -> bytes | None:
    address = facts.client_ip
    if address is None:
        return None
    try:
        parsed = ip_address(address)
    except ValueError:
        return address.encode()
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed, _IPV6_CUSTOMER), strict=False)).encode()
    return address.encode()


async def _nothing() -> None:
    """Buckets need no start."""


def _throttled() -> Any:
    """The library, imported where it is used."""
    try:
        import throttled.asyncio as library
    except ImportError as exc:
        raise ImportError("rate limits need throttled-py: pip install 'lbclient[asgi]'") from exc
    return library


def _store(store: str | BaseStore | None) -> BaseStore:
    library = _throttled()
    if store is None:
        made: BaseStore = library.MemoryStore(options={"MAX_SIZE": MOST_REMEMBERED})
        return made
    if not isinstance(store, str):
        return store
    if not store.startswith(REDIS):
        raise ValueError(f"store is {store!r}; write a URL such as 'redis://127.0.0.1:6379/0', or None")
    timeouts = {"SOCKET_TIMEOUT": REDIS_TIMEOUT, "SOCKET_CONNECT_TIMEOUT": REDIS_TIMEOUT}
    shared: BaseStore = library.RedisStore(server=store, options=timeouts)
    return shared


def _limiter(limit: RateLimit, store: BaseStore) -> BaseRateLimiter:
    rate_limiter = _throttled().rate_limiter
    burst = limit.requests if limit.burst is None else limit.burst
    quota = rate_limiter.per_duration(timedelta(seconds=limit.per), limit.requests, burst)
    made: BaseRateLimiter = rate_limiter.GCRARateLimiter(quota, store, key_prefix="lbclient")
    return made


def _unreachable() -> tuple[type[Exception], ...]:
    """What a store raises when it cannot be reached."""
    from throttled.exceptions import BaseThrottledError

    return (BaseThrottledError, OSError)
