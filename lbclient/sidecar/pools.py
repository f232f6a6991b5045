"""Pools as a configuration file describes them: every option of `Pool`, and of what is given to it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from lbclient.core.affinity import AppCookieAffinity, CookieAffinity, KeyAffinity
from lbclient.core.algorithms import BY_NAME, Algorithm, from_name
from lbclient.core.backend import Backend
from lbclient.core.connect import Connect
from lbclient.core.pool import Pool
from lbclient.core.source import Source
from lbclient.sidecar.policies import HedgeSection, PassiveSection, ProbeSection, RetrySection
from lbclient.sidecar.section import (
    Built,
    CertificateSection,
    Count,
    FilePath,
    Off,
    Seconds,
    SecretText,
    Share,
    short_form,
)
from lbclient.sidecar.sources import DiscoverySection


class BackendSection(Built):
    """A server: its URL, or a mapping with more."""

    model_config = ConfigDict(json_schema_extra=short_form("url"))

    url: str
    """Where it listens, like http://10.0.0.5:8080, with an optional path prefix."""
    weight: Annotated[float, Field(ge=0)] = 1
    """Its share next to the others."""
    zone: str | None = None
    """Where it runs."""
    priority: Annotated[int, Field(ge=0)] = 0
    """0 is used first; higher numbers help when too few of the lower ones are available."""
    host: str | None = None
    """Replaces the Host header and the TLS server name that it sees."""
    uds: str | None = None
    """The path of a Unix socket to connect to instead of the URL's host and port."""
    draining: bool = False
    """Whether it is about to leave: it takes no new picks, and serves only clients that are tied to it."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything; filters look at it, and algorithms of your own."""

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    def build(self) -> Backend:
        """The backend."""
        return Backend(**self.given())


def _algorithm(value: object) -> Algorithm:
    if isinstance(value, str):
        return from_name(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"is {value!r}; write a name, or a mapping with 'name' and options")
    options = dict(cast("Mapping[str, Any]", value))
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in BY_NAME:
        raise ValueError(f"name is {name!r}; write one of: {', '.join(BY_NAME)}")
    try:
        return BY_NAME[name](**options)
    except TypeError as exc:
        raise ValueError(f"{name}: {exc}") from exc
    except ImportError as exc:
        raise ValueError(str(exc)) from exc


AlgorithmSetting: TypeAlias = Annotated[
    Any,
    BeforeValidator(_algorithm),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(BY_NAME)},
                {
                    "type": "object",
                    "properties": {"name": {"enum": list(BY_NAME)}},
                    "required": ["name"],
                    "additionalProperties": True,
                },
            ],
            "description": "Its name, or a mapping with `name` and the algorithm's own options.",
        }
    ),
]


_AFFINITIES: Mapping[str, type[CookieAffinity | AppCookieAffinity | KeyAffinity]] = {
    "cookie": CookieAffinity,
    "app_cookie": AppCookieAffinity,
    "key": KeyAffinity,
}


class AffinitySection(Built):
    """What ties a client to a backend (sticky sessions)."""

    kind: Literal["cookie", "app_cookie", "key"]
    """The balancer's own cookie, the application's, or a hash of the request."""
    name: str | None = None
    """cookie, app_cookie: the cookie's name."""
    secret: SecretText | list[SecretText] | None = None
    """cookie: what it is signed with; of several the first signs, all verify. By default one of this process."""
    max_age: Seconds | None = None
    """cookie: until the choice is made anew."""
    path: str | None = None
    """cookie: the part of the service that shares the choice."""
    secure: bool | None = None
    """cookie: for https only; by default when it was set over https."""
    samesite: Literal["strict", "lax", "none"] | None = None
    """cookie: which requests from other sites carry it."""
    sticky_while_draining: bool = True
    """cookie, app_cookie: whether a backend that drains goes on serving its clients."""
    ttl: Seconds | None = None
    """app_cookie: after its last use a session is forgotten."""
    size: Count | None = None
    """app_cookie: how many sessions are remembered."""
    key: str | None = None
    """key: client_ip, path, header:NAME, cookie:NAME or query:NAME."""

    def build(self, default_secret: str | None = None) -> CookieAffinity | AppCookieAffinity | KeyAffinity:
        """The affinity.

        Args:
            default_secret: What signs the cookie when the file says nothing of it.
        """
        made = _AFFINITIES[self.kind]
        options = self.given("kind")
        known = [field.name for field in fields(made) if field.init]
        foreign = sorted(set(options) - set(known))
        if foreign:
            raise ValueError(
                f"kind is {self.kind!r}, which has no {', '.join(foreign)}; it has {', '.join(known)}"
            )
        if made is CookieAffinity and default_secret is not None:
            options.setdefault("secret", default_secret)
        return made(**options)


def _option_name(value: object) -> object:
    if isinstance(value, str) and value.startswith(("SO", "SOL_", "IPPROTO_", "TCP_", "IP_", "IPV6_")):
        number = getattr(socket, value, None)
        if not isinstance(number, int):
            raise ValueError(f"is {value!r}, which this system does not have")
        return number
    return value


OptionNumber: TypeAlias = Annotated[int, BeforeValidator(_option_name, json_schema_input_type=int | str)]


