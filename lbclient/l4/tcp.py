"""`TCPForwarder`: a listener whose connections are forwarded, each to a backend of its own."""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import TypeAlias, cast, get_args

import anyio
from anyio.abc import TaskGroup

from lbclient.core import errors as core_errors
from lbclient.core.checks import check_number, check_whole
from lbclient.core.facts import Facts
from lbclient.core.pool import Pool
from lbclient.core.ticket import Ticket
from lbclient.l4.client_hello import ClientHello, ClientHelloError, ClientHelloReader
from lbclient.l4.dial import Dial, dial
from lbclient.l4.forwarder import Forwarder, as_pool
from lbclient.l4.proxy_protocol import ProxyHeader, ProxyHeaderError, ProxyHeaderReader, Version, header_of
from lbclient.l4.relay import CHUNK_BYTES, Relay
from lbclient.l4.sockets import connected_socket, reset_on_close, stream_options
from lbclient.l4.stream import stream_backend
from lbclient.l4.tls_router import NoTlsRoute, TLSRouter

logger = logging.getLogger("lbclient")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ACCEPTS_AT_ONCE = 64  # before the others have their turn
BACKLOG = 4096
PAUSE = 0.5  # seconds, when there are no descriptors left to accept with
UNRECOGNIZED_NAME, DECODE_ERROR = 112, 50  # TLS alerts: RFC 6066, section 3; RFC 8446, 6.2


class _Refused(Exception):
    """The connection is not forwarded.

    Args:
        words: Why.
        last_words: What the client is told.
    """

    def __init__(self, words: str, last_words: bytes = b"") -> None:
        super().__init__(words)
        self.last_words = last_words


