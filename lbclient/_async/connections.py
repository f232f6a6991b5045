"""The connections of one backend in one event loop (of a sync transport: in all threads).

All bookkeeping is synchronous, O(1) and done with the lock in hand: a method decides everything and returns what its
caller has to close; only then, without the lock, is something awaited. So neither a cancellation nor another thread can
come in between reading and writing a count.

    slots       connections that are open or being opened; never more than the limit
    idle        HTTP/1.1 connections nobody uses, a stack: last in, first out, so that the surplus can expire
    shared      HTTP/2 connections, each with a number of streams
    waiters     first come, first served; a connection goes straight from one request to the next in line

A request *takes* a connection, or the right to open one (OPEN), and *gives back* what it took, whatever happened to it.
"""

from __future__ import annotations

import enum
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Final, Literal, TypeAlias

import anyio
import httpcore

from lbclient._async.turns import new_turn
from lbclient.core.connect import Connect

MOST_EXPIRED_AT_ONCE = 2  # closed by one request that gives back: it adds one, so the stack still shrinks


class _Right(enum.Enum):
    OPEN = enum.auto()


OPEN: Final = _Right.OPEN


class Connection(ABC):
    """One connection, as far as its owner has to know it.

    Attributes:
        shared: Whether it carries several requests at a time (HTTP/2).
        active: Requests on it now.
        served: Requests that it has carried before.
        idle_since: When it became idle, on `time.monotonic`.
        retired: Takes no further requests, and is closed after those that it has (HTTP/2).
    """

    __slots__ = ("active", "idle_since", "retired", "served", "shared")

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.active = 1
        self.served = 0
        self.idle_since = 0.0
        self.retired = False

    def __repr__(self) -> str:
        protocol = "HTTP/2" if self.shared else "HTTP/1.1"
        return f"<{type(self).__name__} {protocol}, {self.active} active, {self.served} served>"

    @property
    @abstractmethod
    def reusable(self) -> bool:
        """Whether another request may follow (HTTP/1.1), after one that has been closed."""

    @property
    @abstractmethod
    def dead(self) -> bool:
        """Whether an idle one (HTTP/1.1) has been closed by the other side, or has bytes that nobody asked for."""

    @property
    def alive(self) -> bool:
        """Whether an idle one (HTTP/2) can still carry requests."""
        return True

    @property
    def room(self) -> bool:
        """Whether another stream may start (HTTP/2)."""
        return False

    @abstractmethod
    async def aclose(self) -> None:
        """Close the socket, whatever is under way."""

    @abstractmethod
    def drop(self) -> None:
        """Close the socket at once, without a word to the peer: nobody in this process uses it any more."""

    @abstractmethod
    def cut(self, reason: str) -> None:
        """A drain is about to close it: those on it get a `DrainTimeout` that says `reason`."""


Taken: TypeAlias = "Connection | Literal[_Right.OPEN]"


class _Waiter:
    __slots__ = ("got", "turn")

    def __init__(self) -> None:
        self.turn = new_turn()
        self.got: Taken | None = None


