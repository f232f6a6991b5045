"""The pool: a named set of backends with one algorithm and one set of policies.

A pick reads one reference, the snapshot, and updates a few integers. Everything slow (rings, tables, schedules) happens
when the set or somebody's health changes. One short lock guards all of it, so one pool serves asyncio, trio, threads
and several event loops alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NoReturn

from lbclient.core.affinity import Affinity
from lbclient.core.algorithms.picker import Again, Algorithm, Explains, Shadows, pick_by_rebuilding
from lbclient.core.attempts import Attempts
from lbclient.core.backend import BackendState, Scale
from lbclient.core.budget import Budget
from lbclient.core.checks import check_flag, check_fraction, check_number, check_whole
from lbclient.core.connect import Connect
from lbclient.core.errors import NoBackendAvailable, NoSetYet, PoolFull
from lbclient.core.facts import Facts, KeyReader, as_key
from lbclient.core.forking import tell_after_fork
from lbclient.core.health import Admin, Passive, PassiveHealth
from lbclient.core.hedging import Hedge, Hedging
from lbclient.core.learning import Learning
from lbclient.core.members import BackendLike
from lbclient.core.options import (
    LEFT_OUT,
    LeftOut,
    algorithm_name,
    algorithm_of,
    check_affinity,
    check_clock,
    check_cost,
    check_name,
    check_rng,
    check_shared,
    checked_exclude,
    instance_of,
    passive_of,
    reader_of,
)
from lbclient.core.probes import HttpProbe, TcpProbe
from lbclient.core.retry import Retry
from lbclient.core.snapshot import Rules, Snapshot, fail_open_set, why_not
from lbclient.core.source import Source
from lbclient.core.status import PoolStatus, TierStatus, status_of
from lbclient.core.ticket import Drawn, Ticket
from lbclient.core.waiting import Place

_RETRY = Retry()


class Pool(Learning):
    """A named set of backends, one algorithm, one set of policies. Serves any number of loops and threads.

    Args:
        backends: URLs and `Backend`s, mixed; at least one, no URL twice. Or a `Source` of `lbclient.discovery`, which
            says who there is while a transport runs it; the next set that it says overrules what was added, removed or
            weighted by hand.
        initial: With a source: who serves until it has said its first set. None: the pool is empty until then.
        name: For the record, the logs and the metrics.
        algorithm: A name, or an object with `build(backends, rng)`; `Adaptive` when left out.
        probe: How backends are probed in the background, if at all.
        affinity: What ties a client to a backend (sticky sessions).
        passive: When live requests take a backend out; None for never. Left out, it is `PassiveHealth()`, except
            under an algorithm that charges failures itself, as `Adaptive` does.
        slow_start: Seconds over which a new or recovered backend's weight grows from a tenth; 0 is off.
        panic_threshold: When less than this share (0 to 1) of the pool is available, health is ignored. With several
            priorities: of a priority, while the others cannot make up for it.
        fail_open: Whether to pick among all that are not draining or disabled when nobody is available.
        max_in_flight: Tickets per backend, hard; None for no limit.
        max_requests: Tickets of the whole pool, hard; None for no limit.
        cost: What a request weighs in what is in flight: a function from its `Facts` to a whole number >= 1, for
            requests that differ in size, like the tokens of a prompt. Algorithms, limits, status and drains then count
            costs. None: each weighs 1.
        max_pending: Requests that may wait while the limits are reached, each up to its pool timeout; what comes on top
            is refused at once. 0: nobody waits.
        retry: When a request is sent again; None for one attempt, whatever happens.
        hedge: When a slow request is copied to another backend; None for never.
        preserve_host: Backends see the logical host instead of their own.
        connect: How connections are made.
        shared: A name under which the processes of this machine (of one user) share what they know: one of them probes
            for all, and a backend that one ejects is ejected in all. None: each process looks for itself. Letters,
            digits, ".", "_" and "-"; the pools that share it have the same backends.
        peer: (index, count): which of `count` clients of these backends this one is, from 0, for an algorithm with an
            aperture (`Adaptive`); None when that is not known.
        zone: Where this client runs. Backends of that zone are preferred, as far as they are enough for the clients
            there; None when zones make no difference.
        clock: Seconds that never go back.
        rng: Where random choices come from.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    def __init__(
        self,
        backends: Iterable[BackendLike] | Source,
        *,
        initial: Iterable[BackendLike] | None = None,
        name: str = "default",
        algorithm: str | Algorithm = "adaptive",
        probe: HttpProbe | TcpProbe | None = None,
        passive: PassiveHealth | LeftOut | None = LEFT_OUT,
        affinity: Affinity | None = None,
        slow_start: float = 0.0,
        panic_threshold: float = 0.0,
        fail_open: bool = True,
        max_in_flight: int | None = None,
        max_requests: int | None = None,
        cost: Callable[[Facts], int] | None = None,
        max_pending: int = 1000,
        retry: Retry | None = _RETRY,
        hedge: Hedge | None = None,
        preserve_host: bool = False,
        connect: Connect | None = None,
        shared: str | None = None,
        peer: tuple[int, int] | None = None,
        zone: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        check_name(name)
        check_clock(clock)
        check_rng(rng)
        self.algorithm = algorithm_of(algorithm, peer)
        check_affinity(affinity)
        self.affinity = affinity
        check_number("slow_start", slow_start, at_least=0)
        check_fraction("panic_threshold", panic_threshold)
        check_flag("fail_open", fail_open)
        if panic_threshold and not fail_open:
            raise ValueError(
                "panic_threshold ignores health and fail_open=False never does; leave one of them out"
            )
        if max_in_flight is not None:
            check_whole("max_in_flight", max_in_flight, at_least=1)
        if max_requests is not None:
            check_whole("max_requests", max_requests, at_least=1)
        check_whole("max_pending", max_pending, at_least=0)
        if zone is not None and not isinstance(zone, str):
            raise TypeError(f"zone is {zone!r}; write the name of this client's zone, or None")
        self.zone = zone
        self.max_in_flight = max_in_flight
        self.max_requests = max_requests
        check_cost(cost)
        self.cost = cost
        self.retry = instance_of("retry", retry, Retry)
        self.most_attempts = 1 if retry is None else retry.most_attempts
        instance_of("hedge", hedge, Hedge)
        self.preserve_host = check_flag("preserve_host", preserve_host)
        check_shared(shared, clock)
        self.shared = shared
        self.connect = instance_of("connect", connect, Connect) or Connect()
        self.seed = None if rng is not None else random.getrandbits(64)
        self._key: KeyReader | None = reader_of(self.algorithm)
        self.reads_key = self._key is not None
        limited = max_in_flight is not None or max_requests is not None
        super().__init__(
            backends,
            initial=initial,
            name=name,
            rules=Rules(
                self.algorithm,
                slow_start,
                panic_threshold,
                fail_open,
                limited,
                zone,
                None if cost is None else Scale(),
            ),
            probe=instance_of("probe", probe, HttpProbe, TcpProbe),
            passive=passive_of(passive, self.algorithm),
            # Retry-After is the server's own word: it is honoured where nobody is ejected, unless that was asked for.
            heeds=passive is LEFT_OUT,
            connect_timeout=self.connect.connect_timeout,
            max_pending=max_pending if limited else None,
            clock=clock,
            rng=rng if rng is not None else random.Random(self.seed),
        )
        self.budget = None if retry is None or retry.budget is None else Budget(retry.budget, clock)
        self.hedging = None if hedge is None else Hedging(hedge, clock)
        tell_after_fork(self)
        self._ties: Mapping[str, float] = {}
        self._ties_of: Snapshot | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"pool {self.name!r} has locks and live numbers, which belong to this process; make one where it is used "
            f"(shared='a name' has the pools of several processes share what they know)"
        )

    def __repr__(self) -> str:
        snapshot = self._snapshot
        panic = ", panic" if snapshot.panic else ""
        return (
            f"<Pool {self.name!r} {algorithm_name(self.algorithm)}, "
            f"{len(snapshot.candidates)} of {len(self._states)} pickable{panic}>"
        )

    # Picking

    def attempts(self, facts: Facts, now: float = 0.0) -> Attempts:
        """The plan of one request: whom to try, and whether to go on.

        Args:
            facts: The request's.
            now: The wall clock, in seconds since 1970; affinities look at it.
        """
        return Attempts(self, facts, now)

    def key_of(self, facts: Facts) -> bytes | None:
        """The key that the algorithm reads off a request; the caller's own goes first."""
        own = facts.options.get("key")
        if own is not None:
            return as_key(own)
        return None if self._key is None else self._key(facts)

    def cost_of(self, facts: Facts) -> int:
        """What a request weighs in what is in flight.

        Raises:
            ValueError, TypeError: `cost=` says something else than a whole number >= 1.
        """
        if self.cost is None:
            return 1
        cost = self.cost(facts)
        check_whole("what cost= returned", cost, at_least=1)
        return cost

    def pick(
        self,
        key: bytes | str | None = None,
        *,
        exclude: Collection[str] = (),
        place: Place | None = None,
        cost: int = 1,
        again: Again | None = None,
    ) -> Ticket:
        """A ticket on the backend that serves the next request. No I/O.

        It is in flight until it ends: by `with pool.pick() as ticket:`, or by `succeeded`, `failed` or `release`. One
        that never does keeps its backend looking busier than it is, and in a pool with limits its room.

        Args:
            key: What hashing algorithms hash.
            exclude: URLs not to pick, because they were tried: a collection, not one of them.
            place: In the pool's queue, for those who have waited there.
            cost: What the ticket weighs in what is in flight; >= 1.
            again: Says whether the request would be sent again if it failed. Asked (with the pool's lock held) only
                where the algorithm has somebody to try, which is left to those that would; None where all are alike.

        Raises:
            PoolFull: A `NoBackendAvailable`: somebody could be picked if it were not for the limits.
            NoSetYet: A `NoBackendAvailable`: the pool's source has not said who there is.
            NoBackendAvailable: Nobody is left; the message says why, backend by backend.
        """
        if key is not None and not isinstance(key, bytes):
            key = as_key(key)
        if exclude:
            exclude = checked_exclude(exclude)
        now = self.clock()
        try:
            with self._lock:
                snapshot = self._snapshot
                if now >= snapshot.valid_until:
                    snapshot = self._publish(now)
                if snapshot.pick is None or exclude:
                    state = None
                else:
                    if again is None or snapshot.pick_for is None:
                        state = snapshot.pick(key)
                    else:
                        state = snapshot.pick_for(key, again)
                    if state.guarded and (self._is_full(state) or self._is_overtaking(place)):
                        state = None
                if state is not None:
                    drawn = getattr(snapshot.picker, "drawn", None)
                    ticket = self._take(snapshot, state, now, drawn, snapshot.explains, cost)
                else:  # the number that decided, if there was one, is not one for all candidates: it replays nothing
                    state = self._pick_among(snapshot, key, exclude, place)
                    ticket = self._take(snapshot, state, now, None, snapshot.explains, cost)
        finally:  # also when nobody is left: time may have changed something
            if self._news.items:
                self._news.tell()
            if self._abandoned:
                self._end_abandoned()
        return ticket

    def changes_in(self) -> float:
        """Seconds until time may change who can be picked; infinity when only events can."""
        return max(0.0, self._snapshot.valid_until - self.clock())

    def pick_tied(self, url: str, cost: int = 1) -> Ticket | None:
        """A ticket on the very backend a client is tied to; None when it may not serve tied clients now.

        It takes no turn of anybody's: the rotation of the others goes on as if it had not been.
        """
        now = self.clock()
        with self._lock:
            snapshot = self._snapshot
            if now >= snapshot.valid_until:
                snapshot = self._publish(now)
            state = self._states.get(url)
            if (
                state is None
                or url not in self._current_ties(snapshot)
                or self._is_full(state)
                or self._is_failing(snapshot, state, now)
            ):
                ticket = None
            else:
                ticket = self._take(snapshot, state, now, None, None, cost)
        if self._news.items:
            self._news.tell()
        return ticket

    def ties(self) -> Mapping[str, float]:
        """Who may serve tied clients now, and the weight with which each takes new ones (0: one that drains).

        The same object for as long as nothing about it has changed.
        """
        now = self.clock()
        with self._lock:
            snapshot = self._publish(now) if now >= self._snapshot.valid_until else self._snapshot
            ties = self._current_ties(snapshot)
        if self._news.items:
            self._news.tell()
        return ties

    def _current_ties(self, snapshot: Snapshot) -> Mapping[str, float]:
        if self._ties_of is not snapshot:
            ties = self._new_ties(snapshot)
            if ties != self._ties or list(ties) != list(self._ties):
                self._ties = ties
            self._ties_of = snapshot
        return self._ties

    def _new_ties(self, snapshot: Snapshot) -> dict[str, float]:
        """Candidates take new clients. Who only keeps those it has: one that drains, weighs nothing, or is of a zone
        that is not needed now. A priority that is not needed has none.
        """
        candidates = set(snapshot.candidates)
        priorities = {tier.priority for tier in snapshot.tiers}
        stays = self.affinity is not None and self.affinity.sticky_while_draining
        ties: dict[str, float] = {}
        for url, state in self._states.items():
            if state in candidates:
                ties[url] = state.backend.weight
            elif (
                state.health.available and (state.backend.priority in priorities or not state.backend.weight)
            ) or (state.health.admin is Admin.DRAINING and state.health.fit and stays):
                ties[url] = 0.0
        return ties

    def _take(
        self,
        snapshot: Snapshot,
        state: BackendState,
        now: float,
        drawn: Drawn,
        explains: Explains | None,
        cost: int,
    ) -> Ticket:
        """The ticket of a pick; with the lock held."""
        trial = state.guarded and state.health.passive is Passive.HALF_OPEN
        loads = [s.in_flight for s in snapshot.candidates] if snapshot.shows_loads else None
        state.in_flight += cost
        self._in_flight += cost
        if state.scale is not None:
            state.scale.add(cost)
        state.picks += 1
        state.waiting.append(now)
        if snapshot.started is not None:
            snapshot.started(state)
        costs, reason = (
            (None, None) if explains is None else (explains.costs, getattr(explains, "reason", None))
        )
        ticket = Ticket(self, state, snapshot, now, loads, drawn, trial, costs, cost, reason)
        if trial:
            state.health.begin_trial()
            self._publish(now)
        return ticket

    def _pick_among(
        self, snapshot: Snapshot, key: bytes | None, exclude: Collection[str], place: Place | None
    ) -> BackendState:
        """A pick that has to step around somebody: tried before, or full."""
        if not self._states:
            assert self.supply is not None
            words = f"no backend of pool {self.name!r} is available ({self.supply.why_nobody()})"
            raise (NoSetYet if self.supply.missing else NoBackendAvailable)(words)
        within_reach = (*snapshot.candidates, *snapshot.reserve)
        if not exclude and self._is_overtaking(place):
            raise PoolFull(self._why_nobody(exclude))
        avoid = {state for state in within_reach if state.url in exclude or self._is_full(state)}
        state = snapshot.pick_other(self.algorithm, self.rng, key, avoid)
        if state is None and exclude and self._rules.fail_open:
            # A doubtful backend that was not tried is better than none.
            rest = [s for s in fail_open_set(tuple(self._states.values())) if not self._is_full(s)]
            avoid = {s for s in rest if s.url in exclude}
            state = pick_by_rebuilding(self.algorithm, rest, self.rng, key, avoid)
        if state is None:
            full = self.queue is not None and any(
                self._is_full(s) and s.url not in exclude
                for s in within_reach or fail_open_set(tuple(self._states.values()))
            )
            raise (PoolFull if full else NoBackendAvailable)(self._why_nobody(exclude))
        return state

    def _is_full(self, state: BackendState) -> bool:
        return (self.max_in_flight is not None and state.in_flight >= self.max_in_flight) or (
            self.max_requests is not None and self._in_flight >= self.max_requests
        )

    def _is_failing(self, snapshot: Snapshot, state: BackendState, now: float) -> bool:
        """Whether the algorithm knows that it fails, while others do not."""
        avoided = None if snapshot.avoided is None else snapshot.avoided(state, now)
        return avoided is not None and avoided.failing

    def _is_overtaking(self, place: Place | None) -> bool:
        return self.queue is not None and self.queue.overtakes(place)

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
            elif state.health.admin is not Admin.ACTIVE:
                reasons[state.url] = state.health.describe(now)  # full or not: room would change nothing
            elif self.max_requests is not None and self._in_flight >= self.max_requests:
                reasons[state.url] = f"{self._in_flight} in flight in the pool, the limit"
            elif self._is_full(state):
                reasons[state.url] = f"{state.in_flight} in flight, the limit"
            else:
                reasons[state.url] = why_not(state, now, self._snapshot.tiers)
        return reasons

    def after_fork(self) -> None:
        """Become another client of the same backends: what is in flight is the parent's, the dice fall differently.

        What is known of the backends stays known, less an algorithm's own numbers, in which the parent's requests are.
        """
        with self._lock:
            if self.seed is not None:
                self.seed = random.getrandbits(64)
                self.rng.seed(self.seed)
            states: dict[str, BackendState] = {}
            for url, state in self._states.items():
                mine = states[url] = BackendState(state.backend, self.clock)
                mine.weight, mine.latency, mine.tied = state.weight, state.latency, state.tied
                mine.health = state.health.carried_over(checked=True, judged=True)
                state.in_flight = 0  # whoever ends a ticket of the parent's in here ends none of ours
            self._states, self._left, self._in_flight = states, {}, 0
            self._publish(self.clock())
        if self.queue is not None:
            self.queue.forget_all()
        self._news.tell()

    def status(self) -> PoolStatus:
        """Everything a person wants to see. Takes no lock (unless time has changed the answer): picks do not wait."""
        if self._abandoned:
            self._end_abandoned()
        now = self.clock()
        snapshot = self._snapshot
        if now >= snapshot.valid_until:
            with self._lock:
                snapshot = self._publish(now)
            self._news.tell()
        avoided = snapshot.avoided
        return PoolStatus(
            name=self.name,
            algorithm=algorithm_name(self.algorithm),
            generation=snapshot.generation,
            panic=snapshot.panic,
            tiers=tuple(TierStatus(t.priority, t.zone, float(t.share)) for t in snapshot.tiers),
            degraded=bool(snapshot.trouble),
            why=snapshot.trouble,
            backends=tuple(
                status_of(state, now, None if avoided is None else avoided(state, now))
                for state in self._states.values()
            ),
            retries=self.telemetry.retries,
            hedges=self.telemetry.hedges,
            source=None if self.supply is None else self.supply.status(),
            shadow=snapshot.picker.shadow(now) if isinstance(snapshot.picker, Shadows) else None,
        )


OPTIONS = frozenset(Pool.__init__.__kwdefaults__ or ())
"""What may be said of a pool besides its backends."""
