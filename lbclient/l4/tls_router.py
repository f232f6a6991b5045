"""Which pool a TLS connection goes to, by what its ClientHello says. Nothing is decrypted."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import cast

from lbclient.core.errors import NoBackendAvailable
from lbclient.core.patterns import Pattern, checked_host, host_pattern, known_host
from lbclient.core.pool import Pool
from lbclient.l4.client_hello import ClientHello


class NoTlsRoute(NoBackendAvailable):
    """No route takes the connection, and there is no default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRoute:
    """Connections that go to one pool.

    Args:
        to: The pool.
        sni: The server name, or several: "api.example.com", or "*.example.com" for all below it. None takes every
            connection, also those without a name.
        alpn: A protocol, or several, of which the client has to offer one: "h2". None when that makes no difference.

    Raises:
        ValueError, TypeError: A value is none of these.
    """

    to: Pool
    sni: str | Collection[str] | None = None
    alpn: str | Collection[str] | None = None

    _patterns: tuple[Pattern | None, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.to, Pool):
            raise TypeError(f"to is {self.to!r}; write a Pool")
        names = _several("sni", self.sni, "'api.example.com'")
        alpn = _several("alpn", self.alpn, "'h2'")
        object.__setattr__(self, "alpn", None if alpn is None else frozenset(alpn))
        patterns = (None,) if names is None else tuple(host_pattern(checked_host(name)) for name in names)
        object.__setattr__(self, "_patterns", patterns)

    def takes(self, hello: ClientHello) -> bool:
        """Whether a connection that begins like this is its own."""
        if self.alpn is not None and not any(offer in self.alpn for offer in hello.alpn):
            return False
        if self.sni is None:
            return True
        if hello.server_name is None:
            return False
        name = known_host(hello.server_name)
        return any(pattern is None or pattern.match(name) is not None for pattern in self._patterns)


class TLSRouter:
    """Several pools behind one port: the first route that takes a connection has it.

    Args:
        routes: In the order in which they are looked at.
        default: For connections that no route takes, with another name or none; None refuses them, with the TLS alert
            "unrecognized name".

    Raises:
        ValueError, TypeError: There is nothing to route to, or a value is none of these.
    """

    def __init__(self, routes: Iterable[TLSRoute], default: Pool | None = None) -> None:
        self.routes = tuple(routes)
        self.default = default
        for route in self.routes:
            if not isinstance(route, TLSRoute):
                raise TypeError(f"a route is {route!r}; write TLSRoute(sni=..., to=pool)")
        if default is not None and not isinstance(default, Pool):
            raise TypeError(f"default is {default!r}; write a Pool, or None to refuse")
        if not self.routes and default is None:
            raise ValueError("there are neither routes nor a default; write at least one")

    def __repr__(self) -> str:
        return f"<TLSRouter {len(self.routes)} routes, default {self.default!r}>"

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Each pool once."""
        pools = [route.to for route in self.routes] + ([] if self.default is None else [self.default])
        return tuple(dict.fromkeys(pools))

    def route(self, hello: ClientHello) -> Pool:
        """The pool of a connection that begins like this.

        Raises:
            NoTlsRoute: There is none.
        """
        for route in self.routes:
            if route.takes(hello):
                return route.to
        if self.default is None:
            raise NoTlsRoute(
                f"no route takes the server name {hello.server_name!r} with ALPN {list(hello.alpn)}"
            )
        return self.default


def _several(what: str, value: object, example: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    names: list[str] = []
    for one in cast("Iterable[object]", value) if isinstance(value, Collection) else (value,):
        if not isinstance(one, str) or not one:
            raise TypeError(f"{what} is {value!r}; write a name such as {example}, several, or None")
        names.append(one)
    if not names:
        raise ValueError(f"{what} is empty, which takes nothing; write a name such as {example}, or None")
    return tuple(names)
