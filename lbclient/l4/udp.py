"""`UDPForwarder`: datagrams forwarded to the backend of their session, and its answers back.

A session is what has one source address: it gets a backend when its first datagram comes, and keeps it until nothing
has passed for a while. Each has a connected socket of its own, so the kernel sorts the answers, drops those of
strangers, and tells when nobody listens at the backend (ICMP): then the session goes elsewhere with the datagram that
was refused.
"""

from __future__ import annotations

import logging
import math
import socket
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from lbclient.core import errors as core_errors
from lbclient.core.attempts import Attempts
from lbclient.core.checks import check_whole
from lbclient.core.facts import Facts
from lbclient.core.outcome import Ending, Outcome
from lbclient.core.pool import Pool
from lbclient.core.ticket import Ticket
from lbclient.l4.fleet import Fleet
from lbclient.l4.forwarder import Forwarder, as_pool
from lbclient.l4.sockets import Address, addresses_of, known_address, new_socket

logger = logging.getLogger("lbclient")

Source: TypeAlias = Any  # an address as `recvfrom` gives it
MOST_BYTES = 65_535
DATAGRAMS_AT_ONCE = 64  # before the others have their turn
MOST_WAITING = 16  # datagrams of a session whose backend's name is being looked up


class Session:
    """What one source address sends, and is sent.

    Args:
        source: The client.
        plan: Whom to try.
        owner: The forwarder's side of it.
    """

    __slots__ = (
        "__weakref__",
        "_answers",
        "_cuts",
        "_last",
        "_owner",
        "_passed",
        "_seen",
        "_socket",
        "_ticket",
        "down",
        "idle_since",
        "open",
        "plan",
        "reason",
        "source",
        "up",
        "waiting",
    )

    def __init__(self, source: Source, plan: Attempts, owner: UDPForwarder) -> None:
        self.source = source
        self.plan = plan
        self._owner = owner
        self._ticket: Ticket | None = None
        self._socket: socket.socket | None = None
        self._last = b""
        self._answers = 0
        self._cuts = 0
        self._seen = -1
        self.waiting: list[bytes] | None = None
        self.idle_since = 0.0
        self.up = self.down = 0
        self._passed = 0  # datagrams, for those without a byte are signs of life as well
        self.open = True
        self.reason: str | None = None

    def __repr__(self) -> str:
        url = None if self._ticket is None else self._ticket.state.url
        state = "cut" if self.reason else "open" if self.open else "closed"
        return f"<Session of {self.source[0]}:{self.source[1]} with {url}, {state}>"

    # The backend

    def begin(self, ticket: Ticket) -> Address | None:
        """It has a backend; where that listens, if nobody has to be asked."""
        self._ticket = ticket
        self._cuts = self._owner.fleet.cuts(ticket.state.url)
        return known_address(ticket.backend)

    def connect(self, address: Address) -> None:
        """The backend's address is known.

        Raises:
            OSError: There are no descriptors left, or no route.
        """
        owner, ticket = self._owner, self._ticket
        assert ticket is not None
        family, where = address
        made = new_socket(family, socket.SOCK_DGRAM, owner.pool.connect)
        try:
            made.connect(where)
        except BaseException:
            made.close()
            raise
        self._socket = made
        if not owner.fleet.enter(ticket, self, self._cuts):
            self.reason = "a drain closed the backend's connections"
            self.close()
            return
        owner.readiness.on_readable(made, self._from_backend)

    # Datagrams

    def send(self, data: bytes) -> None:
        """One from the client."""
        if self.waiting is not None:
            if len(self.waiting) < MOST_WAITING:
                self.waiting.append(data)
            else:
                self._owner.stats.dropped += 1
            return
        assert self._socket is not None
        self._last = data
        try:
            self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            self._owner.stats.dropped += 1
        except ConnectionRefusedError as exc:
            self._refused(exc)
        except OSError as exc:
            logger.debug("%r: %s", self, exc)
            self._owner.stats.dropped += 1
        else:
            self.up += len(data)
            self._passed += 1

    def _from_backend(self) -> None:
        owner = self._owner
        for _ in range(DATAGRAMS_AT_ONCE):
            assert self._socket is not None
            try:
                data = self._socket.recv(MOST_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionRefusedError as exc:
                self._refused(exc)
                return
            except OSError as exc:
                logger.debug("%r: %s", self, exc)
                return
            if self.reason is not None:
                self.close()
                return
            self._answered(data)
            owner.answer(self.source, data)
            if owner.responses is not None and self._answers >= owner.responses:
                self.close()
            if not self.open:
                return

    def _answered(self, data: bytes) -> None:
        ticket = self._ticket
        assert ticket is not None
        if not self._answers:
            elapsed = self._owner.pool.clock() - ticket.started
            self.plan.observe(ticket, Outcome(elapsed=elapsed))
            ticket.answered(elapsed)
        self._answers += 1
        self._last = b""
        self.down += len(data)
        self._passed += 1

    def _refused(self, exc: OSError) -> None:
        """Nobody listens at the backend."""
        ticket = self._ticket
        assert ticket is not None
        data = self._last
        self._let_go()
        if self._answers:  # it did listen before: the client asks again, as it would after a loss
            ticket.failed("reset")
            self.close()
            return
        self.plan.observe(ticket, Outcome(Ending.UNREACHABLE, unsent=True, error=exc.strerror or str(exc)))
        ticket.failed("connect")
        step = self.plan.another(True, exc)
        if step is None or step.ticket is None:
            self._owner.stats.failed += 1
            self.close()
        else:
            self._owner.place(self, step.ticket, data)

    # The end

    def look(self, now: float, patience: float) -> bool:
        """Whether nothing has passed for so many seconds; to be asked now and then."""
        if self._passed != self._seen:
            self._seen = self._passed
            self.idle_since = now
        return now - self.idle_since >= patience

    def time_out(self) -> None:
        """Nothing has passed for too long. The backend's fault if it had to answer and never did."""
        if self._ticket is not None and self._owner.responses is not None and not self._answers:
            self._ticket.failed("timeout")
        self.close()

    def cut(self, reason: str) -> None:
        """See `fleet.Cuttable`."""
        self.reason = reason
        self._owner.readiness.here(self.close)

    def close(self) -> None:
        """It is over. From its own event loop; idempotent."""
        if not self.open:
            return
        self.open = False
        self._let_go()
        if self._ticket is not None:
            if self.reason is None:
                self._ticket.release()
            else:
                self._ticket.failed("local")
        self._owner.session_ended(self)

    def _let_go(self) -> None:
        if self._socket is not None:
            assert self._ticket is not None
            self._owner.fleet.leave(self._ticket, self)
            self._owner.readiness.off_readable(self._socket)
            self._socket.close()
            self._socket = None


class UDPForwarder(Forwarder):
    """Forwards datagrams: those of one source address to one backend, and its answers back.

    A backend at which nobody listens is passed over for another one. A backend that drains keeps its sessions until
    they are idle, or until the grace period ends; then what their clients send next goes elsewhere.

    Args:
        pool: Where to: a `Pool` of "udp://" (or HTTP) backends.
        host: The address to listen on, and to answer from: on a machine with several, name one.
        port: 0 takes a free one: see `.port`.
        idle_timeout: Seconds (> 0) without a datagram in either direction after which a session ends.
        max_sessions: At a time (>= 1); datagrams of further sources are dropped. Each takes a descriptor.
        responses: Datagrams (>= 1) from the backend after which a session ends: 1 for DNS. Then a session without any
            counts against the backend when it times out. None when nobody can tell: games, syslog.

    Attributes:
        stats: A `ForwarderStats`; its connections are sessions.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    _kind = socket.SOCK_DGRAM

    def __init__(
        self,
        pool: Pool,
        host: str,
        port: int,
        *,
        idle_timeout: float = 60.0,
        max_sessions: int = 10_000,
        responses: int | None = None,
    ) -> None:
        super().__init__([as_pool(pool, udp=True)], host, port, idle_timeout)
        self.pool = pool
        self.fleet: Fleet = self._fleets[pool]
        self._max_sessions = check_whole("max_sessions", max_sessions, at_least=1)
        self.responses = responses if responses is None else check_whole("responses", responses, at_least=1)
        self._sessions: dict[Source, Session] = {}
        self._takes_new = True

    def _begin(self, listener: socket.socket, group: TaskGroup) -> None:
        self._names, names = anyio.create_memory_object_stream[tuple[Session, Ticket]](math.inf)
        group.start_soon(self._look_names_up, names, group)
        self.readiness.on_readable(listener, self._from_clients)

    def _from_clients(self) -> None:
        listener = self._listener
        assert listener is not None
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                data, source = listener.recvfrom(MOST_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                logger.debug("%r: %s", self, exc)
                return
            session = self._sessions.get(source)
            if session is not None:
                session.send(data)
            elif self._takes_new and len(self._sessions) < self._max_sessions:
                self._open_session(source, data)
            else:
                self.stats.refused += 1
                self.stats.dropped += 1

    def _open_session(self, source: Source, data: bytes) -> None:
        facts = Facts(method="CONNECT", options={"client_ip": source[0], "idempotent": True})
        session = Session(source, self.pool.attempts(facts), self)
        try:
            ticket = session.plan.first()
        except core_errors.NoBackendAvailable as exc:
            logger.debug("%r has no backend for %s: %s", self, source[0], exc)
            self.stats.failed += 1
            self.stats.dropped += 1
            return
        self.stats.accepted += 1
        self.stats.open += 1
        self._sessions[source] = session
        self.place(session, ticket, data)

    def place(self, session: Session, ticket: Ticket, data: bytes) -> None:
        """Give a session a backend, and that the first datagram."""
        address = session.begin(ticket)
        if address is None:
            session.waiting = [data]
            self._names.send_nowait((session, ticket))  # from a callback no task can be started
        else:
            self._connect(session, ticket, address, [data])

    async def _look_names_up(
        self, names: MemoryObjectReceiveStream[tuple[Session, Ticket]], group: TaskGroup
    ) -> None:
        with self._names, names:
            async for session, ticket in names:
                group.start_soon(self._look_up, session, ticket)

    async def _look_up(self, session: Session, ticket: Ticket) -> None:
        try:
            address = (await addresses_of(ticket.backend, socket.SOCK_DGRAM))[0]
        except OSError as exc:
            logger.debug("%r: %s", session, exc)
            ticket.failed("connect")
            self.stats.failed += 1
            session.close()
            return
        waiting, session.waiting = session.waiting, None
        if session.open:
            self._connect(session, ticket, address, waiting or [])

    def _connect(self, session: Session, ticket: Ticket, address: Address, data: list[bytes]) -> None:
        try:
            session.connect(address)
        except OSError as exc:
            logger.warning("%r: %s", session, exc)
            ticket.failed("local")
            self.stats.failed += 1
            session.close()
            return
        for datagram in data:
            if session.open:
                session.send(datagram)

    def answer(self, source: Source, data: bytes) -> None:
        """One from a backend to a client."""
        assert self._listener is not None
        try:
            self._listener.sendto(data, source)
        except OSError as exc:
            logger.debug("%r cannot answer %s: %s", self, source[0], exc)
            self.stats.dropped += 1

    def session_ended(self, session: Session) -> None:
        """It is closed."""
        if self._sessions.get(session.source) is session:
            del self._sessions[session.source]
        self.stats.bytes_up += session.up
        self.stats.bytes_down += session.down
        if session.reason is not None:
            self.stats.cut += 1
        self._one_ended()

    # Ending

    def _stop_listening(self) -> None:
        self._takes_new = False  # the sessions there are go on

    def _close_all(self) -> None:
        for session in list(self._sessions.values()):
            session.reason = "the forwarder was stopped"
            session.close()
        if self._listener is not None and self._listener.fileno() >= 0:
            self.readiness.off_readable(self._listener)

    def _look(self, now: float) -> None:
        for session in [s for s in self._sessions.values() if s.look(now, self._idle_timeout)]:
            self.stats.timed_out += 1
            session.time_out()
