"""Listening for clients: a socket that stays for as long as its address is configured, and whoever accepts from it.

When a listener's options or its certificate change, another acceptor takes over on a second descriptor of the same
socket, so no connection is refused meanwhile. Those that the one before has accepted stay with it until they end.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import ssl
import stat
import time
from pathlib import Path
from typing import NamedTuple

from uvicorn.config import Config
from uvicorn.server import ServerState

from lbclient.asgi.types import App, Scope
from lbclient.sidecar.listeners import Address, ListenerSection
from lbclient.sidecar.protocol import Protocol, Refused

logger = logging.getLogger("lbclient.sidecar")

HANDSHAKE_WITHIN = 10.0  # seconds, for TLS
LOOK_EVERY = 0.02  # seconds


class Options(NamedTuple):
    """What a listener accepts by.

    Attributes:
        section: As it is configured.
        fingerprint: Of its certificates.
        context: Made of them; None without TLS.
    """

    section: ListenerSection
    fingerprint: bytes
    context: ssl.SSLContext | None

    @classmethod
    def of(cls, section: ListenerSection) -> Options:
        """By what the files hold at this moment.

        Raises:
            OSError, ValueError: They cannot be used.
        """
        return cls(section, _fingerprint(section), None if section.tls is None else section.tls.build())


class Listener:
    """One address, and the connections that came in there.

    Args:
        section: The address and its options.
        app: Who serves.
        refused: Told of requests that `app` does not see; None for nobody.
        shared: Whether other processes of ours listen there, too.

    Raises:
        OSError: The address cannot be listened to; the message says which.
        ValueError: Its certificates cannot be used.
    """

    def __init__(
        self, section: ListenerSection, app: App, refused: Refused | None = None, *, shared: bool = False
    ) -> None:
        self._options = Options.of(section)
        self._app = app
        self._refused = _nobody if refused is None else refused
        self._socket = bound(section.bind, section.backlog, shared=shared)
        self._acceptors: list[_Acceptor] = []
        self._retiring: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Listener {self}, {self.connections} connections>"

    def __str__(self) -> str:
        scheme = "http" if self.section.tls is None else "https"
        return f"{scheme} on {self.address}"

    @property
    def section(self) -> ListenerSection:
        """The address and its options."""
        return self._options.section

    @property
    def address(self) -> Address:
        """Where it listens; the port is the one it got when any was asked for."""
        bind = self.section.bind
        if bind.kind == "tcp":
            host, port = self._socket.getsockname()[:2]
            return Address("tcp", host=host, port=port)
        return bind

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return sum(len(acceptor.state.connections) for acceptor in self._acceptors)

    async def start(self) -> None:
        """Accept from now on.

        Raises:
            OSError: It cannot.
        """
        await self._accept(self._options)

    async def _accept(self, options: Options) -> None:
        listening = self._socket.dup()
        try:
            acceptor = await _Acceptor.begin(options, self._app, self._refused, listening)
        except BaseException:
            listening.close()
            raise
        self._acceptors.append(acceptor)

    def differing(self, section: ListenerSection) -> Options | None:
        """The options that `section` means, if they are others than those it accepts by.

        Args:
            section: Of the same address. When the section is the same, its certificate may be another one.

        Raises:
            OSError, ValueError: Its certificates cannot be used.
        """
        if (section, _fingerprint(section)) == self._options[:2]:
            return None
        return Options.of(section)

    async def reconfigure(self, options: Options) -> None:
        """Accept by other options from now on.

        Raises:
            OSError: It cannot; whoever accepted until now goes on.
        """
        before = self._acceptors[-1]
        await self._accept(options)
        self._options = options
        before.stop_accepting()
        task = asyncio.create_task(self._forget(before))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _forget(self, acceptor: _Acceptor) -> None:
        await acceptor.empty()
        self._acceptors.remove(acceptor)

    def stop_accepting(self) -> None:
        """Take no new connections; the socket is closed."""
        for acceptor in self._acceptors:
            acceptor.stop_accepting()
        self._socket.close()
        if self.section.bind.kind == "unix":
            Path(self.section.bind.path).unlink(missing_ok=True)

    async def finish(self, linger: float, grace: float) -> int:
        """End the connections: those without a request after a while, the others when what they are doing is done.

        Args:
            linger: Seconds that a connection without a request is kept.
            grace: Seconds after that, when the rest is cut off.

        Returns:
            How many requests were cut off.
        """
        self.stop_accepting()
        cut = await asyncio.gather(*(acceptor.finish(linger, grace) for acceptor in self._acceptors))
        for task in self._retiring:
            task.cancel()
        return sum(cut)


class _Acceptor:
    """Whoever accepts connections from a socket, with one set of options."""

    def __init__(self, server: asyncio.Server, state: ServerState) -> None:
        self._server = server
        self.state = state

    @classmethod
    async def begin(cls, options: Options, app: App, refused: Refused, listening: socket.socket) -> _Acceptor:
        section, context = options.section, options.context
        config = Config(
            app,
            http=Protocol,
            ws="wsproto",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=section.max_connections,
            timeout_keep_alive=section.keep_alive,  # type: ignore[arg-type]  # for call_later, which takes fractions
        )
        config.load()
        state = ServerState()
        loop = asyncio.get_running_loop()

        def connected() -> asyncio.Protocol:
            return Protocol(refused=refused, config=config, server_state=state, app_state={}, _loop=loop)

        server = await loop.create_server(
            connected,
            sock=listening,
            ssl=context,
            ssl_handshake_timeout=None if context is None else HANDSHAKE_WITHIN,
            backlog=section.backlog,
        )
        return cls(server, state)

    def stop_accepting(self) -> None:
        self._server.close()

    async def empty(self) -> None:
        """Wait until the last connection has ended."""
        while self.state.connections or self.state.tasks:  # noqa: ASYNC110  # uvicorn tells nobody
            await asyncio.sleep(LOOK_EVERY)

    async def finish(self, linger: float, grace: float) -> int:
        # Who is still in the TLS handshake is not among the connections yet: `linger` is waited for in any case.
        connections, tasks = self.state.connections, self.state.tasks
        began = time.monotonic()
        since: dict[object, float] = {}
        told: set[object] = set()
        while connections or tasks or time.monotonic() < began + linger:
            now = time.monotonic()
            for connection in list(connections):
                if connection not in told and now - since.setdefault(connection, now) >= linger:
                    told.add(connection)
                    connection.shutdown()
            if now >= began + linger + grace:
                return await self._cut()
            await asyncio.sleep(LOOK_EVERY)
        return 0

    async def _cut(self) -> int:
        tasks = list(self.state.tasks)
        for task in tasks:
            task.cancel("the sidecar ends, and the grace period is over")
        for connection in list(self.state.connections):
            connection.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)


def _nobody(scope: Scope, status: int, sent: int) -> None:
    """Who is not told."""


def _fingerprint(section: ListenerSection) -> bytes:
    """What the certificates of a listener are recognised by."""
    digest = hashlib.sha256()
    for path in () if section.tls is None else section.tls.files():
        digest.update(Path(path).read_bytes())
    return digest.digest()


def bound(
    address: Address,
    backlog: int = 2048,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    *,
    shared: bool = False,
) -> socket.socket:
    """A socket that listens at an address.

    Args:
        address: Where.
        backlog: Connections that the system keeps until they are accepted.
        kind: Of connections, or of datagrams.
        shared: Whether other processes of this user may listen there, too, if they say so as well.

    Raises:
        OSError: It cannot be; the message says which.
    """
    try:
        if address.kind == "tcp":
            opened = _tcp_socket(address, backlog, kind, shared)
        elif address.kind == "unix":
            opened = _unix_socket(address, backlog)
        else:
            opened = _inherited_socket(address, backlog)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot listen on {address}: {exc.strerror or exc}") from exc
    opened.setblocking(False)
    return opened


def _tcp_socket(address: Address, backlog: int, kind: socket.SocketKind, shared: bool) -> socket.socket:
    everywhere = not address.host and socket.has_dualstack_ipv6()
    host = address.host or ("::" if everywhere else "0.0.0.0")  # noqa: S104  # what was asked for
    found = socket.getaddrinfo(host, address.port, type=kind, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    opened = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not everywhere))
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind(where)
        if kind == socket.SOCK_STREAM:
            opened.listen(backlog)
    except BaseException:
        opened.close()
        raise
    return opened


def _unix_socket(address: Address, backlog: int) -> socket.socket:
    path = Path(address.path)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(address.path)
            except ConnectionRefusedError:
                path.unlink()  # nobody listens: it was left behind
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.bind(address.path)
        path.chmod(0o660)
        opened.listen(backlog)
    except BaseException:
        opened.close()
        raise
    return opened


def _inherited_socket(address: Address, backlog: int) -> socket.socket:
    opened = socket.socket(fileno=os.dup(address.fd))
    if not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        opened.listen(backlog)
    return opened
