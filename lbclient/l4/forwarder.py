"""What the forwarders have in common: how they start, where they listen, and how they stop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup, TaskStatus

from lbclient._async.background import BackgroundTask
from lbclient.core.checks import check_number, check_whole
from lbclient.core.deploy import DrainReport
from lbclient.core.pool import Pool
from lbclient.l4.fleet import Fleet, fleet_of
from lbclient.l4.readiness import Readiness, readiness

logger = logging.getLogger("lbclient")

GRACE = 30.0
BACKLOG = 4096
LOOK_EVERY = 1.0  # seconds between two looks for what is idle


@dataclass(slots=True)
class ForwarderStats:
    """Counts since a forwarder was made.

    Attributes:
        open: Connections (or sessions) right now.
        accepted: Connections, or sessions begun.
        refused: By a limit, or by what they began with.
        failed: No backend took them.
        timed_out: Nothing passed for the idle timeout.
        cut: Cut off, by `stop` or at the end of a drain's grace period.
        bytes_up: From clients to backends, of those that have ended.
        bytes_down: From backends to clients, likewise.
        dropped: Datagrams that could not be passed on.
    """

    open: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    timed_out: int = 0
    cut: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    dropped: int = 0

    def as_dict(self) -> dict[str, int]:
        """The same as plain data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Forwarder:
    """Listens, and forwards to the backends of its pools. Made by its subclasses.

    `await serve()` serves until it is stopped or cancelled; `async with forwarder:` serves in the background of this
    event loop, and closes in the end. One forwarder serves once.
    """

    _kind: socket.SocketKind

    def __init__(self, pools: Sequence[Pool], host: str, port: int, idle_timeout: float) -> None:
        if not isinstance(host, str) or not host:
            raise ValueError(f"host is {host!r}; write an address to listen on, like '127.0.0.1' or '::'")
        check_whole("port", port, at_least=0, at_most=65535)
        check_number("idle_timeout", idle_timeout, above=0)
        self._fleets: dict[Pool, Fleet] = {pool: fleet_of(pool) for pool in pools}
        self._host = host
        self._port = port
        self._idle_timeout = idle_timeout
        self._listener: socket.socket | None = None
        self._readiness: Readiness | None = None
        self._address: tuple[str, int] | None = None
        self._listening = anyio.Event()
        self._empty = anyio.Event()
        self._ended = anyio.Event()
        self._begun = False
        self._serving: anyio.CancelScope | None = None
        self._task: BackgroundTask | None = None
        self._failure: BaseException | None = None
        self.stats = ForwarderStats()

    def __repr__(self) -> str:
        where = "not listening" if self._address is None else "on {}:{}".format(*self._address)
        return f"<{type(self).__name__} {where}, {self.stats.open} open>"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: the IP address and the port.

        Raises:
            RuntimeError: It does not yet.
        """
        if self._address is None:
            raise RuntimeError(
                "the forwarder does not listen yet; wait for `wait_listening()`, or use `async with`"
            )
        return self._address

    @property
    def port(self) -> int:
        """The port it listens on, also when it was asked for port 0."""
        return self.address[1]

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Where it forwards to."""
        return tuple(self._fleets)

    async def wait_listening(self) -> tuple[str, int]:
        """Where it listens, once it does.

        Raises:
            OSError: It cannot.
            RuntimeError: It was stopped before.
        """
        await self._listening.wait()
        if self._address is None:
            if isinstance(self._failure, OSError):
                raise self._failure
            raise RuntimeError("the forwarder was stopped before it listened") from self._failure
        return self._address

    async def serve(self, *, task_status: TaskStatus[tuple[str, int]] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen and forward, until `stop` or `aclose` is called, or this is cancelled. Nothing is left behind then.

        Args:
            task_status: `await group.start(forwarder.serve)` returns the address once it listens.

        Raises:
            OSError: It cannot listen there.
            RuntimeError: It serves already, or did.
        """
        if self._begun:
            raise RuntimeError("a forwarder serves once; make a new one")
        self._begun = True
        try:
            with await self._bind() as self._listener:
                if self._kind == socket.SOCK_STREAM:
                    self._listener.listen(BACKLOG)
                for fleet in self._fleets.values():
                    fleet.join()
                try:
                    async with anyio.create_task_group() as group:
                        self._serving = group.cancel_scope
                        self._readiness = readiness(group)
                        self._begin(self._listener, group)
                        host, port = self._listener.getsockname()[:2]
                        self._address = (host, port)
                        self._listening.set()
                        task_status.started(self._address)
                        logger.info("%r serves", self)
                        await self._look_for_idle_ones()
                finally:
                    self._close_all()
                    with anyio.CancelScope(shield=True):
                        for fleet in self._fleets.values():
                            await fleet.part()
        except BaseException as exc:
            self._failure = exc
            raise
        finally:
            self._listening.set()
            self._ended.set()

    async def stop(self, grace: float = GRACE) -> int:
        """Take no new ones from now on, wait until those that are open have ended, and end `serve`.

        Args:
            grace: Seconds (>= 0) after which the rest is cut off.

        Returns:
            How many that were.
        """
        check_number("grace", grace, at_least=0)
        if not self._begun or self._ended.is_set():
            self._begun = True
            return 0
        await self._listening.wait()
        if self._address is not None:
            self._stop_listening()
        with anyio.move_on_after(grace):
            while self.stats.open:
                if self._empty.is_set():
                    self._empty = anyio.Event()
                await self._empty.wait()
        rest = self.stats.open
        if self._serving is not None:
            self._serving.cancel()
        await self._ended.wait()
        return rest

    async def aclose(self) -> None:
        """Stop at once: whoever is connected is cut off. Idempotent."""
        with anyio.CancelScope(shield=True):
            await self.stop(grace=0)

    async def drain(self, url: str, *, grace: float = 300.0) -> DrainReport:
        """Take a backend out: no new connections from now on, and those there are may end within `grace` seconds.

        See `lbclient.l4.drain`; this finds the pool.

        Raises:
            ValueError: No pool has the backend, or several.
            RuntimeError: It is being drained already, or its pool is being swapped.
        """
        known = url.rstrip("/")
        having = [f for pool, f in self._fleets.items() if any(b.url == known for b in pool.declared)]
        if len(having) != 1:
            names = ", ".join(repr(pool.name) for pool in self._fleets)
            found = "none" if not having else "several"
            raise ValueError(f"{found} of the pools {names} has {url!r}; write lbclient.l4.drain(pool, url)")
        return await having[0].drain(known, grace)

    async def __aenter__(self) -> Self:
        name = f"lbclient: {type(self).__name__} {self._host}:{self._port}"
        self._task = BackgroundTask(self._serve_in_background, name)
        await self.wait_listening()
        return self

    async def _serve_in_background(self) -> None:
        try:
            await self.serve()
        except OSError:
            if self._address is not None:
                raise
            # or else `wait_listening` raises it

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    # Inside

    @property
    def readiness(self) -> Readiness:
        """Of its event loop."""
        assert self._readiness is not None
        return self._readiness

    async def _bind(self) -> socket.socket:
        flags = socket.AI_PASSIVE
        found = await anyio.getaddrinfo(self._host, self._port, type=self._kind, flags=flags)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, self._kind)
        try:
            listener.setblocking(False)
            if self._kind == socket.SOCK_STREAM:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
        return listener

    async def _look_for_idle_ones(self) -> None:
        every = min(LOOK_EVERY, self._idle_timeout / 4)
        while True:
            await anyio.sleep(every)
            self._look(anyio.current_time())

    def _one_ended(self) -> None:
        self.stats.open -= 1
        if not self.stats.open:
            self._empty.set()

    # What a subclass does

    def _begin(self, listener: socket.socket, group: TaskGroup) -> None:
        raise NotImplementedError

    def _stop_listening(self) -> None:
        raise NotImplementedError

    def _close_all(self) -> None:
        raise NotImplementedError

    def _look(self, now: float) -> None:
        raise NotImplementedError


def as_pool(target: Any, *, udp: bool) -> Pool:
    """`target`, if it is a pool whose backends listen for what is forwarded.

    Raises:
        TypeError: It is no pool.
        ValueError: A backend does not.
    """
    if not isinstance(target, Pool):
        raise TypeError(f"pool is {target!r}; write a Pool, like Pool(['tcp://10.0.0.5:6379'])")
    wrong = "tcp" if udp else "udp"
    for backend in target.declared:
        if backend.scheme == wrong:
            takes, other = ("connections", "TCPForwarder") if udp else ("datagrams", "UDPForwarder")
            raise ValueError(f"{backend.url} takes {takes}; write {other} for it")
        if udp and backend.uds is not None:
            raise ValueError(f"{backend.url} has uds={backend.uds!r}; datagrams go to an address and a port")
    return target
