"""What the proxy does with requests, and how many it takes, as a configuration file describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import httpx
from pydantic import Field, field_validator

from lbclient.asgi.forwarding import Trust
from lbclient.asgi.rate_limiting import REDIS, RateLimit
from lbclient.asgi.settings import Settings
from lbclient.sidecar.section import Built, Count, Off, Seconds, SecretText, Section


class ProxySection(Built):
    """How requests are passed on."""

    trusted: list[str] = []
    """Proxies in front of this one, whose X-Forwarded-* and Forwarded headers count: networks, "unix", or "*"."""
    client_from: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """In which of their headers the client's address is looked for."""
    forwarded: bool = False
    """Tell backends the client also in a Forwarded header."""
    via: Annotated[str | None, Off] = "lbclient"
    """The name in Via; off for none."""
    rewrite_location: bool = True
    """A Location at a backend's own address becomes one that the client can follow."""
    rewrite_cookies: bool = True
    """The Domain and Path of Set-Cookie likewise."""
    max_body: Annotated[int, Field(ge=0)] | None = None
    """Bytes that a request's body may have; null for any number."""
    body_timeout: Seconds | None = 60.0
    """How long a client may be silent in the middle of its body; null for any time."""
    timeout: Seconds = 60.0
    """How long a backend may be silent."""
    connect_timeout: Seconds = 5.0
    """For connecting to a backend, when no other is left to try."""
    queue_timeout: Seconds = 5.0
    """How long a request may wait for a connection, or for room in a full pool."""
    deadline: Seconds | None = None
    """Until a response has to be whole, all attempts included."""
    max_message: Count = 16 * 1024 * 1024
    """Bytes of a message that a backend sends over a WebSocket."""
    ping_interval: Seconds | None = 20.0
    """Between pings to a WebSocket's backend; null for none."""
    ping_timeout: Seconds = 20.0
    """How long one may take to answer."""

    def build(self) -> Settings:
        """The proxy's settings, as a check of all of them."""
        options: dict[str, Any] = {name: getattr(self, name) for name in _SETTINGS}
        return Settings(**options, timeout=self.timeouts())

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `ReverseProxy`."""
        return {**self.given("timeout", "connect_timeout", "queue_timeout"), "timeout": self.timeouts()}

    def timeouts(self) -> httpx.Timeout:
        """For backends."""
        return httpx.Timeout(self.timeout, connect=self.connect_timeout, pool=self.queue_timeout)

    def trust(self) -> Trust:
        """Whose word about the client counts."""
        return Trust(self.trusted)


_SETTINGS = tuple(
    name for name in ProxySection.model_fields if name not in ("timeout", "connect_timeout", "queue_timeout")
)


class RateLimitSection(Built):
    """How often each client may ask."""

    name: str = "default"
    """In headers and in the store; limits need a name each."""
    requests: Count
    """How many, in `per`."""
    per: Annotated[int, Field(ge=1)] = 1
    """Seconds, whole."""
    burst: Count | None = None
    """How many may come at once; by default as many as `requests`."""
    key: str = "client_ip"
    """Who counts as one: client_ip, path, header:NAME, cookie:NAME or query:NAME."""
    path: str | None = None
    """The requests that count, as in a route: "/login", or "/api/*"."""
    methods: list[str] | None = None
    """Likewise, such as [POST]."""

    def build(self) -> RateLimit:
        """The limit."""
        return RateLimit(**self.given())


class RateLimitsSection(Section):
    """Limits on how often clients may ask: 429 for those who ask too often."""

    limits: Annotated[list[RateLimitSection], Field(min_length=1)]
    """All that are for a request have to let it pass."""
    store: SecretText | None = None
    """The URL of a Redis that several sidecars share; by default the memory of this process."""
    headers: bool = True
    """Whether clients are told by RateLimit headers where they stand."""
    fail_open: bool = True
    """Whether requests pass while the store cannot be reached."""

    @field_validator("store")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(REDIS):
            raise ValueError("store is no URL of a Redis; write one such as 'redis://127.0.0.1:6379/0'")
        return value
