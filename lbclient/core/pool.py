"""The pool: a named set of backends with one algorithm and one set of policies.

A pick reads one reference, the snapshot, and updates a few integers. Everything slow (rings, tables, schedules) happens
when the set or somebody's health changes. One lock guards all of it and is never held across I/O: not even a log line
is written under it, so one pool serves asyncio, trio, threads and several event loops alike.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TypeAlias, TypeVar

from lbclient.core.algorithms import from_name
from lbclient.core.algorithms.picker import Algorithm, pick_by_rebuilding
from lbclient.core.attempts import Attempts
from lbclient.core.backend import Backend, BackendState
from lbclient.core.checks import check_fraction, check_number, check_whole
from lbclient.core.connect import Connect
from lbclient.core.errors import NoBackendAvailable
from lbclient.core.facts import Facts, KeyLike, KeyReader, as_key, key_reader
from lbclient.core.health import Admin, Check, Passive, PassiveHealth
from lbclient.core.outcome import BACKEND_S_FAULT, Failure
from lbclient.core.probes import HttpProbe, TcpProbe
from lbclient.core.snapshot import Rules, Snapshot, build_snapshot, fail_open_set, why_not
from lbclient.core.status import BackendStatus, PoolStatus
from lbclient.core.ticket import Answer, Ticket

logger = logging.getLogger("lbclient")

_T = TypeVar("_T")
BackendLike: TypeAlias = Backend | str
_News: TypeAlias = tuple[int, str, tuple[object, ...]]

EJECTION_JITTER = 0.1
LATENCY_SHARE = 0.2  # of the newest answer in the status's moving average
_STATUS_FAILURES = PassiveHealth()  # what counts as a failure in the status of a pool without passive health


class Pool:
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
        self.name = name
        self.algorithm = _as_algorithm(algorithm)
        self.probe = _instance("probe", probe, (HttpProbe, TcpProbe))
        self.passive = _instance("passive", passive, (PassiveHealth,))
        self.slow_start = check_number("slow_start", slow_start, at_least=0)
        self.panic_threshold = check_fraction("panic_threshold", panic_threshold)
        if panic_threshold and not fail_open:
            raise ValueError("panic_threshold ignores health and fail_open=False never does; leave one of them out")
        if max_in_flight is not None:
            check_whole("max_in_flight", max_in_flight, at_least=1)
        self.max_in_flight = max_in_flight
        self.preserve_host = preserve_host
        self.connect = _instance("connect", connect, (Connect,)) or Connect()
        self.clock = clock
        self.seed = None if rng is not None else random.getrandbits(64)
        self.rng = rng if rng is not None else random.Random(self.seed)
        self._key: KeyReader | None = _reader_of(self.algorithm)
        self._rules = Rules(
            self.algorithm, self.slow_start, self.panic_threshold, fail_open, max_in_flight is not None
        )
        self._lock = threading.Lock()
        self._news: list[_News] = []
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._states = self._admit(backends, {}, ramp_since=None)
        self._snapshot = build_snapshot(tuple(self._states.values()), self._rules, self.rng, clock(), None)

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
            self._tell()
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
            if retry_after and policy.retry_after and status in (429, 503):
                self._hold(state, policy, now, retry_after)
        if self._news:
            self._tell()

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
                self._judge(ticket, now, True, False, str(kind))
            elif kind is None or answer is not None:
                state.successes += 1
                if kind is None and answer is Answer.GOOD:
                    self._judge(ticket, now, False, False, "")
            elif ticket.trial:
                self._judge(ticket, now, None, False, "")
        if self._news:
            self._tell()

    def _observe(self, state: BackendState, latency: float, failed: bool, now: float) -> None:
        observed = self._snapshot.observed
        if observed is not None:
            observed(state, latency, failed, now)

    def _judge(self, ticket: Ticket, now: float, failed: bool | None, overload: bool, why: str) -> None:
        """Let passive health know of an outcome; None is one that proves nothing."""
        policy = self.passive
        state = ticket.state
        health = state.health
        if policy is None or ticket.epoch != health.epoch:
            return
        if health.passive is Passive.TRIAL:
            if ticket.trial:
                self._end_trial(state, policy, now, None if overload else failed, why)
        elif health.passive is Passive.IN and failed is not None:
            reason = health.record(policy, now, failed, overload)
            if reason is not None and self._may_eject(state, policy, reason):
                if reason == "consecutive":
                    words = f"{health.failures_in_a_row} failures in a row, the last: {why}"
                else:
                    words = f"over {policy.failure_ratio:.0%} of its requests failed, the last: {why}"
                health.eject(policy, now, self._jitter(), words)
                self._log(logging.WARNING, "ejected for %.1f s: %s", state, health.ejected_for(now), words)
                self._publish(now)

    def _end_trial(
        self, state: BackendState, policy: PassiveHealth, now: float, failed: bool | None, why: str
    ) -> None:
        health = state.health
        health.end_trial(None if failed is None else not failed, policy, now, self._jitter(), f"trial: {why}")
        if failed:
            self._log(logging.WARNING, "ejected for %.1f s: its trial failed: %s", state, health.ejected_for(now), why)
        elif failed is not None:
            self._log(logging.INFO, "back in: its trial succeeded", state)
        self._publish(now)

    def _hold(self, state: BackendState, policy: PassiveHealth, now: float, seconds: float) -> None:
        if self.passive is None or state.health.passive is not Passive.IN or not self._others_stand(state):
            return
        seconds = min(seconds, policy.max_ejection)
        state.health.hold(now + seconds, "it sent Retry-After")
        self._log(logging.INFO, "held back for %.1f s: it sent Retry-After", state, seconds)
        self._publish(now)

    def _may_eject(self, state: BackendState, policy: PassiveHealth, reason: str) -> bool:
        """Never the last backend standing; and the ratio may have ejected at most its share of the pool."""
        if not self._others_stand(state):
            return False
        if reason == "consecutive":
            return True
        out = sum(1 for s in self._states.values() if s.health.passive is not Passive.IN)
        return out + 1 <= policy.max_ejected * len(self._states)

    def _others_stand(self, state: BackendState) -> bool:
        return any(s.health.standing and s is not state and s.backend.weight > 0 for s in self._states.values())

    def _jitter(self) -> float:
        return 1 + EJECTION_JITTER * (2 * self.rng.random() - 1)

    # Membership and administration

    def add(self, backend: BackendLike) -> None:
        """A new backend, pickable at once (with `slow_start` it ramps up).

        Raises:
            ValueError: Its URL is known already.
        """
        new = Backend.of(backend)
        with self._lock:
            if new.url in self._states:
                raise ValueError(f"{new.url} is in pool {self.name!r} already; use update() to change it")
            self._become({**self._states, **self._admit([new], {}, ramp_since=self.clock())})
        self._tell()

    def remove(self, url: str) -> None:
        """No new picks; what is in flight may finish.

        Raises:
            ValueError: The URL is unknown, or it is the last one.
        """
        with self._lock:
            self._state(url)
            rest = {known: state for known, state in self._states.items() if known != _as_url(url)}
            if not rest:
                raise ValueError(f"{url} is the last backend of pool {self.name!r}; a pool cannot be empty")
            self._become(rest)
        self._tell()

    def update(self, backends: Iterable[BackendLike]) -> None:
        """The whole set at once; the numbers and the health of those that stay are kept.

        Raises:
            ValueError: The set is empty, or has a URL twice. Nothing has changed then.
        """
        with self._lock:
            self._become(self._admit(backends, self._states, ramp_since=self.clock()))
        self._tell()

    def begin_drain(self, url: str, grace: float = 300.0) -> None:
        """No new picks from now on; after `grace` seconds (>= 0) the backend is disabled."""
        check_number("grace", grace, at_least=0)
        with self._lock:
            health = self._state(url).health
            health.admin = Admin.DRAINING
            health.drain_until = self.clock() + grace
            self._changed(url, "draining, %.1f s grace", grace)
        self._tell()

    def disable(self, url: str) -> None:
        """No new picks and no probes, until `enable`."""
        with self._lock:
            self._state(url).health.admin = Admin.DISABLED
            self._changed(url, "disabled")
        self._tell()

    def enable(self, url: str) -> None:
        """Pickable again, after a drain or `disable`."""
        with self._lock:
            health = self._state(url).health
            if health.admin is not Admin.ACTIVE:
                health.admin = Admin.ACTIVE
                health.ramp_since = self.clock()
                self._changed(url, "enabled")
        self._tell()

    def set_weight(self, url: str, weight: float) -> None:
        """Another share; >= 0, 0 takes no new picks."""
        with self._lock:
            state = self._state(url)
            state.backend = replace(state.backend, weight=weight)
            self._changed(url, "weight %s", weight)
        self._tell()

    def report_probe(self, url: str, passed: bool) -> None:
        """One probe result, or the verdict of some other checker.

        The first ever counts alone. Later ones go by the thresholds of the pool's probe; in a pool without one each
        counts alone.
        """
        up, down = (self.probe.healthy_threshold, self.probe.unhealthy_threshold) if self.probe else (1, 1)
        with self._lock:
            health = self._state(url).health
            known = health.check
            if health.probed(passed, up, down, self.clock()):
                level = logging.INFO if passed else logging.WARNING
                was = "" if known is Check.UNKNOWN else f", was {known.value}"
                self._changed(url, "probe %s%s", health.check.value, was, level=level)
        self._tell()

    def members(self) -> tuple[Backend, ...]:
        """The backends that are not disabled, in declared order."""
        return tuple(s.backend for s in self._states.values() if s.health.admin is not Admin.DISABLED)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called after every change, from whatever thread made it; returns what undoes it."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(known for known in self._listeners if known is not callback)

        return unsubscribe

    def status(self) -> PoolStatus:
        """Everything a person wants to see. Takes no lock (unless time has changed the answer): picks do not wait."""
        now = self.clock()
        snapshot = self._snapshot
        if now >= snapshot.valid_until:
            with self._lock:
                snapshot = self._publish(now)
            self._tell()
        return PoolStatus(
            name=self.name,
            algorithm=algorithm_name(self.algorithm),
            generation=snapshot.generation,
            panic=snapshot.panic,
            backends=tuple(_status_of(state, now) for state in self._states.values()),
        )

    # Inside (with the lock held)

    def _state(self, url: str) -> BackendState:
        known = self._states.get(_as_url(url))
        if known is None:
            raise ValueError(f"{url!r} is not in pool {self.name!r}; it has {', '.join(self._states)}")
        return known

    def _admit(
        self, backends: Iterable[BackendLike], known: dict[str, BackendState], ramp_since: float | None
    ) -> dict[str, BackendState]:
        """The states of a whole set; those that are known keep theirs, the others begin their slow start."""
        if isinstance(backends, (str, Backend)):
            raise TypeError(f"backends is {backends!r}; write a list of URLs or Backends")
        declared = [Backend.of(backend) for backend in backends]
        if not declared:
            raise ValueError(f"pool {self.name!r} has no backends; write at least one, like 'http://10.0.0.5:8080'")
        if len({backend.url for backend in declared}) < len(declared):
            urls = [backend.url for backend in declared]
            twice = sorted({url for url in urls if urls.count(url) > 1})
            raise ValueError(f"pool {self.name!r} has {', '.join(twice)} more than once; use weight= for a larger share")
        states: dict[str, BackendState] = {}
        for backend in declared:
            state = known.get(backend.url)
            if state is None:
                state = BackendState(backend, self.clock)
                state.health.ramp_since = ramp_since
            states[backend.url] = state
        # Nothing above this line has changed anything, so a set that is refused leaves no trace.
        for backend in declared:
            states[backend.url].backend = backend
        return states

    def _become(self, states: dict[str, BackendState]) -> None:
        """Another set of members; the dict is replaced whole, so that readers without the lock are safe."""
        added = [url for url in states if url not in self._states]
        removed = [url for url in self._states if url not in states]
        self._states = states
        self._news.append((logging.INFO, "%s: added %s, removed %s", (self.name, added, removed)))
        self._publish(self.clock())

    def _publish(self, now: float) -> Snapshot:
        before = self._snapshot
        snapshot = build_snapshot(tuple(self._states.values()), self._rules, self.rng, now, before)
        self._snapshot = snapshot
        if snapshot.panic and not before.panic:
            words = "%s: too few backends are available; picking among all %d, healthy or not"
            self._news.append((logging.WARNING, words, (self.name, len(snapshot.candidates))))
        elif before.panic and not snapshot.panic:
            self._news.append((logging.INFO, "%s: enough backends are available again", (self.name,)))
        return snapshot

    def _changed(self, url: str, words: str, *args: object, level: int = logging.INFO) -> None:
        self._log(level, words, self._state(url), *args)
        self._publish(self.clock())

    def _log(self, level: int, words: str, state: BackendState, *args: object) -> None:
        self._news.append((level, f"%s: %s {words}", (self.name, state.url, *args)))

    # Outside (without the lock)

    def _tell(self) -> None:
        """Log what happened and let the listeners know, now that the lock is free."""
        with self._lock:
            news, self._news = self._news, []
        for level, words, args in news:
            logger.log(level, words, *args)
        if news:
            for callback in self._listeners:
                callback()


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


def _as_url(url: str) -> str:
    return url.rstrip("/")


def _status_of(state: BackendState, now: float) -> BackendStatus:
    backend, health = state.backend, state.health
    ejected_for = health.ejected_for(now)
    return BackendStatus(
        url=state.url,
        weight=backend.weight,
        zone=backend.zone,
        priority=backend.priority,
        admin=health.admin.value,
        check=health.check.value,
        ejected=ejected_for > 0,
        ejected_for=ejected_for,
        available=health.available and backend.weight > 0,
        in_flight=state.in_flight,
        picks=state.picks,
        successes=state.successes,
        failures=state.failures,
        latency=state.latency,
        why=health.describe(now),
    )
