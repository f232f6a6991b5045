"""A pool in whatever order things may happen to it: operators, probes, time, picks, and the ends of tickets.

A small model keeps what was said: who is a member, what the operator and the probes said of it, which tickets are open.
From that and the moments that health itself has named follows who may be picked; the pool must never pick anybody
else, forget a request or a drain, or refuse while somebody is left.

The soak runs the same machine for longer: `pytest tests/soak/test_state_machine.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lbclient import Backend, CookieAffinity, Guard, NoBackendAvailable, PassiveHealth, Pool, TcpProbe
from lbclient.algorithms import IPHash, LeastConnections, Maglev, Rendezvous, RingHash
from lbclient.core.backend import BackendState
from lbclient.core.deploy import Swap, Verdict
from lbclient.core.health import Admin, Passive
from lbclient.core.outcome import FAILURES, Failure
from lbclient.core.ticket import Ticket
from lbclient.testing import FakeClock

URLS = [f"http://s{number}:1" for number in range(6)]
STICKY = CookieAffinity(secret="a secret of 16 bytes or more")
UNSTICKY = CookieAffinity(secret="a secret of 16 bytes or more", sticky_while_draining=False)


class LastDeclared:
    """Somebody's own algorithm, with nothing but what it must have."""

    def build(self, backends: Sequence[BackendState], rng: random.Random, /) -> LastPicker:
        return LastPicker(backends[-1])


class LastPicker:
    def __init__(self, last: BackendState) -> None:
        self.last = last

    def pick(self, key: bytes | None, /) -> BackendState:
        return self.last


NAMES = [
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "power_of_two_choices",
    "peak_ewma",
    "least_response_time",
    "random",
    "weighted_random",
    "first",
    "rendezvous",
]
ALGORITHMS: list[Callable[[], Any]] = [
    *(partial(str, name) for name in NAMES),
    LeastConnections,
    partial(RingHash, points=8),
    partial(RingHash, points=8, bounded_load=1.25),
    partial(Rendezvous, bounded_load=1.5),
    IPHash,
    LastDeclared,
]
if find_spec("xxhash"):
    ALGORITHMS += [partial(Maglev, size=61), partial(Maglev, size=61, bounded_load=1.25)]

POLICY = PassiveHealth(
    consecutive_failures=2, min_requests=4, window=10, base_ejection=10, max_ejection=40, max_ejected=0.6
)

OPTIONS = st.fixed_dictionaries(
    {
        "algorithm": st.sampled_from(ALGORITHMS).map(lambda make: make()),
        "passive": st.sampled_from([POLICY, POLICY, PassiveHealth(consecutive_failures=1), None]),
        "max_in_flight": st.sampled_from([None, None, 1, 3]),
        "slow_start": st.sampled_from([0.0, 20.0]),
        "zone": st.sampled_from([None, None, "a"]),
        "affinity": st.sampled_from([STICKY, UNSTICKY, None]),
        "probe": st.sampled_from([None, TcpProbe(healthy_threshold=2, unhealthy_threshold=3)]),
    },
)
DOUBT = st.sampled_from(
    [{}, {"panic_threshold": 0.5}, {"panic_threshold": 1.0}, {"fail_open": False}, {"fail_open": False}]
)
LEVELS = st.sampled_from([1, 1, 2, 3])

WHO = st.sampled_from(URLS)
WEIGHT = st.sampled_from([1, 1, 1, 0, 2, 0.5])
DECLARED = st.builds(
    Backend,
    WHO,
    weight=WEIGHT,
    zone=st.sampled_from(["a", "b", None]),
    priority=st.sampled_from([0, 0, 1, 2]),
)
SET = st.lists(DECLARED, min_size=1, max_size=5, unique_by=lambda backend: backend.url)
KEY = st.sampled_from([None, b"10.0.0.1", b"10.0.0.2", b"10.0.0.3"])
GRACE = st.sampled_from([0.0, 5.0, 300.0])
WHICH = st.integers(0, 50)
STATUS = st.sampled_from([200, 500, 503, 429, 404])
RETRY_AFTER = st.sampled_from([None, None, 3.0, 1e9])