class ConnectSection(Built):
    """How connections to backends are made."""

    verify: Annotated[bool | FilePath, Field(union_mode="left_to_right")] = True
    """Certificates: true (the usual authorities), false (not verified), or the file of those to trust."""
    cert: CertificateSection | None = None
    """A client certificate."""
    http1: bool = True
    """Whether HTTP/1.1 may be spoken."""
    http2: bool = False
    """Whether HTTP/2 may be spoken."""
    max_connections: Count | None = 100
    """Per backend; null for no limit."""
    max_idle: Annotated[int, Field(ge=0)] | None = 100
    """Kept open per backend; null for no limit."""
    keepalive_expiry: Seconds | None = 5.0
    """How long an idle connection is kept; null for ever."""
    connect_timeout: Seconds = 1.0
    """For one attempt while another backend is left to try."""
    start_next_after: Seconds | None = None
    """After this another backend is asked for a connection as well."""
    local_address: str | None = None
    """The address to connect from."""
    socket_options: list[list[OptionNumber]] | None = None
    """Level, name and value of each, like [SOL_SOCKET, SO_KEEPALIVE, 1]."""
    engine: Literal["auto", "native", "httpcore"] = "auto"
    """What speaks HTTP."""

    def build(self) -> Connect:
        """The settings."""
        options = self.given("cert", "socket_options")
        if self.cert is not None:
            one = self.cert
            if one.key is None:
                options["cert"] = one.certificate
            elif one.password is None:
                options["cert"] = (one.certificate, one.key)
            else:
                options["cert"] = (one.certificate, one.key, one.password)
        if self.socket_options is not None:
            for option in self.socket_options:
                if len(option) != 3:
                    raise ValueError(f"a socket option is {option!r}; write three: level, name and value")
            options["socket_options"] = [tuple(option) for option in self.socket_options]
        return Connect(**options)


class PoolSection(Built):
    """A set of backends with one algorithm and one set of policies."""

    backends: Annotated[list[BackendSection], Field(min_length=1)] | None = None
    """Its members: URLs, or mappings with more."""
    discovery: DiscoverySection | None = None
    """Where its members come from, instead of `backends`."""
    initial: Annotated[list[BackendSection], Field(min_length=1)] | None = None
    """With `discovery`: who serves until it has said its first set."""
    algorithm: AlgorithmSetting = None
    """How backends are picked."""
    probe: Annotated[ProbeSection | None, Off] = None
    """How backends are probed in the background, if at all."""
    passive: Annotated[PassiveSection | None, Off] = PassiveSection()
    """When live requests take a backend out; off for never. Left out: on, but under `adaptive`, which needs none."""
    affinity: Annotated[AffinitySection | None, Off] = None
    """What ties a client to a backend."""
    retry: Annotated[RetrySection | None, Off] = RetrySection()
    """When a request is sent again; off for one attempt, whatever happens."""
    hedge: Annotated[HedgeSection | None, Off] = None
    """When a slow request is copied to another backend."""
    slow_start: Seconds = 0.0
    """Over which the weight of a new or recovered backend grows."""
    panic_threshold: Share = 0.0
    """When less than this share of the pool is available, health is ignored."""
    fail_open: bool = True
    """Whether to pick among all that are not draining or disabled when nobody is available."""
    max_in_flight: Count | None = None
    """Requests per backend, hard."""
    max_requests: Count | None = None
    """Requests of the whole pool, hard."""
    max_pending: Annotated[int, Field(ge=0)] = 1000
    """Requests that may wait while the limits are reached."""
    preserve_host: bool = False
    """Backends see the logical host instead of their own."""
    connect: ConnectSection = ConnectSection()
    """How connections are made."""
    peer: tuple[int, int] | None = None
    """Which of how many sidecars of these backends this one is, from 0: [0, 3]. For large pools."""
    shared: str | None = None
    """A name under which the sidecars of this machine share ejections and probe results; one of them probes."""
    zone: str | None = None
    """Where this sidecar runs; backends of that zone are preferred."""

    def options(self, default_secret: str | None = None) -> dict[str, Any]:
        """The keyword arguments of its `Pool`, but for the name.

        Args:
            default_secret: What signs the cookie of its affinity when the file says nothing of it.
        """
        options = self.given("backends", "discovery", "initial")
        for name, value in options.items():
            if isinstance(value, AffinitySection):
                options[name] = value.build(default_secret)
            elif isinstance(value, Built):
                options[name] = value.build()
        return options

    def build(self, name: str = "default", default_secret: str | None = None) -> Pool:
        """The pool.

        Args:
            name: Its name.
            default_secret: See `options`.
        """
        return Pool(self.members(), name=name, **self.initially(), **self.options(default_secret))

    def members(self) -> list[Backend] | Source:
        """Who belongs to it, or who says so.

        Raises:
            ValueError: Neither is written, or both are.
        """
        if (self.backends is None) == (self.discovery is None):
            raise ValueError("write either backends, like ['http://10.0.0.5:8080'], or discovery")
        if self.discovery is not None:
            return self.discovery.build()
        return [backend.build() for backend in self.backends or ()]

    def initially(self) -> dict[str, Any]:
        """The argument of `Pool` that says who serves until a source has."""
        return {} if self.initial is None else {"initial": [backend.build() for backend in self.initial]}
