"""The membership of a pool: who belongs to it, what operators say of them, and what their probes say.

Every change of it, like every change of somebody's health, publishes a new snapshot. `Pool` picks from that; here is
what may change it from outside, and the one lock that guards all of it. The lock is never held across I/O: not even a
log line is written under it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random

from lbclient.core.backend import Backend, BackendState
from lbclient.core.checks import check_flag, check_number
from lbclient.core.forking import new_lock
from lbclient.core.health import Admin, Check
from lbclient.core.members import BackendLike, Members, admit, find
from lbclient.core.news import News
from lbclient.core.probes import HttpProbe, TcpProbe
from lbclient.core.snapshot import Rules, Snapshot, build_snapshot
from lbclient.core.source import Said, Source, Supply, Trouble

LISTED = 20  # URLs in a line of the log; fleets of thousands would flood it


class Membership:
    """The backends of a pool, and the snapshot of those that may be picked.

    Args:
        backends: URLs and `Backend`s, mixed; at least one, no URL twice. Or a `Source`, which says who there is.
        initial: Who serves until the source has said it; None for nobody.
        name: For the logs and the messages.
        rules: What decides who may be picked.
        probe: Whose thresholds probe results go by.
        clock: Seconds that never go back.
        rng: Where random choices come from.
    """

    def __init__(
        self,
        backends: Iterable[BackendLike] | Source,
        *,
        initial: Iterable[BackendLike] | None,
        name: str,
        rules: Rules,
        probe: HttpProbe | TcpProbe | None,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self.name = name
        self.probe = probe
        self.clock = clock
        self.rng = rng
        self._rules = rules
        self._lock = new_lock()
        self._news = News(self._lock)
        self.supply: Supply | None = None
        if isinstance(backends, Source):
            self.supply = Supply(backends, initial, clock)
            backends = self.supply.initial
        elif initial is not None:
            raise TypeError(
                "initial is who serves until a source has said who there is; backends is no source"
            )
        empty = self.supply is not None and self.supply.missing
        self._states = admit(name, backends, {}, clock, ramp_since=None, may_be_empty=empty)
        self._left: Members = {}
        self._declared_draining: frozenset[str] = frozenset()
        self._snapshot = build_snapshot(tuple(self._states.values()), rules, rng, clock(), None)

    def add(self, backend: BackendLike, *, standby: bool = False) -> None:
        """A new backend, pickable at once (with `slow_start` it ramps up), or on standby: probed and not picked.

        Raises:
            ValueError: Its URL is known already.
        """
        new = Backend.of(backend)
        with self._lock:
            if new.url in self._states:
                raise ValueError(f"{new.url} is in pool {self.name!r} already; use update() to change it")
            members = self._admit([*self.declared, new])
            if standby:
                members[new.url].health.admin = Admin.STANDBY
            self._become(members)
        self._news.tell()

    def remove(self, url: str) -> None:
        """No new picks; what is in flight may finish.

        Raises:
            ValueError: The URL is unknown, or it is the last one.
        """
        with self._lock:
            leaving = self.state(url)
            if len(self._states) == 1:
                raise ValueError(f"{url} is the last backend of pool {self.name!r}; a pool cannot be empty")
            self._become({known: state for known, state in self._states.items() if state is not leaving})
        self._news.tell()

    def update(self, backends: Iterable[BackendLike]) -> None:
        """The whole set at once; the numbers and the health of those that stay are kept.

        Raises:
            ValueError: The set is empty, or has a URL twice. Nothing has changed then.
        """
        with self._lock:
            self._become(self._admit(backends))
        self._news.tell()

    def receive(self, said: Said) -> None:
        """What the pool's source says: a whole set, or that it is in trouble.

        Those that stay keep their numbers, their health and what operators said of them. Those that go get no new
        picks, and what is in flight may finish. What is no set (nobody, a URL twice) is trouble, too.

        Raises:
            RuntimeError: The pool has no source.
        """
        supply = self.supply
        if supply is None:
            raise RuntimeError(f"pool {self.name!r} has no source; use update()")
        trouble = ""
        declared: tuple[Backend, ...] = ()
        try:
            if isinstance(said, Trouble):
                trouble = said.words
            else:
                declared = tuple(Backend.of(backend) for backend in said)
        except (TypeError, ValueError) as exc:
            trouble = str(exc)
        with self._lock:
            trouble = trouble or self._supply(supply, declared)
            if trouble:
                level = logging.WARNING if supply.well else logging.DEBUG
                words = "%s: %s is in trouble, %d backends stay: %s"
                self._news.add(level, words, self.name, supply.source, len(self._states), trouble)
                supply.failed(trouble)
            else:
                if not supply.well:
                    self._news.add(logging.INFO, "%s: %s is well again", self.name, supply.source)
                supply.succeeded(declared)
        self._news.tell()

    def begin_drain(self, url: str, grace: float = 300.0) -> None:
        """No new picks from now on; after `grace` seconds (>= 0) the backend is disabled."""
        self.administer({url: Admin.DRAINING}, grace)

    def disable(self, url: str) -> None:
        """No new picks and no probes, until `enable`."""
        self.administer({url: Admin.DISABLED})

    def enable(self, url: str) -> None:
        """Pickable again, after a drain or `disable`."""
        self.administer({url: Admin.ACTIVE})

    def administer(self, changes: Mapping[str, Admin], grace: float = 300.0) -> None:
        """Several of these at once: one snapshot is followed by one other, with nothing in between.

        Args:
            changes: What becomes of each backend, by URL.
            grace: Seconds (>= 0) for those that drain.

        Raises:
            ValueError: A URL is unknown. Nothing has changed then.
        """
        check_number("grace", grace, at_least=0)
        with self._lock:
            now = self.clock()
            for state, admin in [(self.state(url), admin) for url, admin in changes.items()]:
                health = state.health
                if admin is Admin.DRAINING:
                    health.drain_until = now + grace
                    self._log(
                        logging.INFO, "draining: %d in flight, %.1f s grace", state, state.in_flight, grace
                    )
                elif health.admin is not admin:
                    self._log(logging.INFO, "%s, was %s", state, admin.value, health.admin.value)
                if admin is Admin.ACTIVE and health.admin is not admin:
                    health.ramp_since = now
                health.admin = admin
            self._publish(now)
        self._news.tell()

    def set_weight(self, url: str, weight: float) -> None:
        """Another share; >= 0, 0 takes no new picks."""
        with self._lock:
            state = self.state(url)
            state.backend = replace(state.backend, weight=weight)
            self._changed(url, "weight %s", weight)
        self._news.tell()

    def report_probe(self, url: str, passed: bool) -> None:
        """One probe result, or the verdict of some other checker.

        The first ever counts alone. Later ones go by the thresholds of the pool's probe; in a pool without one each
        counts alone.

        Raises:
            ValueError: The URL is unknown.
            TypeError: `passed` is neither True nor False.
        """
        check_flag("passed", passed)
        up, down = (self.probe.healthy_threshold, self.probe.unhealthy_threshold) if self.probe else (1, 1)
        with self._lock:
            health = self.state(url).health
            known = health.check
            if health.probed(passed, up, down, self.clock()):
                level = logging.INFO if passed else logging.WARNING
                was = "" if known is Check.UNKNOWN else f", was {known.value}"
                self._changed(url, "probe %s%s", health.check.value, was, level=level)
        self._news.tell()

    @property
    def declared(self) -> tuple[Backend, ...]:
        """All backends as they are declared, in order."""
        return tuple(state.backend for state in self._states.values())

    def state(self, url: str) -> BackendState:
        """The live numbers of the backend that is known by `url`.

        Raises:
            ValueError: There is none; the message lists those there are.
        """
        return find(self.name, self._states, url)

    def members(self) -> tuple[Backend, ...]:
        """The backends that are not disabled, in declared order."""
        return tuple(s.backend for s in self._states.values() if s.health.admin is not Admin.DISABLED)

    def concerned(self) -> frozenset[str]:
        """The URLs of all backends, and of those that have left and still have something in flight."""
        with self._lock:
            return frozenset((*self._states, *(url for url, state in self._left.items() if state.in_flight)))

    def is_half_down(self) -> bool:
        """Whether half of those that are meant to serve fail their probes or are ejected, or more."""
        health = [state.health for state in self._states.values() if state.health.admin is Admin.ACTIVE]
        return bool(health) and 2 * sum(each.fit for each in health) <= len(health)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called after every change, from whatever thread made it; returns what undoes it."""
        return self._news.subscribe(callback)

    # Inside (with the lock held)

    def _admit(self, backends: Iterable[BackendLike], may_be_empty: bool = False) -> Members:
        left = {url: state for url, state in self._left.items() if state.in_flight}
        known, since = self._states, self.clock()
        return admit(self.name, backends, known, self.clock, since, left, may_be_empty=may_be_empty)

    def _supply(self, supply: Supply, declared: tuple[Backend, ...]) -> str:
        """A set of the pool's source, and what is wrong with it. Most are the last one once more: that costs little."""
        if not declared and not supply.source.allow_empty:
            return "its set is empty"
        if declared != supply.declared:
            try:
                self._become(self._admit(declared, may_be_empty=True))
            except ValueError as exc:
                return str(exc)
        return ""

    def _become(self, states: Members) -> None:
        added = _some(url for url in states if url not in self._states)
        removed = _some(url for url in self._states if url not in states)
        known = {**self._left, **self._states}
        self._left = {url: s for url, s in known.items() if s.in_flight and url not in states}
        self._states = states
        self._news.add(logging.INFO, "%s: added %s, removed %s", self.name, added, removed)
        draining = frozenset(url for url, state in states.items() if state.backend.draining)
        if draining - self._declared_draining:
            begun = _some(sorted(draining - self._declared_draining))
            self._news.add(logging.INFO, "%s: %s are declared to be draining", self.name, begun)
        self._declared_draining = draining
        self._publish(self.clock())

    def _publish(self, now: float) -> Snapshot:
        before = self._snapshot
        for state in self._states.values():
            if state.health.settle(now):
                self._log(logging.INFO, "its time has come: %s", state, state.health.describe(now))
        snapshot = build_snapshot(tuple(self._states.values()), self._rules, self.rng, now, before)
        self._snapshot = snapshot
        trouble = snapshot.trouble
        if trouble != before.trouble:
            if trouble:
                self._news.add(logging.WARNING, "%s: %s", self.name, trouble)
            else:
                self._news.add(logging.INFO, "%s: enough backends are available again", self.name)
        return snapshot

    def _changed(self, url: str, words: str, *args: object, level: int = logging.INFO) -> None:
        self._log(level, words, self.state(url), *args)
        self._publish(self.clock())

    def _log(self, level: int, words: str, state: BackendState, *args: object) -> None:
        self._news.add(level, f"%s: %s {words}", self.name, state.url, *args)


def _some(urls: Iterable[str]) -> list[str]:
    """The first of them, and how many more there are."""
    listed = list(urls)
    more = len(listed) - LISTED
    return listed if more <= 0 else [*listed[:LISTED], f"and {more} more"]