class Connections:
    """Connections to one backend, within its limits."""

    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self.connect = connect
        self.closed = False
        self.ended = False
        self._slots = 0
        self._opening = 0
        self._idle: deque[Connection] = deque()
        self._shared: list[Connection] = []
        self._all: set[Connection] = set()
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._abandoned: list[Connection] = []
        self._dropped: deque[Connection] = deque()
        self._lock = threading.Lock()  # guards all of it
        self._expects_http2 = connect.http2
        self._gathers = True

    def __repr__(self) -> str:
        words = f"{self._slots} open, {len(self._idle)} idle, {len(self._waiters)} waiting"
        return f"<Connections {self.name}, {words}{', closed' if self.closed else ''}>"

    def counts(self) -> tuple[int, int]:
        """(open, idle); those being opened count as open."""
        with self._lock:
            idle = len(self._idle) + sum(1 for connection in self._shared if not connection.active)
            return self._slots, idle

    @property
    def is_open(self) -> bool:
        """Whether there are any. Takes no lock: for finalizers."""
        return self._slots > 0

    # Taking

    def at_once(self) -> Connection | None:
        """What `take` would give without giving way to the event loop: an idle connection, if there is one."""
        with self._lock:
            idle = self._idle
            if not idle or self._waiters or self._abandoned:
                return None
            connection = idle[-1]
            expiry = self.connect.keepalive_expiry
            if (expiry is not None and connection.idle_since < time.monotonic() - expiry) or connection.dead:
                return None  # to be closed, which takes a moment
            idle.pop()
            connection.active = 1
            return connection

    async def take(self, timeout: float | None) -> Taken:
        """A connection, or OPEN: the right (and the duty) to open one.

        Raises:
            httpcore.PoolTimeout: The limit was reached, and nothing came free within `timeout` seconds.
        """
        while True:
            with self._lock:
                stale: list[Connection] = self._abandoned
                self._abandoned = []
                got = None if self._waiters else self._next(stale)
                waiter = self._queue_up() if got is None and not stale else None
            if stale:
                await self._close_stale(stale, got)
            if got is not None:
                return got
            if waiter is not None:
                break  # while closing we could have missed what came free: only then look again
        self._sweep()
        try:
            await waiter.turn.wait(timeout)
        except BaseException as exc:
            with self._lock:
                self._waiters.pop(waiter, None)
            if waiter.got is not None:  # granted and cancelled in the same moment: pass it on
                await self.give_back(waiter.got)
            if isinstance(exc, TimeoutError):
                raise httpcore.PoolTimeout(
                    f"no connection to {self.name} came free within {timeout} s; "
                    f"its limit is max_connections={self.connect.max_connections}"
                ) from exc
            raise
        if waiter.got is None:
            raise httpcore.ConnectError(f"the connections to {self.name} were closed")
        return waiter.got

    def _next(self, stale: list[Connection]) -> Taken | None:
        """What can be had at once; None when the limit is reached. The dead and the expired go to `stale`."""
        idle = self._idle
        latest = self._latest() if idle else 0.0
        while idle:
            connection = idle.pop()
            if connection.idle_since >= latest and not connection.dead:
                connection.active = 1
                return connection
            self._forget(connection)
            stale.append(connection)
        if self._shared:
            stale.extend(self._drop_dead_shared())
            for connection in self._shared:
                if connection.room:
                    connection.active += 1
                    return connection
        if self._expects_http2 and self._opening and self._gathers:
            return None  # what is being opened may well turn out to be HTTP/2 and have room for this one too
        limit = self.connect.max_connections
        if limit is None or self._slots < limit:
            self._slots += 1
            self._opening += 1
            return OPEN
        return None

    def _queue_up(self) -> _Waiter:
        waiter = _Waiter()
        self._waiters[waiter] = None
        return waiter

    def _latest(self) -> float:
        """What became idle before that has expired."""
        expiry = self.connect.keepalive_expiry
        return -math.inf if expiry is None else time.monotonic() - expiry

    def _drop_dead_shared(self) -> list[Connection]:
        latest = self._latest()
        dead = [c for c in self._shared if not c.active and (not c.alive or c.idle_since < latest)]
        for connection in dead:
            self._forget(connection)
        return dead

    async def _close_stale(self, stale: list[Connection], got: Taken | None) -> None:
        """Close what was found dead on the way; when cancelled meanwhile, close them all the same."""
        try:
            for connection in stale:
                await connection.aclose()
        except BaseException:
            with anyio.CancelScope(shield=True):
                for connection in stale:
                    await connection.aclose()
                if got is not None:
                    await self.give_back(got)
            raise

    def distrust(self) -> None:
        """A connection turned out to have been closed while it was idle: the others that are idle are as old."""
        with self._lock:
            self._abandoned += self._forget_idle()
            self._wake(self._abandoned)
        self._sweep()

    # Opening

    def opened(self, connection: Connection) -> None:
        """The right to open was used.

        Raises:
            httpcore.ConnectError: All connections were closed meanwhile; close this one, and give the right back.
        """
        with self._lock:
            if self.ended:
                raise httpcore.ConnectError(f"the connections to {self.name} were closed")
            self._opening -= 1
            self._all.add(connection)
            if connection.shared:
                self._shared.append(connection)
            self._expects_http2 = connection.shared  # who does not speak it is not waited for to see again
            self._gathers = True
            self._wake(self._abandoned)
        self._sweep()

    # Giving back

    async def give_back(self, taken: Taken) -> None:
        """What was taken is not needed any more. Closes it where it cannot serve again; shielded from cancellation."""
        if doomed := self.put(taken):
            await self.close_all(doomed)

    def put(self, taken: Taken) -> list[Connection]:
        """The first half of `give_back`, which waits for nothing; returns whom to `close_all`."""
        with self._lock:
            doomed = self._put(taken)
        if self._dropped:
            self._sweep()
        return doomed

    async def close_all(self, doomed: list[Connection]) -> None:
        """Close connections that nobody else knows any more; shielded from cancellation."""
        with anyio.CancelScope(shield=True):
            for connection in doomed:
                await connection.aclose()

    def _put(self, taken: Taken) -> list[Connection]:
        doomed: list[Connection] = []
        if taken is OPEN:
            self._slots -= 1
            self._opening -= 1
            self._gathers = False  # or those who gathered would try, and fail, one after the other
        elif taken.shared:
            taken.active -= 1
            taken.served += 1
            if not taken.active:
                taken.idle_since = time.monotonic()
                if self.closed or taken.retired or not taken.alive:
                    self._forget(taken)
                    doomed.append(taken)
        elif taken.reusable and not self.closed and taken in self._all:
            taken.served += 1
            taken.active = 0
            if self._waiters and not taken.dead:
                waiter, _ = self._waiters.popitem(last=False)
                taken.active = 1
                waiter.got = taken
                waiter.turn.grant()
                return doomed
            self._rest(taken, doomed)
        else:
            self._forget(taken)
            doomed.append(taken)
        if self._waiters:
            self._wake(doomed)
        return doomed

    def _rest(self, connection: Connection, doomed: list[Connection]) -> None:
        """Put it on the stack. The bottom has rested longest: what is over the limit, or has expired, lies there."""
        idle, connect = self._idle, self.connect
        connection.idle_since = now = time.monotonic()
        idle.append(connection)
        most, expiry = connect.max_idle, connect.keepalive_expiry
        while idle and len(doomed) < MOST_EXPIRED_AT_ONCE:
            over = most is not None and len(idle) > most
            if not over and (expiry is None or now - idle[0].idle_since <= expiry):
                break
            oldest = idle.popleft()
            self._forget(oldest)
            doomed.append(oldest)

    def abandon(self, taken: Connection) -> None:
        """Give back without awaiting, from a finalizer: the next to take closes it.

        A finalizer may run in the middle of any of these methods, in the same thread, and cannot wait for the lock
        then: who has it sweeps up after letting go.
        """
        self._dropped.append(taken)
        self._sweep()

    def _sweep(self) -> None:
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                with suppress(IndexError):  # another thread was faster
                    self._put_aside(self._dropped.popleft())
            finally:
                self._lock.release()

    def _put_aside(self, taken: Connection) -> None:
        if taken.shared:
            taken.active -= 1
            taken.retired = (
                True  # its stream cannot be reset here: the others may finish, and nobody is added
            )
            if taken.active:
                return
        taken.active = 0
        self._forget(taken)
        self._abandoned.append(taken)
        self._wake(self._abandoned)

    def _forget(self, connection: Connection) -> None:
        if connection in self._all:
            self._all.discard(connection)
            self._slots -= 1
            if connection.shared:
                self._shared.remove(connection)

    def _forget_idle(self) -> list[Connection]:
        doomed = [*self._idle, *(c for c in self._shared if not c.active)]
        self._idle.clear()
        for connection in doomed:
            self._forget(connection)
        return doomed

    def _wake(self, stale: list[Connection]) -> None:
        """Grant what is free to those who wait for it."""
        while self._waiters:
            got = self._next(stale)
            if got is None:
                return
            waiter, _ = self._waiters.popitem(last=False)
            waiter.got = got
            waiter.turn.grant()

    # Ending

    async def aclose(self) -> None:
        """Close every connection, also those in use; whoever waits, or is connecting, gets a `ConnectError`."""
        with self._lock:
            self.closed = self.ended = True
            while self._waiters:
                waiter, _ = self._waiters.popitem(last=False)
                waiter.turn.grant()
            doomed = [*self._all, *self._abandoned]
            self._abandoned = []
            self._idle.clear()
            for connection in list(self._all):
                self._forget(connection)
        self._sweep()
        await self.close_all(doomed)

    async def cut(self, reason: str) -> int:
        """Close every connection; those in use get a `DrainTimeout` that says `reason`. How many were in use."""
        with self._lock:
            in_use = [connection for connection in self._all if connection.active]
            for connection in in_use:
                connection.cut(reason)
            count = sum(connection.active for connection in in_use)
        await self.aclose()
        return count

    def drop(self, also_in_use: bool) -> None:
        """Close what nobody uses, and from now on whatever is given back. For finalizers, where nothing can be awaited.

        Args:
            also_in_use: Also what is in use, by the parent of this process: here nobody uses it.
        """
        self.closed = True
        if also_in_use:  # and the lock may be a copy of one that was held there
            for connection in list(self._all):
                connection.drop()
        elif self._lock.acquire(blocking=False):
            try:
                doomed = [*self._forget_idle(), *self._abandoned]
                self._abandoned = []
            finally:
                self._lock.release()
            for connection in doomed:
                connection.drop()

    async def close_idle(self) -> None:
        """Close what nobody uses, and from now on whatever is given back: the backend is no longer a member."""
        with self._lock:
            self.closed = True
            doomed = self._forget_idle()
        self._sweep()
        await self.close_all(doomed)
