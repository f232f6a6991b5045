"""A connection to one backend of a pool: whom to try, for how long, and who is next when it fails.

What may follow a failure is the core's to say (`core/attempts.py`); nothing of the caller's has been sent yet, so any
backend may be next. `Dial` decides without waiting for anything, `dial` and `dial_blocking` carry it out.
"""

from __future__ import annotations

import errno
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import anyio

from lbclient._async.background import Wake
from lbclient.core import errors as core_errors
from lbclient.core.attempts import Attempts, Step
from lbclient.core.explain import Record
from lbclient.core.facts import Facts
from lbclient.core.outcome import Ending, Outcome
from lbclient.core.ticket import Ticket
from lbclient.core.waiting import Place
from lbclient.l4.errors import NoBackendAvailable, explained
from lbclient.l4.fleet import Cuttable, Fleet
from lbclient.l4.sockets import kind_of


class Made(Cuttable, Protocol):
    """A connection that has come about."""

    def discard(self) -> None:
        """Close it, before anybody has heard of it. Its ticket has ended."""
        ...  # pragma: no cover - a protocol


M = TypeVar("M", bound=Made)

OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors of connecting that say nothing of the backend: no descriptors, memory or local ports are left."""


class Dial:
    """The way to one connection.

    Args:
        fleet: Of the pool.
        facts: What affinities and hashing algorithms look at.
        timeout: Seconds for all of it: waiting for room in a full pool, every attempt, the TLS handshakes.
    """

    __slots__ = ("_cuts", "_failure", "_fleet", "_give_up", "_started", "_timeout", "_within", "plan")

    def __init__(self, fleet: Fleet, facts: Facts, timeout: float) -> None:
        self._fleet = fleet
        self._timeout = timeout
        self._give_up = time.monotonic() + timeout
        self._started = 0.0
        self._within = 0.0
        self._cuts = 0
        self._failure: Exception = ConnectionAbortedError("a drain closed the backend's connections")
        self.plan: Attempts = fleet.pool.attempts(facts, time.time())

    @property
    def record(self) -> Record:
        """Whom it tried, and why."""
        return Record(self.plan)

    @property
    def left(self) -> float:
        """Seconds until the timeout; not below 0."""
        return max(0.0, self._give_up - time.monotonic())

    # Whom to try

    def first(self, place: Place | None = None) -> Ticket | None:
        """The first ticket; None while the pool is full, or does not know its backends yet.

        Args:
            place: In the pool's queue, for those who have waited there.

        Raises:
            NoBackendAvailable: Nobody may be picked, or the pool's source has not said in time who may.
            TimeoutError: The pool was full until the timeout.
        """
        try:
            return self.plan.first(place)
        except core_errors.PoolFull as exc:
            if self.left:
                return None
            raise self._explained(TimeoutError(f"{exc}: no room within {self._timeout:.3g} s")) from None
        except core_errors.NoSetYet as exc:
            if self.left:
                return None
            words = f"{exc}; {self._timeout:.3g} s waited"
            raise self._explained(NoBackendAvailable(words)) from None
        except core_errors.NoBackendAvailable as exc:
            raise self._explained(NoBackendAvailable(str(exc))) from None

    @contextmanager
    def waiting(self, wake: Callable[[], None]) -> Generator[Place | None, None, None]:
        """`wake` is called, from any thread, when there may be room, or the pool has learned of backends.

        Gives a place among those who wait, where there is a limit to wait for.
        """
        pool = self.plan.pool
        queue = pool.queue
        try:
            place = None if queue is None else queue.join(wake)
        except core_errors.NoBackendAvailable as exc:
            raise self._explained(NoBackendAvailable(str(exc))) from None
        unsubscribe = pool.subscribe(wake)
        try:
            yield place
        finally:
            unsubscribe()
            if queue is not None and place is not None:
                queue.leave(place)

    @property
    def patience(self) -> float:
        """Seconds to wait before looking again, woken or not."""
        return min(self.left, self.plan.pool.changes_in(), threading.TIMEOUT_MAX)

    # One attempt

    def begin(self, ticket: Ticket) -> float:
        """An attempt begins; how many seconds it has."""
        self._cuts = self._fleet.cuts(ticket.state.url)
        self._started = self._fleet.pool.clock()
        self._within = self.left
        if self.plan.others_left(ticket):
            self._within = min(self._within, self._fleet.pool.connect.connect_timeout)
        return self._within

    def connected(self, ticket: Ticket, connection: Made) -> Step | None:
        """It has come about, and is in flight from now on. Too late for a drain it is not: then what to do next."""
        elapsed = self._fleet.pool.clock() - self._started
        if self._fleet.enter(ticket, connection, self._cuts):
            self.plan.observe(ticket, Outcome(elapsed=elapsed))
            ticket.answered(elapsed)
            return None
        self._end(ticket, Ending.LEAVING, "a drain closed its connections", elapsed)
        connection.discard()
        return self._next()

    def failed(self, ticket: Ticket, exc: BaseException) -> Step:
        """It has failed; what to do next.

        Raises:
            BaseException: `exc`, when nothing may follow it.
        """
        elapsed = self._fleet.pool.clock() - self._started
        if isinstance(exc, TimeoutError) and self._within < self._fleet.pool.connect.connect_timeout:
            ending = Ending.HURRIED  # the caller's timeout left it too little time
        elif isinstance(exc, OSError) and exc.errno in OUR_LIMITS:
            ending = Ending.FULL
        elif isinstance(exc, OSError):
            ending = Ending.UNREACHABLE
        else:
            ending = Ending.OURS if isinstance(exc, Exception) else Ending.CANCELLED
        self._end(ticket, ending, _words(exc), elapsed)
        if not isinstance(exc, OSError):
            raise self._explained(exc)
        self._failure = exc
        return self._next()

    def broke(self, ticket: Ticket, exc: OSError) -> Step:
        """It had come about, and ended before a byte of the caller's was sent, or one came; what to do next.

        The timeout begins anew.

        Raises:
            OSError: `exc`, when nothing may follow it.
        """
        self._give_up = time.monotonic() + self._timeout
        elapsed = self._fleet.pool.clock() - ticket.started
        outcome = Outcome(Ending.BROKEN, unsent=True, error=_words(exc), elapsed=elapsed)
        self.plan.observe(ticket, outcome)
        ticket.failed(kind_of(exc))
        self._failure = exc
        return self._next()

    def again(self) -> Ticket:
        """The ticket after a wait.

        Raises:
            OSError: There is nobody left to try: the last attempt's.
        """
        ticket = self.plan.again()
        if ticket is None:
            raise self._explained(self._failure)
        return ticket

    def _end(self, ticket: Ticket, ending: Ending, words: str, elapsed: float) -> None:
        outcome = Outcome(ending, unsent=True, error=words, elapsed=elapsed)
        self.plan.observe(ticket, outcome)
        assert outcome.failure is not None
        ticket.failed(outcome.failure, elapsed)

    def _next(self) -> Step:
        step = self.plan.another(True, self._failure)
        if step is None or (step.ticket is None and step.wait >= self.left):
            raise self._explained(self._failure)
        return step

    def _explained(self, exc: BaseException) -> BaseException:
        explained(exc, self.record)
        return exc


async def dial(
    dialing: Dial, establish: Callable[[Ticket], Awaitable[M]], broken: tuple[Ticket, OSError] | None = None
) -> M:
    """Connect.

    Args:
        dialing: The way.
        establish: One attempt.
        broken: The connection that this one replaces, and why it ended.

    Raises:
        NoBackendAvailable: Nobody may be picked.
        TimeoutError: It took longer than the timeout.
        OSError: The last attempt's, with the record.
    """
    ticket = await (_first(dialing) if broken is None else _follow(dialing, dialing.broke(*broken)))
    while True:
        within = dialing.begin(ticket)
        made: M | None = None
        try:
            with anyio.move_on_after(within):  # half the price of fail_after, once a connection
                made = await establish(ticket)
            if made is None:
                raise TimeoutError(f"no connection within {within:.3g} s")
        except BaseException as exc:  # noqa: BLE001  # raised on, unless another backend may be tried
            step = dialing.failed(ticket, exc)
        else:
            late = dialing.connected(ticket, made)
            if late is None:
                return made
            step = late
        ticket = await _follow(dialing, step)


async def _first(dialing: Dial) -> Ticket:
    ticket = dialing.first()
    if ticket is None:
        news = Wake()
        with dialing.waiting(news.wake) as place:
            while (ticket := dialing.first(place)) is None:
                with anyio.move_on_after(dialing.patience):
                    await news.wait()
    return ticket


async def _follow(dialing: Dial, step: Step) -> Ticket:
    if step.ticket is None:
        await anyio.sleep(step.wait)
    return step.ticket or dialing.again()


def dial_blocking(dialing: Dial, establish: Callable[[Ticket, float], M]) -> M:
    """The same for those without an event loop; `establish` is told how many seconds it has."""
    ticket = dialing.first()
    if ticket is None:
        news = threading.Event()
        with dialing.waiting(news.set) as place:
            while (ticket := dialing.first(place)) is None:
                news.wait(dialing.patience)
                news.clear()
    while True:
        within = dialing.begin(ticket)
        try:
            made = establish(ticket, within)
        except BaseException as exc:  # noqa: BLE001  # raised on, unless another backend may be tried
            step = dialing.failed(ticket, exc)
        else:
            late = dialing.connected(ticket, made)
            if late is None:
                return made
            step = late
        if step.ticket is None:
            time.sleep(step.wait)
        ticket = step.ticket or dialing.again()


def _words(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {exc.verify_message}"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or ("no connection in time" if isinstance(exc, TimeoutError) else type(exc).__name__)