Standing = Literal["in", "half-open", "out", "tried"]


@dataclass(frozen=True)
class Known:
    """What was said of a member."""

    backend: Backend
    admin: Admin = Admin.ACTIVE
    drain_until: float = 0.0
    check: str = "unknown"
    against: int = 0  # probe results in a row that say otherwise

    def at(self, now: float) -> Known:
        """With what time has brought."""
        over = self.admin is Admin.DRAINING and now >= self.drain_until
        return replace(self, admin=Admin.DISABLED) if over else self


def standing(state: BackendState, now: float) -> Standing:
    """What live requests said, at a moment at which the pool may not have looked yet."""
    health = state.health
    if health.passive is Passive.EJECTED:
        if now < health.ejected_until:
            return "out"
        return "half-open" if health.trial_after else "in"
    if health.passive is Passive.TRIAL:
        return "tried"
    return "in" if health.passive is Passive.IN else "half-open"


@dataclass(frozen=True)
class Seen:
    """A member at one moment, and what it may be picked for."""

    priority: int
    weight: float
    admin: Admin
    passing: bool
    standing: Standing
    full: bool

    @property
    def available(self) -> bool:
        return self.admin is Admin.ACTIVE and self.passing and self.standing in ("in", "half-open")

    @property
    def serving(self) -> bool:
        """Whether it may be picked when health is ignored."""
        return self.admin is Admin.ACTIVE and self.weight > 0

    @property
    def pickable(self) -> bool:
        return self.available and self.serving


