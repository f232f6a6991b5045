"""`TCPForwarder`: a listener whose connections are forwarded, each to a backend of its own."""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias, TypeVar, get_args

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from lbclient.core import errors as core_errors
from lbclient.core.checks import check_number, check_whole
from lbclient.core.facts import Facts
from lbclient.core.pool import Pool
from lbclient.core.ticket import Ticket
from lbclient.l4.client_hello import ClientHello
from lbclient.l4.dial import Dial, dial
from lbclient.l4.fleet import Fleet
from lbclient.l4.forwarder import Forwarder, as_pool
from lbclient.l4.greeting import UNRECOGNIZED_NAME, Greeting, Refused, alert, networks, read_greeting, say
from lbclient.l4.proxy_protocol import ProxyHeader, Version, header_of
from lbclient.l4.relay import CHUNK_BYTES, Relay
from lbclient.l4.sockets import connected_socket, reset_on_close, stream_options
from lbclient.l4.stream import stream_backend
from lbclient.l4.tls_router import NoTlsRoute, TLSRouter

logger = logging.getLogger("lbclient")

_T = TypeVar("_T")
_Broken: TypeAlias = "tuple[_Passage, tuple[Ticket, OSError]]"

ACCEPTS_AT_ONCE = 64  # before the others have their turn
PAUSE = 0.5  # seconds, when there are no descriptors left to accept with


class _Passage:
    """One accepted connection on its way to a backend, and what its relays tell.

    Args:
        forwarder: Whose.
        client: The accepted socket.
        peer: Its address.
        dialing: The way.
        fleet: Of the pool.
        header: The PROXY header that goes first.
        first: The client's own bytes that were read.
    """

    __slots__ = ("client", "dialing", "first", "fleet", "forwarder", "header", "peer")

    def __init__(
        self,
        forwarder: TCPForwarder,
        client: socket.socket,
        peer: str,
        dialing: Dial,
        fleet: Fleet,
        header: bytes,
        first: bytes,
    ) -> None:
        self.forwarder = forwarder
        self.client = client
        self.peer = peer
        self.dialing = dialing
        self.fleet = fleet
        self.header = header
        self.first = first

    async def establish(self, ticket: Ticket) -> Relay:
        """A relay, connected and not started."""
        backend = await connected_socket(stream_backend(ticket), self.fleet.pool.connect)
        return Relay(self.client, backend, ticket, self.fleet, self)

    def over(self, relay: Relay) -> None:
        """See `relay.Owner`."""
        self.forwarder.relay_over(relay, self.peer)

    def elsewhere(self, relay: Relay, exc: OSError, unsent: bytes) -> bool:
        """See `relay.Owner`."""
        self.first = unsent
        return bool(self.dialing.left) and self.forwarder.relay_elsewhere(relay, exc, self)