class TCPForwarder(Forwarder):
    """Forwards each accepted connection to a backend: bytes both ways, whatever the protocol.

    A backend that does not take the connection is passed over for another one, as the pool's `Retry` says. TLS passes
    through: the client verifies the backend's own certificate, and no key is needed here. Hashing algorithms and
    affinities know the client's address (`"client_ip"`) and, behind a `TLSRouter`, the server name as the facts'
    `host`.

    Args:
        pool: Where to: a `Pool` of "tcp://" (or HTTP) backends, or a `TLSRouter` of several by server name and ALPN.
        host: The address to listen on.
        port: 0 takes a free one: see `.port`.
        connect_timeout: Seconds (> 0) to reach a backend, all attempts together. While another one is left to try,
            one attempt takes no longer than the pool's `Connect.connect_timeout`.
        idle_timeout: Seconds (> 0) without a byte in either direction after which a connection is closed.
        hello_timeout: Seconds (> 0) for the PROXY header and the ClientHello, where there has to be one.
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
        for name, limit in (
            ("max_connections", max_connections),
            ("max_connections_per_client", max_connections_per_client),
        ):
            if limit is not None:
                check_whole(name, limit, at_least=1)
        self._max_connections = max_connections
        self._max_per_client = max_connections_per_client
        self._trusted = _networks(accept_proxy)
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
        listener.listen(BACKLOG)
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
                    except OSError as exc:  # no descriptors left: those that are open may end meanwhile
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
        relayed = polite = False
        try:
            client.setblocking(False)
            stream_options(client)
            relay, first = await self._reach_backend(client, peer)
            self._relays.add(relay)
            relayed = True
            relay.start(self.readiness, self._buffer, first)
        except _Refused as exc:
            self.stats.refused += 1
            logger.debug("%r refuses %s: %s", self, peer, exc)
            polite = _say(client, exc.last_words)
        except (OSError, core_errors.NoBackendAvailable) as exc:
            self.stats.failed += 1
            logger.debug("%r has no backend for %s: %s", self, peer, exc)
        except Exception:
            self.stats.failed += 1
            logger.exception("%r cannot forward %s", self, peer)
        finally:
            if not relayed:
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

    async def _reach_backend(self, client: socket.socket, peer: str) -> tuple[Relay, bytes]:
        """The relay, connected and not started, and what it begins with."""
        header, hello, first = None, None, b""
        pool = self._pool
        if self._router is not None or self._trusts(peer):
            try:
                with anyio.fail_after(self._hello_timeout):
                    if self._trusts(peer):
                        header, first = await _read_proxy_header(client)
                    if self._router is not None:
                        hello, first = await _read_hello(client, first)
            except TimeoutError as exc:
                raise _Refused(f"no hello within {self._hello_timeout} s") from exc
        if self._router is not None:
            assert hello is not None
            try:
                pool = self._router.route(hello)
            except NoTlsRoute as exc:
                raise _Refused(str(exc), _alert(UNRECOGNIZED_NAME)) from exc
        assert pool is not None
        fleet = self._fleets[pool]
        client_ip = peer if header is None or header.source is None else str(header.source.ip)
        name = "" if hello is None or hello.server_name is None else hello.server_name
        facts = Facts(method="CONNECT", host=name, options={"client_ip": client_ip})
        if self._send_proxy is not None:
            known = header if header is not None and header.source is not None else header_of(client)
            first = ProxyHeader(known.source, known.destination).encode(self._send_proxy) + first

        async def establish(ticket: Ticket) -> Relay:
            backend = await connected_socket(stream_backend(ticket), fleet.pool.connect)
            return Relay(client, backend, ticket, fleet, over)

        def over(relay: Relay) -> None:
            self._relays.discard(relay)
            self.stats.bytes_up += relay.up
            self.stats.bytes_down += relay.down
            if relay.reason is not None:
                self.stats.cut += 1
            self._left(peer)

        _, relay = await dial(Dial(fleet, facts, self._connect_timeout), establish)
        return relay, first

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
        for relay in [relay for relay in self._relays if relay.look(now, self._idle_timeout)]:
            self.stats.timed_out += 1
            relay.time_out()


async def _read_proxy_header(client: socket.socket) -> tuple[ProxyHeader, bytes]:
    reader = ProxyHeaderReader()
    while True:
        data = await _receive(client)
        try:
            header = reader.feed(data)
        except ProxyHeaderError as exc:
            raise _Refused(f"PROXY header: {exc}") from exc
        if header is not None:
            return header, reader.rest


async def _read_hello(client: socket.socket, first: bytes) -> tuple[ClientHello, bytes]:
    reader = ClientHelloReader()
    data = first
    while True:
        try:
            hello = reader.feed(data)
        except ClientHelloError as exc:
            is_tls = reader.received[:1] == b"\x16"
            raise _Refused(f"ClientHello: {exc}", _alert(DECODE_ERROR) if is_tls else b"") from exc
        if hello is not None:
            return hello, bytes(reader.received)
        data = await _receive(client)


async def _receive(client: socket.socket) -> bytes:
    """Some bytes of a client from which nothing else reads yet."""
    while True:
        try:
            data = client.recv(4096)
        except (BlockingIOError, InterruptedError):
            await anyio.wait_readable(client)
            continue
        except OSError as exc:
            raise _Refused("it left before it had said hello") from exc
        if not data:
            raise _Refused("it left before it had said hello")
        return data


def _say(client: socket.socket, last_words: bytes) -> bool:
    """Tell the client, if there is something to tell; whether it may be left in an orderly way."""
    if not last_words:
        return False
    with suppress(OSError):
        client.send(last_words)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):  # with bytes unread the kernel would send a RST after all
            pass
    return True


def _alert(description: int) -> bytes:
    """A fatal TLS alert; the version is what every client takes before there is one."""
    return struct.pack("!BHHBB", 21, 0x0301, 2, 2, description)


def _networks(accept_proxy: object) -> bool | tuple[Network, ...]:
    if isinstance(accept_proxy, bool):
        return accept_proxy
    write = "write True, False, or the networks of trusted proxies, like ('10.0.0.0/8',)"
    if isinstance(accept_proxy, str) or not isinstance(accept_proxy, Collection):
        raise TypeError(f"accept_proxy is {accept_proxy!r}; {write}")
    try:
        networks = cast("Collection[object]", accept_proxy)
        return tuple(ipaddress.ip_network(str(network)) for network in networks)
    except ValueError as exc:
        raise ValueError(f"accept_proxy is {accept_proxy!r} ({exc}); {write}") from exc
