"""Listeners at layer 4: connections and datagrams that are passed on as they are."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from lbclient.core.pool import Pool
from lbclient.l4.tcp import TCPForwarder
from lbclient.l4.tls_router import TLSRoute, TLSRouter
from lbclient.l4.udp import UDPForwarder
from lbclient.sidecar.listeners import Address, Bind
from lbclient.sidecar.listening import bound
from lbclient.sidecar.section import Count, Seconds, Section


class TlsRouteSection(Section):
    """TLS connections that go to one pool, by what they begin with; TLS is not ended here."""

    sni: list[str] | None = None
    """The server name is one of these: "api.example.com", or "*.example.com" for all below it."""
    alpn: list[str] | None = None
    """The client offers one of these protocols."""
    to: str
    """The pool."""


class L4Section(Section):
    """Where connections or datagrams come in that are passed on as they are."""

    bind: Bind
    """The address."""
    protocol: Literal["tcp", "udp"] = "tcp"
    """What is passed on."""
    pool: str | None = None
    """To whom; with tls_routes: what none of them takes, which is refused otherwise."""
    tls_routes: list[TlsRouteSection] = []
    """tcp: to whom, by the server name that a TLS client asks for."""
    idle_timeout: Seconds | None = None
    """Without a byte in either direction, after which a connection is closed; by default 600 s, and 60 s for udp."""
    connect_timeout: Seconds = 10.0
    """tcp: to reach a backend, all attempts together."""
    max_connections: Count | None = None
    """tcp: at a time; those on top wait."""
    max_connections_per_client: Count | None = None
    """tcp: of one address at a time; those on top are reset."""
    accept_proxy: bool | list[str] = False
    """tcp: whose connections begin with a PROXY header: everybody's, or those of these networks."""
    send_proxy: Literal["v1", "v2"] | None = None
    """tcp: the version of the PROXY header that backends get."""
    max_sessions: Count = 10_000
    """udp: at a time."""
    responses: Count | None = None
    """udp: datagrams with which a session is over."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.bind.kind != "tcp":
            raise ValueError(f"bind is '{self.bind}'; write an address and a port, like '0.0.0.0:5432'")
        foreign = sorted(self.model_fields_set & set(_UDP if self.protocol == "tcp" else _TCP))
        if foreign:
            raise ValueError(
                f"protocol is {self.protocol!r}, which has no {', '.join(foreign)}; leave that out"
            )
        if self.pool is None and not self.tls_routes:
            raise ValueError("'pool' is missing")
        return self

    def pools(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Where a pool is named, and its name."""
        if self.pool is not None:
            yield ("pool",), self.pool
        for at, route in enumerate(self.tls_routes):
            yield ("tls_routes", at, "to"), route.to

    def _check_backends(self, pools: Mapping[str, Pool]) -> None:
        foreign = "udp" if self.protocol == "tcp" else "tcp"
        for _, name in self.pools():
            for backend in pools[name].declared:
                if backend.scheme == foreign:
                    raise ValueError(
                        f"protocol is {self.protocol!r}, and pool {name!r} has {backend.url}; "
                        f"write protocol: {foreign}, or another pool"
                    )

    def build(
        self, pools: Mapping[str, Pool], listening: socket.socket | None = None
    ) -> TCPForwarder | UDPForwarder:
        """The forwarder.

        Args:
            pools: By name.
            listening: What it listens to, which stays the caller's; None for one that is only to be looked at.

        Raises:
            ValueError: A pool's backends are none for this protocol, or an option is out of its range.
        """
        self._check_backends(pools)
        options = self.given("bind", "protocol", "pool", "tls_routes")
        host, port = self.bind.host or "::", self.bind.port
        if self.protocol == "udp":
            assert self.pool is not None
            return _Datagrams(listening, pools[self.pool], host, port, **options)
        default = None if self.pool is None else pools[self.pool]
        if not self.tls_routes:
            assert default is not None
            return _Connections(listening, default, host, port, **options)
        routes = [TLSRoute(to=pools[route.to], sni=route.sni, alpn=route.alpn) for route in self.tls_routes]
        return _Connections(listening, TLSRouter(routes, default), host, port, **options)


_TCP = (
    "accept_proxy",
    "connect_timeout",
    "max_connections",
    "max_connections_per_client",
    "send_proxy",
    "tls_routes",
)
_UDP = ("max_sessions", "responses")


class _OnSocket:
    """A forwarder that listens to a socket which outlives it: the next one takes over there, and nobody is refused."""

    def __init__(self, listening: socket.socket | None, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._shared = listening

    async def _bind(self) -> socket.socket:
        assert self._shared is not None
        return self._shared.dup()


class _Connections(_OnSocket, TCPForwarder):
    """Forwards connections."""


class _Datagrams(_OnSocket, UDPForwarder):
    """Forwards datagrams."""


class L4Listener:
    """One address, and whoever forwards what comes in there.

    Args:
        section: The address and its options.
        shared: Whether other processes of ours listen there, too.

    Raises:
        OSError: The address cannot be listened to; the message says which.
    """

    def __init__(self, section: L4Section, *, shared: bool = False) -> None:
        self.section = section
        kind = socket.SOCK_DGRAM if section.protocol == "udp" else socket.SOCK_STREAM
        self._socket = bound(section.bind, kind=kind, shared=shared)
        self._forwarder: TCPForwarder | UDPForwarder | None = None
        self._pools: tuple[Pool, ...] = ()
        self._stopping: set[asyncio.Task[int]] = set()

    def __str__(self) -> str:
        return f"{self.section.protocol} on {self.address}"

    @property
    def address(self) -> Address:
        """Where it listens; the port is the one it got when any was asked for."""
        host, port = self._socket.getsockname()[:2]
        return Address("tcp", host=host, port=port)

    @property
    def connections(self) -> int:
        """Connections or sessions that are open and of the newest configuration."""
        return 0 if self._forwarder is None else self._forwarder.stats.open

    async def serve(self, section: L4Section, pools: Mapping[str, Pool], grace: float) -> bool:
        """Forward as a section says from now on. Whether there was something to do.

        Args:
            section: Of the same address.
            pools: By name.
            grace: Seconds that connections may stay with a pool that is not theirs any more.

        Raises:
            OSError: It cannot; whoever forwarded until now goes on.
        """
        wanted = tuple(pools[name] for _, name in section.pools())
        if self._forwarder is not None and (section, wanted) == (self.section, self._pools):
            return False
        before = self._forwarder
        self._forwarder = await section.build(pools, self._socket).__aenter__()
        self.section, self._pools = section, wanted
        if before is not None:
            task = asyncio.create_task(before.stop(grace))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        return True

    def close(self) -> None:
        """Give the address up."""
        self._socket.close()

    async def finish(self, linger: float, grace: float) -> int:
        """Take no more, and end what is open.

        Args:
            linger: Seconds more, as for listeners of HTTP.
            grace: Seconds after which the rest is cut off.

        Returns:
            How many connections were.
        """
        self._socket.close()
        cut = 0 if self._forwarder is None else await self._forwarder.stop(linger + grace)
        for task in self._stopping:
            task.cancel()
        return cut