class TCPForwarder(Forwarder):
    """Forwards each accepted connection to a backend: bytes both ways, whatever the protocol.

    A backend that does not take the connection, or resets it before a byte has passed, is passed over for another
    one, as the pool's `Retry` says. TLS passes through: the client verifies the backend's own certificate, and no key
    is needed here. Hashing algorithms and affinities know the client's address (`"client_ip"`) and, behind a
    `TLSRouter`, the server name as the facts' `host`.

    Args:
        pool: Where to: a `Pool` of "tcp://" (or HTTP) backends, or a `TLSRouter` of several by server name and ALPN.
        host: The address to listen on.
        port: 0 takes a free one: see `.port`.
        connect_timeout: Seconds (> 0) to reach a backend, all attempts together. While another one is left to try,
            one attempt takes no longer than the pool's `Connect.connect_timeout`.
        idle_timeout: Seconds (> 0) without a byte in either direction after which a connection is closed.
        hello_timeout: Seconds (> 0) for the PROXY header and the ClientHello, where there has to be one.
        answer_timeout: Seconds (> 0) from the client's first byte to the backend's first one; then the client is
            reset and it counts as a timeout of the backend's. None where servers may have nothing to say.
        max_connections: At a time; those on top wait in the backlog. None for as many as there are descriptors.
        max_connections_per_client: Of one address at a time; those on top are reset. None for no limit.
        accept_proxy: Whose connections begin with a PROXY header (version 1 or 2), without which they are refused:
            True for everybody's, or the networks of those who may say who the client is, such as ("10.0.0.0/8",).
            Nobody else is believed.
        send_proxy: The version of the PROXY header that backends get: "v1", "v2", or None for none.

    Attributes:
        stats: A `ForwarderStats`.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    _kind = socket.SOCK_STREAM

    def __init__(
        self,
        pool: Pool | TLSRouter,
        host: str,
        port: int,
        *,
        connect_timeout: float = 10.0,
        idle_timeout: float = 600.0,
        hello_timeout: float = 5.0,
        answer_timeout: float | None = None,
        max_connections: int | None = None,
        max_connections_per_client: int | None = None,
        accept_proxy: bool | Collection[str] = False,
        send_proxy: Version | None = None,
    ) -> None:
        self._router = pool if isinstance(pool, TLSRouter) else None
        pools = pool.pools if isinstance(pool, TLSRouter) else (pool,)
        super().__init__([as_pool(each, udp=False) for each in pools], host, port, idle_timeout)
        self._pool = None if isinstance(pool, TLSRouter) else pool
        self._connect_timeout = check_number("connect_timeout", connect_timeout, above=0)
        self._hello_timeout = check_number("hello_timeout", hello_timeout, above=0)
        if answer_timeout is not None:
            check_number("answer_timeout", answer_timeout, above=0)
        self._answer_timeout = answer_timeout
        for name, limit in (
            ("max_connections", max_connections),
            ("max_connections_per_client", max_connections_per_client),
        ):
            if limit is not None:
                check_whole(name, limit, at_least=1)
        self._max_connections = max_connections
        self._max_per_client = max_connections_per_client
        self._trusted = networks(accept_proxy)
        if send_proxy is not None and send_proxy not in get_args(Version):
            raise ValueError(f"send_proxy is {send_proxy!r}; write 'v1', 'v2', or None")
        self._send_proxy: Version | None = send_proxy
        self._relays: set[Relay] = set()
        self._clients: Counter[str] = Counter()
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._accepting: anyio.CancelScope | None = None
        self._room = anyio.Event()

    # Accepting

    def _begin(self, listener: socket.socket, group: TaskGroup) -> None:
        self._broken, broken = anyio.create_memory_object_stream[_Broken](math.inf)
        group.start_soon(self._forward_broken, broken, group)
        group.start_soon(self._accept, listener, group)

    async def _accept(self, listener: socket.socket, group: TaskGroup) -> None:
        with anyio.CancelScope() as self._accepting, suppress(anyio.ClosedResourceError):
            while True:
                await anyio.wait_readable(listener)
                for _ in range(ACCEPTS_AT_ONCE):
                    while self._max_connections is not None and self.stats.open >= self._max_connections:
                        self._room = anyio.Event()
                        await self._room.wait()
                    try:
                        client, peer = listener.accept()
                    except BlockingIOError:
                        break
                    except ConnectionAbortedError:
                        continue  # it has left again
                    except OSError as exc:
                        if listener.fileno() < 0:
                            return  # closed since it was readable
                        # no descriptors left: those that are open may end meanwhile
                        logger.warning("%r cannot accept: %s", self, exc)
                        await anyio.sleep(PAUSE)
                        break
                    self._welcome(client, peer[0], group)

    def _welcome(self, client: socket.socket, peer: str, group: TaskGroup) -> None:
        stats = self.stats
        stats.accepted += 1
        if self._max_per_client is not None and self._clients[peer] >= self._max_per_client:
            stats.refused += 1
            reset_on_close(client)
            client.close()
            return
        stats.open += 1
        self._clients[peer] += 1
        group.start_soon(self._forward, client, peer)

    async def _forward(self, client: socket.socket, peer: str) -> None:
        """See to a connection until its relay does."""
        with self._seeing_to(client, peer) as seen_to:
            client.setblocking(False)
            stream_options(client)
            seen_to(await self._reach(await self._passage(client, peer)))

    async def _forward_again(self, passage: _Passage, broken: tuple[Ticket, OSError]) -> None:
        """The same for one whose backend broke before a byte had passed."""
        with self._seeing_to(passage.client, passage.peer) as seen_to:
            seen_to(await self._reach(passage, broken))

    @contextmanager
    def _seeing_to(self, client: socket.socket, peer: str) -> Generator[Callable[[object], None], None, None]:
        """Whatever happens, the client is closed, unless somebody else sees to it from now on."""
        relays: list[object] = []
        polite = False
        try:
            yield relays.append
        except Refused as exc:
            self.stats.refused += 1
            logger.debug("%r refuses %s: %s", self, peer, exc)
            polite = say(client, exc.last_words)
        except (OSError, core_errors.NoBackendAvailable) as exc:
            self.stats.failed += 1
            logger.debug("%r has no backend for %s: %s", self, peer, exc)
        except Exception:
            self.stats.failed += 1
            logger.exception("%r cannot forward %s", self, peer)
        finally:
            if not relays:
                if not polite:
                    reset_on_close(client)
                client.close()
                self._left(peer)

    def _left(self, peer: str) -> None:
        self._clients[peer] -= 1
        if not self._clients[peer]:
            del self._clients[peer]
        self._one_ended()
        self._room.set()

    # One connection

    async def _passage(self, client: socket.socket, peer: str) -> _Passage:
        """Where it wants to go, once it has said what it has to."""
        greeting, trusted = Greeting(), self._trusts(peer)
        if trusted or self._router is not None:
            greeting = await read_greeting(
                client, header=trusted, hello=self._router is not None, within=self._hello_timeout
            )
        header, hello = greeting.header, greeting.hello
        source = None if header is None else header.source
        name = None if hello is None else hello.server_name
        facts = Facts(
            method="CONNECT",
            host=name or "",
            options={"client_ip": peer if source is None else str(source.ip), "idempotent": True},
        )
        own = b""
        if self._send_proxy is not None:
            known = header if header is not None and header.source is not None else header_of(client)
            own = ProxyHeader(known.source, known.destination).encode(self._send_proxy)
        fleet = self._fleets[self._pool_for(hello)]
        dialing = Dial(fleet, facts, self._connect_timeout)
        return _Passage(self, client, peer, dialing, fleet, own, greeting.first)

    def _pool_for(self, hello: ClientHello | None) -> Pool:
        if self._pool is not None:
            return self._pool
        assert self._router is not None
        assert hello is not None
        try:
            return self._router.route(hello)
        except NoTlsRoute as exc:
            raise Refused(str(exc), alert(UNRECOGNIZED_NAME)) from exc

    async def _reach(self, passage: _Passage, broken: tuple[Ticket, OSError] | None = None) -> Relay:
        relay = await dial(passage.dialing, passage.establish, broken)
        self._relays.add(relay)
        first = passage.header + passage.first
        relay.start(self.readiness, self._buffer, first, own=len(passage.header))
        return relay

    def relay_over(self, relay: Relay, peer: str) -> None:
        """A connection has ended."""
        self._relays.discard(relay)
        self.stats.bytes_up += relay.up
        self.stats.bytes_down += relay.down
        if relay.reason is not None:
            self.stats.cut += 1
        self._left(peer)

    def relay_elsewhere(self, relay: Relay, exc: OSError, passage: _Passage) -> bool:
        """A connection is to have another backend, if it can."""
        self._relays.discard(relay)
        self._broken.send_nowait((passage, (relay.ticket, exc)))  # from a callback no task can be started
        return True

    async def _forward_broken(self, broken: MemoryObjectReceiveStream[_Broken], group: TaskGroup) -> None:
        with self._broken, broken:
            try:
                async for passage, why in broken:
                    group.start_soon(self._forward_again, passage, why)
            finally:
                for passage, _ in _left_in(broken):
                    with self._seeing_to(passage.client, passage.peer):
                        pass

    def _trusts(self, peer: str) -> bool:
        if isinstance(self._trusted, bool):
            return self._trusted
        address = ipaddress.ip_address(peer.partition("%")[0])
        return any(address in network for network in self._trusted)

    # Ending

    def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
        assert self._listener is not None
        if self._listener.fileno() >= 0:
            anyio.notify_closing(self._listener)
            self._listener.close()  # whoever waits in its backlog is told at once

    def _close_all(self) -> None:
        for relay in list(self._relays):
            relay.reason = "the forwarder was stopped"
            relay.abort()

    def _look(self, now: float) -> None:
        patience, answer_within = self._idle_timeout, self._answer_timeout
        for relay in [relay for relay in self._relays if relay.look(now, patience, answer_within)]:
            self.stats.timed_out += 1
            relay.time_out()


def _left_in(stream: MemoryObjectReceiveStream[_T]) -> Iterator[_T]:
    with suppress(anyio.WouldBlock, anyio.EndOfStream):
        while True:
            yield stream.receive_nowait()