class Fleet(RuleBasedStateMachine):
    """See above."""

    # Set up

    @initialize(options=OPTIONS, doubt=DOUBT, levels=LEVELS, backends=SET, seed=st.integers(0, 2**32))
    def make(
        self, options: dict[str, Any], doubt: dict[str, Any], levels: int, backends: list[Backend], seed: int
    ) -> None:
        self.levels = levels
        self.clock = FakeClock()
        backends = [self.declare(backend) for backend in backends]
        self.pool = Pool(backends, clock=self.clock, rng=random.Random(seed), **options, **doubt)
        self.known = {backend.url: Known(backend) for backend in backends}
        self.open: list[Ticket] = []
        self.ended: list[Ticket] = []
        self.taken: Counter[BackendState] = Counter()
        self.heard = 0
        self.pool.subscribe(self.hear)
        self.unlooked = False  # time has passed, and nobody has looked at the pool since
        self.generation = 0
        self.swap: Swap | None = None
        self.flipped = False

    def declare(self, backend: Backend) -> Backend:
        return replace(backend, priority=min(backend.priority, self.levels - 1))

    def hear(self) -> None:
        self.heard += 1
        self.pool.status()  # whoever listens may use the pool

    # What must be true

    def seen(self) -> dict[str, Seen]:
        """Everybody right now, by what was said, and without a look at what the pool makes of it."""
        now = self.clock()
        return {
            url: Seen(
                known.backend.priority,
                known.backend.weight,
                known.at(now).admin,
                known.check != "failing",
                standing(self.pool.state(url), now),
                self.pool.max_in_flight is not None and self.holding(url) >= self.pool.max_in_flight,
            )
            for url, known in self.known.items()
        }

    def holding(self, url: str) -> int:
        return sum(ticket.state.url == url for ticket in self.open)

    def may_panic(self, seen: Mapping[str, Seen], priority: int) -> bool:
        """Whether health may be ignored in a priority."""
        if not self.pool._rules.fail_open:
            return False
        if not any(each.pickable for each in seen.values()):
            return True
        level = [each for each in seen.values() if each.serving and each.priority == priority]
        there = sum(each.available or each.standing == "tried" for each in level)
        return there < self.pool._rules.panic_threshold * len(level)

    @invariant()
    def nothing_is_left_untold(self) -> None:
        assert not self.pool._news.items

    @invariant()
    def in_flight_is_what_is_open(self) -> None:
        """Also of those who left and returned meanwhile."""
        for url in self.known:
            assert self.pool.state(url).in_flight == self.holding(url), url
        for state, taken in self.taken.items():
            assert state.picks == taken
            assert state.successes + state.failures <= taken
            assert state.in_flight >= 0

    @invariant()
    def whoever_is_tried_is_tried_by_somebody(self) -> None:
        """Else nobody would ever say how it went, and the backend would be out for good."""
        for url in self.known:
            state = self.pool.state(url)
            if state.health.passive is Passive.TRIAL:
                tries = [t for t in self.open if t.trial and t.state is state and t.answer is None]
                assert [t for t in tries if t.epoch == state.health.epoch], url

    @invariant()
    def the_status_says_what_was_said(self) -> None:
        if self.unlooked:
            return
        seen, status = self.seen(), self.pool.status()
        snapshot = self.pool._snapshot
        assert [each.url for each in status.backends] == list(self.known)
        for each in status.backends:
            known, now = self.known[each.url].at(self.clock()), seen[each.url]
            assert (each.admin, each.check) == (known.admin.value, known.check)
            assert (each.weight, each.zone, each.priority) == (
                known.backend.weight,
                known.backend.zone,
                known.backend.priority,
            )
            assert each.available == (now.available and now.weight > 0)
            assert each.ejected == (now.standing == "out")
            assert each.in_flight == self.holding(each.url)
        candidates = [state.url for state in snapshot.candidates]
        reserve = [state.url for state in snapshot.reserve]
        assert candidates == [url for url in self.known if url in candidates], "declared order"
        assert not set(candidates) & set(reserve)
        assert set(snapshot.skipped) == set(self.known) - set(candidates)
        pickable = {url for url, each in seen.items() if each.pickable}
        assert pickable <= {*candidates, *reserve}
        assert set(reserve) <= pickable
        for url in set(candidates) - pickable:
            assert seen[url].serving
            assert self.may_panic(seen, seen[url].priority)
            assert status.panic
        if status.tiers:
            assert sum(tier.share for tier in status.tiers) == pytest.approx(1)
        else:
            assert not candidates
            assert not pickable
        assert status.generation >= self.generation
        self.generation = status.generation
        if len({each.priority for each in seen.values() if each.serving}) == 1:
            (priority,) = {each.priority for each in seen.values() if each.serving}
            assert status.panic == self.may_panic(seen, priority)

    # The operator

    def changes(self, url: str, change: Callable[[], object]) -> bool:
        """Carry out a change of `url`; False when it is no member, which the pool has to say."""
        if url in self.known:
            before = self.heard
            change()
            self.unlooked = False
            assert self.heard >= before
            return True
        with pytest.raises(ValueError, match="is not in pool"):
            change()
        return False

    @rule(backend=DECLARED, standby=st.booleans())
    def add(self, backend: Backend, standby: bool) -> None:
        backend = self.declare(backend)
        if backend.url in self.known:
            with pytest.raises(ValueError, match="already"):
                self.pool.add(backend, standby=standby)
            return
        self.pool.add(backend, standby=standby)
        self.known[backend.url] = Known(backend, Admin.STANDBY if standby else Admin.ACTIVE)
        self.joined([backend.url])

    def joined(self, urls: Collection[str]) -> None:
        """Whoever joins starts with a clean sheet, whatever it was before."""
        self.unlooked = False
        for url in urls:
            assert self.pool.state(url).health.passive is Passive.IN

    @rule(url=WHO)
    def remove(self, url: str) -> None:
        if list(self.known) == [url]:
            with pytest.raises(ValueError, match="cannot be empty"):
                self.pool.remove(url)
        elif self.changes(url, partial(self.pool.remove, url)):
            del self.known[url]

    @rule(backends=SET)
    def update(self, backends: list[Backend]) -> None:
        backends = [self.declare(backend) for backend in backends]
        self.pool.update(backends)
        before = self.known
        self.known = {
            backend.url: replace(before.get(backend.url, Known(backend)), backend=backend)
            for backend in backends
        }
        self.joined(set(self.known) - set(before))

    def administered(self, changes: Mapping[str, Admin], grace: float = 0.0) -> None:
        for url, admin in changes.items():
            self.known[url] = replace(self.known[url], admin=admin, drain_until=self.clock() + grace)

    @rule(url=WHO, grace=GRACE)
    def begin_drain(self, url: str, grace: float) -> None:
        before = self.heard
        if self.changes(url, partial(self.pool.begin_drain, url, grace)):
            self.administered({url: Admin.DRAINING}, grace)
            assert self.heard > before

    @rule(url=WHO)
    def disable(self, url: str) -> None:
        if self.changes(url, partial(self.pool.disable, url)):
            self.administered({url: Admin.DISABLED})

    @rule(url=WHO)
    def enable(self, url: str) -> None:
        if self.changes(url, partial(self.pool.enable, url)):
            self.administered({url: Admin.ACTIVE})

    @rule(changes=st.dictionaries(WHO, st.sampled_from(Admin), min_size=1, max_size=4), grace=GRACE)
    def administer(self, changes: dict[str, Admin], grace: float) -> None:
        if set(changes) <= set(self.known):
            self.pool.administer(changes, grace)
            self.administered(changes, grace)
            self.unlooked = False
        else:
            with pytest.raises(ValueError, match="is not in pool"):
                self.pool.administer(changes, grace)

    @rule(url=WHO, weight=WEIGHT)
    def set_weight(self, url: str, weight: float) -> None:
        if self.changes(url, partial(self.pool.set_weight, url, weight)):
            known = self.known[url]
            self.known[url] = replace(known, backend=replace(known.backend, weight=weight))

    @rule(url=WHO, passed=st.booleans(), times=st.sampled_from([1, 1, 2, 3]))
    def report_probe(self, url: str, passed: bool, times: int) -> None:
        up, down = (2, 3) if self.pool.probe else (1, 1)
        for _ in range(times):
            if not self.changes(url, partial(self.pool.report_probe, url, passed)):
                return
            known, said = self.known[url], "passing" if passed else "failing"
            against = known.against + 1 if known.check != said else 0
            if against and (known.check == "unknown" or against >= (up if passed else down)):
                known, against = replace(known, check=said), 0
            self.known[url] = replace(known, against=against)

    # Flips

    @rule(backends=SET, guarded=st.booleans())
    def begin_swap(self, backends: list[Backend], guarded: bool) -> None:
        if self.swap is not None:
            return
        self.swap = Swap(self.pool, map(self.declare, backends), Guard(window=10) if guarded else None)
        self.flipped = False
        self.swap.stage()
        for backend in self.swap._new:
            self.known[backend.url] = Known(backend, Admin.STANDBY)
        self.joined(self.swap.added)

    @precondition(lambda self: getattr(self, "swap", None) is not None)
    @rule(grace=GRACE)
    def go_on_with_the_swap(self, grace: float) -> None:
        swap = self.swap
        assert swap is not None
        self.unlooked = False
        if not self.flipped:
            if swap.unready():
                self.left(swap.added)
                swap.unstage()
                self.swap = None
                return
            leaving = Admin.STANDBY if swap.guard else Admin.DRAINING
            here = [url for url in swap.removed if url in self.known]
            swap.flip(grace)
            self.administered(
                {**dict.fromkeys(swap.target, Admin.ACTIVE), **dict.fromkeys(here, leaving)}, grace
            )
            self.flipped = True
            return
        if swap.verdict() is Verdict.GO_BACK:
            back = {url: Admin(admin) for url, admin in swap._admin_before.items() if url in self.known}
            self.left(swap.added)
            swap.go_back()
            self.administered({url: admin for url, admin in back.items() if url in self.known}, 300.0)
        else:
            self.left(swap.removed)
            swap.settle()
            for backend in swap._staying:
                if backend.url in self.known:
                    self.known[backend.url] = replace(self.known[backend.url], backend=backend)
        self.swap = None

    def left(self, urls: Collection[str]) -> None:
        """These leave, but for the last: a pool is never empty."""
        for url in [url for url in self.known if url in urls]:
            if len(self.known) > 1:
                del self.known[url]

    # Time

    @rule(seconds=st.sampled_from([0.1, 2.0, 6.0, 11.0, 50.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.unlooked = True

    @rule()
    def look(self) -> None:
        self.unlooked = False
        self.the_status_says_what_was_said()
        assert set(self.pool.ties()) <= set(self.known)

    # Requests

    @rule(key=KEY, exclude=st.just(()) | st.sets(WHO, max_size=5))
    def pick(self, key: bytes | None, exclude: Collection[str]) -> None:
        seen = self.seen()
        left = {url: each for url, each in seen.items() if url not in exclude and not each.full}
        self.unlooked = False
        try:
            ticket = self.pool.pick(key, exclude=exclude)
        except NoBackendAvailable as refusal:
            assert not [url for url, each in left.items() if each.pickable]
            if self.pool._rules.fail_open:
                doubted = [url for url, each in left.items() if each.serving]
                assert not doubted or (not exclude and any(each.pickable for each in seen.values()))
            words = str(refusal)
            for url in self.known:
                assert url in words
            return
        picked = left[ticket.backend.url]
        assert picked.serving
        if not picked.available:
            assert self.pool._rules.fail_open
            nobody_else = exclude and not any(each.pickable for each in left.values())
            assert nobody_else or self.may_panic(seen, picked.priority)
        self.took(ticket, picked)

    @rule(url=WHO)
    def pick_the_last_one_left(self, url: str) -> None:
        seen = self.seen()
        if url not in seen:
            return
        self.unlooked = False
        exclude = [other for other in self.known if other != url]
        reached = seen[url].pickable or (seen[url].serving and self.pool._rules.fail_open)
        if reached and not seen[url].full:
            ticket = self.pool.pick(exclude=exclude)
            assert ticket.backend.url == url
            self.took(ticket, seen[url])
        else:
            with pytest.raises(NoBackendAvailable):
                self.pool.pick(exclude=exclude)

    @rule(url=WHO)
    def pick_tied(self, url: str) -> None:
        seen = self.seen()
        self.unlooked = False
        ticket = self.pool.pick_tied(url)
        if url not in seen:
            assert ticket is None
            return
        tied = seen[url]
        stays = self.pool.affinity is not None and self.pool.affinity.sticky_while_draining
        fit = tied.passing and tied.standing == "in"
        kept = (stays and tied.admin is Admin.DRAINING and fit) or (tied.available and not tied.weight)
        alone = self.levels == 1 and self.pool.zone is None
        if ticket is None:
            assert tied.full or not (kept or (alone and tied.pickable))
        else:
            assert not tied.full
            assert kept or tied.available or (tied.serving and self.may_panic(seen, tied.priority))
            self.took(ticket, tied)

    def took(self, ticket: Ticket, picked: Seen) -> None:
        state = ticket.state
        assert state is self.pool.state(ticket.backend.url)
        assert ticket.trial == (picked.standing == "half-open")
        if ticket.trial:
            assert state.health.passive is Passive.TRIAL
            undecided = [t for t in self.open if t.trial and t.state is state and t.epoch == ticket.epoch]
            assert not [t for t in undecided if t.answer is None], "one at a time"
        self.open.append(ticket)
        self.taken[state] += 1

    @precondition(lambda self: bool(getattr(self, "open", None)))
    @rule(which=WHICH, status=STATUS, retry_after=RETRY_AFTER)
    def answer(self, which: int, status: int, retry_after: float | None) -> None:
        ticket = self.open[which % len(self.open)]
        with self.fair(ticket):
            ticket.answered(0.01, status, retry_after)

    @precondition(lambda self: bool(getattr(self, "open", None)))
    @rule(which=WHICH, status=STATUS)
    def succeed(self, which: int, status: int) -> None:
        self.end(which, lambda ticket: ticket.succeeded(0.01, status))

    @precondition(lambda self: bool(getattr(self, "open", None)))
    @rule(which=WHICH, kind=st.sampled_from(FAILURES))
    def fail(self, which: int, kind: Failure) -> None:
        self.end(which, lambda ticket: ticket.failed(kind))

    @precondition(lambda self: bool(getattr(self, "open", None)))
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        self.end(which, Ticket.release)

    @precondition(lambda self: bool(getattr(self, "open", None)))
    @rule()
    def end_all(self) -> None:
        while self.open:
            self.end(0, Ticket.release)

    def end(self, which: int, how: Callable[[Ticket], object]) -> None:
        ticket = self.open.pop(which % len(self.open))
        url, before = ticket.state.url, self.heard
        with self.fair(ticket):
            how(ticket)
        self.ended.append(ticket)
        known = self.known.get(url)
        if known is not None and known.at(self.clock()).admin is Admin.DRAINING and not self.holding(url):
            assert self.heard > before, "a drain waits for this"

    @rule(url=WHO, seconds=st.sampled_from([0.0, 50.0, 50.0, 50.0]), well=st.booleans())
    def fail_in_a_row(self, url: str, seconds: float, well: bool) -> None:
        """Enough for an ejection, and often what follows it: the way to a trial is too long to be found by chance."""
        for _ in range(2):
            before = len(self.open)
            self.pick_the_last_one_left(url)
            if len(self.open) > before:
                self.end(before, lambda ticket: ticket.failed("reset"))
        if seconds:
            self.wait(seconds)
        before = len(self.open)
        self.pick_the_last_one_left(url)
        if well and len(self.open) > before:
            self.end(before, lambda ticket: ticket.succeeded(0.01))

    def fair(self, ticket: Ticket) -> Fair:
        return Fair(self, ticket)

    @precondition(lambda self: bool(getattr(self, "ended", None)))
    @rule(which=WHICH, status=STATUS, kind=st.sampled_from(FAILURES))
    def end_again(self, which: int, status: int, kind: Failure) -> None:
        ticket = self.ended[which % len(self.ended)]
        before = [numbers(self.pool.state(url)) for url in self.known]
        ticket.answered(0.01, status, 1e9)
        ticket.succeeded(0.01, status)
        ticket.failed(kind)
        ticket.release()
        assert [numbers(self.pool.state(url)) for url in self.known] == before


class Fair:
    """What one ticket may do to the health of its backend, and to nobody else's."""

    def __init__(self, fleet: Fleet, ticket: Ticket) -> None:
        self.fleet, self.ticket = fleet, ticket

    def __enter__(self) -> None:
        fleet = self.fleet
        self.before = {url: fleet.pool.state(url).health.passive for url in fleet.known}
        self.others_stand = any(
            each.admin is Admin.ACTIVE
            and each.passing
            and each.weight > 0
            and fleet.pool.state(url).health.passive is Passive.IN
            and url != self.ticket.state.url
            for url, each in fleet.seen().items()
        )
        self.stale = self.ticket.epoch != self.ticket.state.health.epoch

    def __exit__(self, *exc: object) -> None:
        fleet, ticket = self.fleet, self.ticket
        now = fleet.clock()
        for url, before in self.before.items():
            state = fleet.pool.state(url)
            after = state.health.passive
            mine = state is ticket.state
            if before is Passive.IN and after is Passive.EJECTED:
                assert mine
                assert not self.stale, "also what Retry-After asks for"
                assert self.others_stand, "the last one standing is never ejected"
                assert state.health.ejected_until <= now + 1.1 * 300
            if before is Passive.TRIAL and after is not Passive.TRIAL:
                assert mine
                assert ticket.trial
                assert not self.stale


def numbers(state: BackendState) -> tuple[object, ...]:
    health = state.health
    return (state.in_flight, state.picks, state.successes, state.failures, health.passive, health.epoch)


SUITE = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
Fleet.TestCase.settings = SUITE
TestFleet = Fleet.TestCase
