"""Changing the fleet under load: what a drain and a flip come to, decided without waiting for anything.

A flip (blue/green) in steps, each of which leaves the pool serving with one whole set:

    stage     the new backends join on standby: probed, not picked
    ready     all of them pass (in a pool without a probe: at once)
    flip      one snapshot with the new set follows one with the old; with a guard the old set stays on standby
    verdict   the guard compares success before and after: keep the new set, go back to the old one, or wait and see
    settle    the old set drains

Waiting, and closing what is left of a drain, is the shell's.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lbclient.core.checks import check_fraction, check_number, check_whole
from lbclient.core.health import Admin
from lbclient.core.members import BackendLike, declared_as
from lbclient.core.pool import Pool
from lbclient.core.status import BackendStatus


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How a drain went.

    Attributes:
        url: Whose.
        drained: Whether everything in flight ended by itself.
        waited: Seconds that it took.
        in_flight_at_start: Requests in flight when it began.
        closed: Requests that were cut off when the grace period ended.
    """

    url: str
    drained: bool
    waited: float
    in_flight_at_start: int
    closed: int


@dataclass(frozen=True, slots=True)
class SwapReport:
    """How a flip went.

    Attributes:
        swapped: Whether the new set serves.
        rolled_back: Whether it did, and the guard went back to the old one.
        reason: Why not, or why back; empty when it went well.
        added: The URLs that are new.
        removed: The URLs that left.
        drains: How those drained.
    """

    swapped: bool
    rolled_back: bool
    reason: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    drains: tuple[DrainReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Guard:
    """Goes back to the old set when requests fail after a flip.

    Args:
        window: Seconds to watch after the flip; > 0.
        max_drop: By how much the share of requests that succeed may fall (0 to 1): that of the new set since the flip
            is compared with that of the old set until then.
        min_requests: Requests to the new set below which nothing is concluded; >= 1.

    Raises:
        ValueError, TypeError: A value is out of its range.
    """

    window: float = 30.0
    max_drop: float = 0.05
    min_requests: int = 50

    def __post_init__(self) -> None:
        check_number("window", self.window, above=0)
        check_fraction("max_drop", self.max_drop)
        check_whole("min_requests", self.min_requests, at_least=1)


class Verdict(enum.Enum):
    """What a guard concludes."""

    WAIT = enum.auto()
    KEEP = enum.auto()
    GO_BACK = enum.auto()


class Leaving:
    """A backend that drains, until it is gone, or somebody has other plans for it.

    Args:
        pool: Whose.
        url: How it is known.

    Raises:
        ValueError: The pool has no such backend.
    """

    def __init__(self, pool: Pool, url: str) -> None:
        self.pool = pool
        self.state = pool.state(url)
        self._health = self.state.health  # whoever is removed and returns starts with another one

    @property
    def is_busy(self) -> bool:
        """Whether there is something to wait for: requests, or clients who are tied to it and may come back."""
        if not self.goes_on or self._health.admin is not Admin.DRAINING:
            return False
        affinity = self.pool.affinity
        stays = affinity is not None and affinity.sticky_while_draining and self._is_member
        return self.state.in_flight > 0 or (stays and self.state.tied)

    @property
    def goes_on(self) -> bool:
        """Whether it is still to be taken out: nobody has enabled it again, nor removed and added it anew."""
        returned = not self._is_member and self.state.url in _urls(self.pool)
        return self._health.admin is not Admin.ACTIVE and not returned

    def disable(self) -> None:
        """It is out, if it is a member still."""
        if self._is_member:
            self.pool.disable(self.state.url)

    @property
    def _is_member(self) -> bool:
        url = self.state.url
        return url in _urls(self.pool) and self.pool.state(url).health is self._health


class Swap:
    """One flip of a pool to another set. Its methods are called in the order of the steps above.

    Args:
        pool: Where.
        backends: The new set, whole; those that are members already stay.
        guard: Whether and when to go back.

    Raises:
        ValueError, TypeError: `backends` is no set of backends, or the same as before.
        RuntimeError: The pool has a source, whose next set would undo it.
    """

    def __init__(self, pool: Pool, backends: Iterable[BackendLike], guard: Guard | None = None) -> None:
        declared = declared_as(backends)
        if guard is not None and not isinstance(guard, Guard):
            raise TypeError(f"guard is {guard!r}; write Guard(...), or None")
        if not declared:
            raise ValueError("backends is empty; write the whole new set")
        if pool.supply is not None:
            raise RuntimeError(
                f"pool {pool.name!r} has a source, {pool.supply.source}, which says who belongs to it; "
                "have a pool for either set, and flip between them with a Split"
            )
        self.pool = pool
        self.guard = guard
        self.target = tuple(dict.fromkeys(backend.url for backend in declared))
        if len(self.target) < len(declared):
            raise ValueError("backends has a URL more than once; use weight= for a larger share")
        known = {status.url: status for status in pool.status().backends}
        self._new = [backend for backend in declared if backend.url not in known]
        self._staying = [backend for backend in declared if backend.url in known]
        self.added = tuple(backend.url for backend in self._new)
        self.removed = tuple(url for url in known if url not in self.target)
        self._admin_before = {url: status.admin for url, status in known.items()}
        self._before: tuple[int, int] = (0, 0)
        self._at_flip: dict[str, tuple[int, int]] = {}
        self._flipped_at = 0.0

    def stage(self) -> None:
        """The new ones join on standby."""
        for backend in self._new:
            self.pool.add(backend, standby=True)

    def unready(self) -> dict[str, str]:
        """Who of the whole new set is not fit to serve, and why; empty when all are."""
        fit = {"passing"} if self.pool.probe is not None else {"passing", "unknown"}
        checks = {status.url: status.check for status in self._statuses(self.target)}
        gone = {url: "it was removed meanwhile" for url in self.target if url not in checks}
        return gone | {url: f"check {check}" for url, check in checks.items() if check not in fit}

    def unstage(self) -> None:
        """The new ones leave again; nothing has changed."""
        self._remove(self.added)

    def flip(self, grace: float) -> None:
        """One assignment: the new set serves, and the old one drains, or (with a guard) stands by."""
        self._before = _sum(self._statuses(self.removed or self.target))
        self._at_flip = {
            status.url: (status.successes, status.failures) for status in self._statuses(self.target)
        }
        self._flipped_at = self.pool.clock()
        leaving = Admin.DRAINING if self.guard is None else Admin.STANDBY
        changes = {**dict.fromkeys(self.target, Admin.ACTIVE), **dict.fromkeys(self.removed, leaving)}
        self._administer(changes, grace)

    def verdict(self) -> Verdict:
        """What the guard concludes now."""
        guard = self.guard
        if guard is None or not any(url in self._admin_before for url in _urls(self.pool)):
            return Verdict.KEEP  # or there is nobody left to go back to
        good, bad = self._since_flip()
        if good + bad >= guard.min_requests and _share(good, bad) < _share(*self._before) - guard.max_drop:
            return Verdict.GO_BACK
        return Verdict.KEEP if self.pool.clock() - self._flipped_at >= guard.window else Verdict.WAIT

    def why_back(self) -> str:
        """The guard's reason, in words."""
        good, bad = self._since_flip()
        before = _share(*self._before)
        return f"{_share(good, bad):.1%} of {good + bad} requests succeeded after the flip, {before:.1%} before it"

    def go_back(self) -> None:
        """One assignment: the old set serves again, and the new ones leave."""
        before = {url: Admin(admin) for url, admin in self._admin_before.items()}
        self._administer({**dict.fromkeys(self.added, Admin.STANDBY), **before}, grace=300.0)
        self._remove(self.added)

    def settle(self) -> None:
        """The old set is gone for good, and whoever stays is as the new set declares it."""
        self._remove(self.removed)
        declared = {backend.url: backend for backend in self._staying}
        self.pool.update([declared.get(backend.url, backend) for backend in self.pool.declared])

    # Others may have changed the set while a step was waited for: what is gone is left alone.

    def _administer(self, changes: Mapping[str, Admin], grace: float) -> None:
        members = _urls(self.pool)
        self.pool.administer({url: admin for url, admin in changes.items() if url in members}, grace)

    def _remove(self, urls: Collection[str]) -> None:
        for url in _urls(self.pool):
            if url in urls and len(_urls(self.pool)) > 1:
                self.pool.remove(url)

    def _since_flip(self) -> tuple[int, int]:
        good = bad = 0
        for status in self._statuses(self.target):
            good_then, bad_then = self._at_flip[status.url]
            good += max(0, status.successes - good_then)  # below 0: it left, and returned with new counts
            bad += max(0, status.failures - bad_then)
        return good, bad

    def _statuses(self, urls: Iterable[str]) -> list[BackendStatus]:
        wanted = set(urls)
        return [status for status in self.pool.status().backends if status.url in wanted]


def _urls(pool: Pool) -> tuple[str, ...]:
    return tuple(backend.url for backend in pool.declared)


def _sum(statuses: Iterable[BackendStatus]) -> tuple[int, int]:
    counts = [(status.successes, status.failures) for status in statuses]
    return sum(good for good, _ in counts), sum(bad for _, bad in counts)


def _share(good: int, bad: int) -> float:
    return good / (good + bad) if good + bad else 1.0
