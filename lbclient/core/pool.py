"""The pool: a named set of backends with one algorithm and one set of policies.

A pick reads one reference, the snapshot, and updates a few integers. Everything slow (rings, tables, schedules) happens
when the set or somebody's health changes. One short lock guards all of it, so one pool serves asyncio, trio, threads
and several event loops alike.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from lbclient.core.algorithms import from_name
from lbclient.core.algorithms.picker import Algorithm, pick_by_rebuilding
from lbclient.core.attempts import Attempts
from lbclient.core.backend import BackendState
from lbclient.core.checks import check_fraction, check_number, check_whole
from lbclient.core.connect import Connect
from lbclient.core.errors import NoBackendAvailable
from lbclient.core.facts import Facts, KeyLike, KeyReader, as_key, key_reader
from lbclient.core.health import Admin, Passive, PassiveHealth
from lbclient.core.members import BackendLike
from lbclient.core.membership import Membership
from lbclient.core.outcome import BACKEND_S_FAULT, Failure
from lbclient.core.outliers import Change, OutlierDetector
from lbclient.core.probes import HttpProbe, TcpProbe
from lbclient.core.snapshot import Rules, Snapshot, fail_open_set, why_not
from lbclient.core.status import PoolStatus, status_of
from lbclient.core.ticket import Answer, Ticket

_T = TypeVar("_T")

ASK_FOR_TIME = frozenset({429, 503})
LATENCY_SHARE = 0.2  # of the newest answer in the status's moving average
_STATUS_FAILURES = PassiveHealth()  # what counts as a failure in the status of a pool without passive health


class Pool(Membership):
    """A named set of backends, one algorithm, one set of policies. Serves any number of loops and threads.

    Args:
        backends: URLs and `Backend`s, mixed; at least one, no URL twice.
        name: For the record, the logs and the metrics.
        algorithm: A name, or an object with `build(backends, rng)`.
        probe: How backends are probed in the background, if at all.
        passive: When live requests take a backend out; None for never.
        slow_start: Seconds over which a new or recovered backend's weight grows from a tenth; 0 is off.
        panic_threshold: When less than this share (0 to 1) of the pool is available, health is ignored.
        fail_open: Whether to pick among all that are not draining or disabled when nobody is available.
        max_in_flight: Tickets per backend, hard; None for no limit.
        preserve_host: Backends see the logical host instead of their own.
        connect: How connections are made.
        clock: Seconds that never go back.
        rng: Where random choices come from.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    def __init__(
        self,
        backends: Iterable[BackendLike],
        *,
        name: str = "default",
        algorithm: str | Algorithm = "power_of_two_choices",
        probe: HttpProbe | TcpProbe | None = None,
        passive: PassiveHealth | None = _STATUS_FAILURES,
        slow_start: float = 0.0,
        panic_threshold: float = 0.0,
        fail_open: bool = True,
        max_in_flight: int | None = None,
        preserve_host: bool = False,
        connect: Connect | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.algorithm = _as_algorithm(algorithm)
        self.passive = _instance("passive", passive, (PassiveHealth,))
        check_number("slow_start", slow_start, at_least=0)
        check_fraction("panic_threshold", panic_threshold)
        if panic_threshold and not fail_open:
            raise ValueError(
                "panic_threshold ignores health and fail_open=False never does; leave one of them out"
            )
        if max_in_flight is not None:
            check_whole("max_in_flight", max_in_flight, at_least=1)
        self.max_in_flight = max_in_flight
        self.preserve_host = preserve_host
        self.connect = _instance("connect", connect, (Connect,)) or Connect()
        self.seed = None if rng is not None else random.getrandbits(64)
        self._key: KeyReader | None = _reader_of(self.algorithm)
        super().__init__(
            backends,
            name=name,
            rules=Rules(self.algorithm, slow_start, panic_threshold, fail_open, max_in_flight is not None),
            probe=_instance("probe", probe, (HttpProbe, TcpProbe)),
            clock=clock,
            rng=rng if rng is not None else random.Random(self.seed),
        )
        self._outliers = None if self.passive is None else OutlierDetector(self.passive, self.rng)

    def __repr__(self) -> str:
        snapshot = self._snapshot
        panic = ", panic" if snapshot.panic else ""
        return (
            f"<Pool {self.name!r} {algorithm_name(self.algorithm)}, "
            f"{len(snapshot.candidates)} of {len(self._states)} pickable{panic}>"
        )

    # Picking

    def attempts(self, facts: Facts) -> Attempts:
        """The plan of one request: whom to try, and whether to go on."""
        return Attempts(self, facts)

    def key_of(self, facts: Facts) -> bytes | None:
        """The key that the algorithm reads off a request; the caller's own goes first."""
        own = facts.options.get("key")
        if own is not None:
            return as_key(own)
        return None if self._key is None else self._key(facts)

    def pick(self, key: bytes | str | None = None, *, exclude: Collection[str] = ()) -> Ticket:
        """A ticket on the backend that serves the next request. No I/O.

        Args:
            key: What hashing algorithms hash.
            exclude: URLs not to pick, because they were tried.

        Raises:
            NoBackendAvailable: Nobody is left; the message says why, backend by backend.
        """
        if key is not None and not isinstance(key, bytes):
            key = as_key(key)
        now = self.clock()
        with self._lock:
            snapshot = self._snapshot
            if now >= snapshot.valid_until:
                snapshot = self._publish(now)
            if snapshot.pick is None or exclude:
                state = self._pick_among(snapshot, key, exclude)
            else:
                state = snapshot.pick(key)
            trial = False
            if state.guarded:
                if self._is_full(state):
                    state = self._pick_among(snapshot, key, exclude)
                trial = state.health.passive is Passive.HALF_OPEN
            loads = [s.in_flight for s in snapshot.candidates] if snapshot.shows_loads else None
            state.in_flight += 1
            state.picks += 1
            if snapshot.started is not None:
                snapshot.started(state)
            ticket = Ticket(self, state, snapshot, now, loads, getattr(snapshot.picker, "drawn", None), trial)
            if trial:
                state.health.begin_trial()
                self._publish(now)
        if self._news:
            self._news.tell()
        return ticket

    def _pick_among(self, snapshot: Snapshot, key: bytes | None, exclude: Collection[str]) -> BackendState:
        """A pick that has to step around somebody: tried before, or full."""
        avoid = {state for state in snapshot.candidates if state.url in exclude or self._is_full(state)}
        state = snapshot.pick_other(self.algorithm, self.rng, key, avoid)
        if state is None and exclude and self._rules.fail_open:
            # A doubtful backend that was not tried is better than none.
            rest = [s for s in fail_open_set(tuple(self._states.values())) if not self._is_full(s)]
            avoid = {s for s in rest if s.url in exclude}
            state = pick_by_rebuilding(self.algorithm, rest, self.rng, key, avoid)
        if state is None:
            raise NoBackendAvailable(self._why_nobody(exclude))
        return state

    def _is_full(self, state: BackendState) -> bool:
        return self.max_in_flight is not None and state.in_flight >= self.max_in_flight

    def _why_nobody(self, exclude: Collection[str]) -> str:
        reasons = self.skipped(exclude)
        shown = "; ".join(f"{url}: {reason}" for url, reason in list(reasons.items())[:10])
        more = f"; and {len(reasons) - 10} more" if len(reasons) > 10 else ""
        return f"no backend of pool {self.name!r} is available ({shown}{more})"

    def skipped(self, exclude: Collection[str] = ()) -> dict[str, str]:
        """Why each backend was passed over, when nobody is left."""
        now = self.clock()
        reasons: dict[str, str] = {}
        for state in self._states.values():
            if state.url in exclude:
                reasons[state.url] = "already tried"
            elif self._is_full(state):
                reasons[state.url] = f"{state.in_flight} in flight, the limit"
            else:
                reasons[state.url] = why_not(state, now)
        return reasons

    # What tickets tell (Ticket is the only caller)

    def ticket_answered(self, ticket: Ticket, latency: float, status: int, retry_after: float | None) -> None:
        """The response headers of `ticket` came."""
        policy = self.passive or _STATUS_FAILURES
        failed = policy.is_failure(status)
        now = self.clock()
        with self._lock:
            if not ticket.open or ticket.answer is not None:
                return
            state = ticket.state
            self._observe(state, latency, failed, now)
            overload = policy.is_overload(status)
            if failed:
                ticket.answer = Answer.FAILURE
                state.failures += 1
            else:
                ticket.answer = Answer.OVERLOAD if overload else Answer.GOOD
                seen = state.latency
                state.latency = latency if seen is None else seen + LATENCY_SHARE * (latency - seen)
            if failed or overload or ticket.trial:
                self._judge(ticket, now, failed, overload, f"status {status}")
            if retry_after and self._outliers is not None and policy.retry_after and status in ASK_FOR_TIME:
                self._took_effect(
                    state, now, self._outliers.hold(state, self._states.values(), now, retry_after)
                )
        if self._news:
            self._news.tell()

    def ticket_ended(self, ticket: Ticket, kind: Failure | None, latency: float | None) -> None:
        """`ticket` is over: with a failure of this kind, or (None) with whatever its response was."""
        now = self.clock()
        with self._lock:
            if not ticket.open:
                return
            ticket.open = False
            state = ticket.state
            state.in_flight -= 1
            snapshot = self._snapshot
            if snapshot.ended is not None:
                snapshot.ended(state)
            answer = ticket.answer
            if answer is Answer.FAILURE:
                pass  # its status has been charged
            elif kind in BACKEND_S_FAULT:
                state.failures += 1
                self._observe(state, now - ticket.started if latency is None else latency, True, now)
                self._judge(ticket, now, True, why=str(kind))
            elif kind is None or answer is not None:
                state.successes += 1
                if kind is None and answer is Answer.GOOD:
                    self._judge(ticket, now, False)
            elif ticket.trial:
                self._judge(ticket, now, None)
            if not state.in_flight and state.health.admin is Admin.DRAINING:
                self._log(logging.INFO, "nothing in flight any more", state)
        if self._news:
            self._news.tell()

    def _observe(self, state: BackendState, latency: float, failed: bool, now: float) -> None:
        observed = self._snapshot.observed
        if observed is not None:
            observed(state, latency, failed, now)

    def _judge(
        self, ticket: Ticket, now: float, failed: bool | None, overload: bool = False, why: str = ""
    ) -> None:
        if self._outliers is not None:
            everybody = self._states.values()
            self._took_effect(
                ticket.state, now, self._outliers.judge(ticket, everybody, now, failed, overload, why)
            )

    def _took_effect(self, state: BackendState, now: float, change: Change | None) -> None:
        if change is not None:
            self._log(change.level, change.words, state, *change.args)
            self._publish(now)

    def status(self) -> PoolStatus:
        """Everything a person wants to see. Takes no lock (unless time has changed the answer): picks do not wait."""
        now = self.clock()
        snapshot = self._snapshot
        if now >= snapshot.valid_until:
            with self._lock:
                snapshot = self._publish(now)
            self._news.tell()
        return PoolStatus(
            name=self.name,
            algorithm=algorithm_name(self.algorithm),
            generation=snapshot.generation,
            panic=snapshot.panic,
            backends=tuple(status_of(state, now) for state in self._states.values()),
        )


def algorithm_name(algorithm: Algorithm) -> str:
    """What an algorithm is called in configuration, status and records."""
    return str(getattr(algorithm, "name", type(algorithm).__name__))


def _as_algorithm(algorithm: str | Algorithm) -> Algorithm:
    if isinstance(algorithm, str):
        return from_name(algorithm)
    if isinstance(algorithm, type) or not isinstance(algorithm, Algorithm):
        raise TypeError(
            f"algorithm is {algorithm!r}; write a name such as 'round_robin', or an object with build(backends, rng)"
        )
    return algorithm


def _reader_of(algorithm: Algorithm) -> KeyReader | None:
    key: KeyLike | None = getattr(algorithm, "key", None)
    return None if key is None else key_reader(key)


def _instance(name: str, value: _T, kinds: tuple[type, ...]) -> _T:
    if value is not None and not isinstance(value, kinds):
        wanted = " or ".join(f"{kind.__name__}(...)" for kind in kinds)
        raise TypeError(f"{name} is {value!r}; write {wanted}, or None")
    return value
