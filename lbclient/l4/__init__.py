"""Layer 4: connections and datagrams instead of requests.

    stream = await lbclient.l4.connect(pool)                 # one connection to one backend, in flight until closed
    async with lbclient.l4.TCPForwarder(pool, "", 6379):     # a listener; each connection gets a backend
        ...

Whatever the protocol, and with TLS end to end. What a pool does for requests it does for connections: the algorithm
picks, in flight means open, refusals and resets eject, probes run, backends drain.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import anyio

from lbclient.core.checks import check_number
from lbclient.core.deploy import DrainReport, Guard, SwapReport
from lbclient.core.members import BackendLike
from lbclient.core.pool import Pool
from lbclient.l4.client_hello import ClientHello, ClientHelloError, ClientHelloReader
from lbclient.l4.errors import CutOff, NoBackendAvailable
from lbclient.l4.fleet import fleet_of
from lbclient.l4.forwarder import ForwarderStats
from lbclient.l4.proxy_protocol import Endpoint, ProxyHeader, ProxyHeaderError, ProxyHeaderReader
from lbclient.l4.stream import StreamAttribute, connect
from lbclient.l4.sync import create_connection
from lbclient.l4.tcp import TCPForwarder
from lbclient.l4.tls_router import NoTlsRoute, TLSRoute, TLSRouter
from lbclient.l4.udp import UDPForwarder

__all__ = [
    "ClientHello",
    "ClientHelloError",
    "ClientHelloReader",
    "CutOff",
    "Endpoint",
    "ForwarderStats",
    "NoBackendAvailable",
    "NoTlsRoute",
    "ProxyHeader",
    "ProxyHeaderError",
    "ProxyHeaderReader",
    "StreamAttribute",
    "TCPForwarder",
    "TLSRoute",
    "TLSRouter",
    "UDPForwarder",
    "close",
    "connect",
    "connections",
    "create_connection",
    "drain",
    "probing",
    "swap",
    "wait_until_ready",
]


@asynccontextmanager
async def probing(pool: Pool) -> AsyncGenerator[None, None]:
    """Probe the pool in this event loop for as long as the block runs, for those who `connect`. Forwarders do it
    themselves.
    """
    fleet = fleet_of(pool)
    fleet.join()
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await fleet.part()


async def wait_until_ready(pool: Pool, timeout: float | None = 10.0) -> None:
    """Wait for the first probe result of every backend.

    Args:
        pool: Whose; a pool without a probe is ready.
        timeout: Seconds; None for as long as it takes.

    Raises:
        ValueError, TypeError: `timeout` is no number of 0 or more.
        TimeoutError: Some backend is still unknown; the message names it.
    """
    if timeout is not None:
        check_number("timeout", timeout, at_least=0)
    await fleet_of(pool).wait_until_ready(timeout)


def connections(pool: Pool) -> dict[str, int]:
    """Open connections and sessions by backend URL: those of this process, whoever has opened them."""
    return fleet_of(pool).connections()


async def drain(pool: Pool, url: str, *, grace: float = 300.0) -> DrainReport:
    """Take a backend out: no new connections from now on, and those there are may end by themselves.

    When the grace period ends the rest is cut off: streams and sockets raise `CutOff`, clients of forwarders see a
    reset. It reaches every connection of this process to the backend, of whichever forwarder, event loop or thread.
    When this returns the backend is disabled.

    Args:
        pool: Where.
        url: How the backend is known.
        grace: Seconds; >= 0.

    Raises:
        ValueError: The backend is unknown.
        RuntimeError: It is being drained already, or its pool is being swapped.
    """
    return await fleet_of(pool).drain(url.rstrip("/"), grace)


async def swap(
    pool: Pool,
    backends: Iterable[BackendLike],
    *,
    when_healthy_within: float = 60.0,
    grace: float = 300.0,
    guard: Guard | None = None,
) -> SwapReport:
    """Flip to another set of backends at once (blue/green), as `AsyncBalancedTransport.swap` does for requests.

    Args:
        pool: Where.
        backends: The whole new set; those that are members already stay.
        when_healthy_within: Seconds (>= 0) for all of the new set to pass their probes.
        grace: Seconds (>= 0) that the connections to the old ones have.
        guard: Whether and when to go back.

    Raises:
        ValueError, TypeError: An argument is out of its range.
        RuntimeError: The pool is being swapped already, or one of its backends drained.
    """
    return await fleet_of(pool).swap(backends, when_healthy_within, grace, guard)


async def close(pool: Pool) -> int:
    """Stop the probes that `connect` began, and cut every layer-4 connection of the pool; how many there were."""
    fleet = fleet_of(pool)
    await fleet.stop_probing()
    return fleet.cut_all("the pool was closed")
