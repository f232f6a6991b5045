"""Priorities and zones: who carries how much of the load, before the algorithm chooses among them.

The backends of a pool stand in *levels* by priority, and within a level in zones. What of it carries load is a list
of *tiers*, each with its share; each tier has a picker of its own, built by the pool's algorithm. A pool that uses
neither has one tier and no trace of this file at a pick.

Priorities
----------

Envoy's arithmetic, in whole percents. Each level's health is what is available of it, times 1.4 and at most 100: a
level does without two backends of seven before anybody else has to help. The load goes to the levels in order, to
each as much as its health, until all is given out; when their health together is below 100 it is scaled up to that.
What rounding leaves goes to the first level that has health.

A level is measured by weight (Envoy's `weighted_priority_health`), since that is what a weight says: how much a
backend can take. Slow start counts, so a level that comes back takes its load over as it warms up. Backends that an
operator took out are neither available nor missing.

When less of a level than `panic_threshold` is available, by heads, *and* the levels together do not reach 100, that
level ignores health. Here lbclient decides differently:

* The threshold is 0, where Envoy's is 50 %: no level ignores health as long as anybody at all is available.
* When nobody at all is, every level fails open, whatever the threshold, unless `fail_open` forbids it.
* In a pool of one priority the threshold means what it says, also where 1.4 times the rest would be enough.

Zones
-----

A client that knows its own zone prefers it, as far as the backends there can bear it. All clients in a zone of one
backend in ten would together send it a third of the traffic, if there are three zones: so what matters is the zone's
share of the backends next to its share of the *clients*. Envoy's zone-aware routing says how much:

* The zone has at least as large a share of what is available as of the clients: everything stays.
* It has less: as much stays as its backends' share is of its clients', and the rest goes to the zones that have more
  than their own clients need, in proportion to how much more.

Every backend then carries the same, and as little as possible crosses zones. Envoy is told where the clients are; a
client cannot know that. It takes them for spread evenly over the zones that have backends. Backends without a zone
have no clients of their own: they help everybody. Where Envoy is different:

* With nobody available in the own zone the others share alike, by weight. The assumption about the clients is worth
  least just then: whether those of that zone are down with it, or go where this one goes, nobody knows.
* No minimum size (Envoy: six healthy backends, which a failure can undercut, and then routing changes at once for
  everybody). Who says `zone=` wants it with two backends, too, and the shares change with each one gradually.

As in Envoy there is no overprovisioning between zones (crossing costs a millisecond, an overloaded zone a timeout), and
a level in panic ignores them.

Shares
------

Tiers take turns in a smooth schedule, entered at a random place: the shares are exact over a cycle (of at most 1000
turns; finer ones are rounded to that). Under a hashing algorithm the key decides, by weighted rendezvous: the same
key belongs to the same tier, in the proportion of the shares, and when these change hardly more keys move than must.

Who is available and carries nothing is the reserve: a request that has tried everybody else, or finds them full, goes
there before it goes to anybody doubtful.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from random import Random
from typing import Any, TypeAlias, TypeVar

from lbclient.core.algorithms.picker import Again, Algorithm, Avoided, Picker, pick_around, pick_knowing
from lbclient.core.algorithms.rendezvous import RendezvousLots, rendezvous_lots
from lbclient.core.algorithms.smooth import smooth_schedule
from lbclient.core.backend import BackendState
from lbclient.core.hashing import stable64
from lbclient.core.health import Passive

OVERPROVISIONING = Fraction(14, 10)
MOST_TURNS = 1000  # a cycle of two tiers takes 0.2 ms to write down

Zone: TypeAlias = str | None
_Group = TypeVar("_Group")
_Hook: TypeAlias = Callable[[BackendState], None]
_Refused: TypeAlias = Callable[[BackendState, float, float], None]
_Avoided: TypeAlias = Callable[[BackendState, float], Avoided | None]
_Observed: TypeAlias = Callable[[BackendState, float, bool, float], None]


# The arithmetic


@dataclass(frozen=True, slots=True)
class Level:
    """What counts of one priority.

    Attributes:
        size: The weight of all its backends; > 0.
        available: The weight of those that are available.
        short: Whether fewer are available than the panic threshold asks for.
    """

    size: Fraction
    available: Fraction
    short: bool = False


def priority_loads(
    levels: Sequence[Level], overprovisioning: Fraction = OVERPROVISIONING
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The load of each level in whole percents, which sum to 100, and whether it ignores health.

    Envoy's `LoadBalancerBase::recalculatePerPriorityState` and `recalculatePerPriorityPanic`, without degraded hosts.
    """
    health = [min(100, int(100 * overprovisioning * level.available / level.size)) for level in levels]
    total = min(100, sum(health))
    panic = tuple(level.short and (total < 100 or len(levels) == 1) for level in levels)
    if all(panic):
        # by size, as if there were no levels
        parts: Sequence[Fraction | int] = [level.size for level in levels]
        whole: Fraction | int = sum(parts)
    elif total:
        parts, whole = health, total
    else:  # less than a percent of every level is available: by how much that is
        parts = [level.available for level in levels]
        whole = sum(parts) or 1
    left = 100
    loads: list[int] = []
    for part in parts:
        loads.append(min(left, int(100 * part / whole)))
        left -= loads[-1]
    loads[next((index for index, part in enumerate(parts) if part), 0)] += left
    return tuple(loads), panic


def zone_shares(
    own: Zone, backends: Mapping[Zone, Fraction], clients: Mapping[Zone, Fraction]
) -> dict[Zone, Fraction]:
    """How much a client in the zone `own` sends where; the shares sum to 1.

    Envoy's `ZoneAwareLoadBalancerBase::calculateLocalityPercentages` and `regenerateLocalityRoutingStructures`.

    Args:
        own: The client's zone, one of `backends`.
        backends: What is available in each zone, by weight; > 0.
        clients: How the clients are spread, in any unit; zones that are missing have none.
    """
    whole = sum(backends.values())
    everybody = sum(clients.values())
    surplus = {
        zone: size / whole - clients.get(zone, Fraction()) / everybody for zone, size in backends.items()
    }
    if surplus[own] >= 0:
        return {own: Fraction(1)}
    needed = clients[own] / everybody
    stays = 1 + surplus[own] / needed
    spare = {zone: more for zone, more in surplus.items() if more > 0}
    room = sum(spare.values())
    return {own: stays, **{zone: (1 - stays) * more / room for zone, more in spare.items()}}


def in_turns(shares: Sequence[Fraction]) -> tuple[int, ...]:
    """How many turns of a cycle each gets: exactly its share of `shares` (which sum to 1) where 1000 turns are
    enough for that, else to the thousandth.
    """
    cycle = lcm(*(share.denominator for share in shares))
    if cycle <= MOST_TURNS:
        return tuple(int(share * cycle) for share in shares)
    turns = [int(share * MOST_TURNS) for share in shares]
    cut_most = sorted(range(len(shares)), key=lambda index: turns[index] - shares[index] * MOST_TURNS)
    for index in cut_most[: MOST_TURNS - sum(turns)]:
        turns[index] += 1
    return tuple(turns)


# Who that is


@dataclass(frozen=True, slots=True)
class Tier:
    """Backends that share a part of the load.

    Attributes:
        priority: Theirs.
        zone: Theirs, if zones make a difference; None for those of all zones, and for those without one.
        share: Their part of the load, > 0.
        members: In declared order.
    """

    priority: int
    zone: Zone
    share: Fraction
    members: tuple[BackendState, ...]


def divide(
    serving: Sequence[BackendState],
    available: Mapping[BackendState, float],
    zone: Zone,
    panic_threshold: float,
    fail_open: bool,
) -> tuple[tuple[Tier, ...], bool]:
    """The tiers that carry load, by priority and the own zone first, and whether one of them ignores health.

    Args:
        serving: Everybody that an operator has not taken out, in declared order.
        available: Those of them that are available, with their weights, slow start included.
        zone: The client's own.
        panic_threshold: The share of a level, 0 to 1, that has to be available for its health to count.
        fail_open: Whether to ignore health when nobody at all is available.
    """
    if not serving or (not available and not fail_open):
        return (), False
    by_priority = dict(sorted(_grouped(serving, lambda state: state.backend.priority).items()))
    short = [_is_short(members, available, panic_threshold) for members in by_priority.values()]
    loads: Sequence[int]
    panic: Sequence[bool]
    if len(short) == 1:
        loads, panic = [100], short  # as `priority_loads` would say; of 10,000 backends it would be 2 ms more
    else:
        levels = zip(by_priority.values(), short, strict=True)
        loads, panic = priority_loads([_level(members, available, lacking) for members, lacking in levels])
    homes = {state.backend.zone for state in serving} - {None}
    parts: list[tuple[int, Zone, Fraction, list[BackendState]]] = []
    for (priority, members), load, panics in zip(by_priority.items(), loads, panic, strict=True):
        if panics:
            parts.append((priority, None, Fraction(load, 100), members))
        elif load:
            pickable = [state for state in members if state in available]
            for name, share, there in _by_zone(pickable, available, zone, homes):
                parts.append((priority, name, share * load / 100, there))
    turns = in_turns([share for _, _, share, _ in parts])
    tiers = tuple(
        Tier(priority, name, Fraction(turn, sum(turns)), tuple(members))
        for (priority, name, _, members), turn in zip(parts, turns, strict=True)
        if turn
    )
    return tiers, any(load and panics for load, panics in zip(loads, panic, strict=True))


def _is_short(
    members: Sequence[BackendState], available: Mapping[BackendState, float], panic_threshold: float
) -> bool:
    if not available or not panic_threshold:
        return not available
    # One on trial is neither here nor there: it does not start a panic that its own absence causes.
    there = sum(1 for state in members if state in available or state.health.passive is Passive.TRIAL)
    return there < panic_threshold * len(members)


def _level(members: Sequence[BackendState], available: Mapping[BackendState, float], short: bool) -> Level:
    size = _total(state.backend.weight for state in members)
    return Level(size, _total(available[state] for state in members if state in available), short)


def _by_zone(
    states: list[BackendState], weights: Mapping[BackendState, float], own: Zone, homes: Collection[Zone]
) -> list[tuple[Zone, Fraction, list[BackendState]]]:
    """The shares of the zones of a level, those that have one; `homes` are the zones that clients live in."""
    if own is None:
        return [(None, Fraction(1), states)]
    zones = _grouped(states, lambda state: state.backend.zone)
    if own not in zones:
        return [(None, Fraction(1), states)]
    sizes = {name: _total(weights[state] for state in members) for name, members in zones.items()}
    shares = zone_shares(own, sizes, dict.fromkeys(homes, Fraction(1)))
    return [(name, share, zones[name]) for name, share in shares.items()]


def _grouped(
    states: Iterable[BackendState], by: Callable[[BackendState], _Group]
) -> dict[_Group, list[BackendState]]:
    groups: dict[_Group, list[BackendState]] = {}
    for state in states:
        groups.setdefault(by(state), []).append(state)
    return groups


def _total(weights: Iterable[float]) -> Fraction:
    """The sum of what the decimals say: ten times 0.1 is 1, and nothing overflows."""
    counts = Counter(weights)
    return sum((Fraction(str(weight)) * count for weight, count in counts.items()), Fraction())


# Picking


class TieredPicker:
    """One picker per tier, and whose turn it is.

    Under a hashing algorithm (one that has a `key`) a request's key says which tier it belongs to. It has no `drawn`:
    what a tier's picker drew means nothing among the candidates of all tiers, and would replay another pick.
    """

    __slots__ = (
        "_algorithm",
        "_avoided",
        "_ended",
        "_final",
        "_lots",
        "_next",
        "_next_other",
        "_observed",
        "_pickers",
        "_refused",
        "_reported",
        "_rng",
        "_schedule",
        "_started",
        "_tiers",
    )

    def __init__(self, algorithm: Algorithm, tiers: Sequence[Tier], rng: Random) -> None:
        self._algorithm = algorithm
        self._tiers = tuple(tiers)
        self._rng = rng
        self._pickers = [algorithm.build(tier.members, rng) for tier in tiers]
        self._schedule = smooth_schedule(in_turns([tier.share for tier in tiers]))
        self._final = len(self._schedule) - 1
        self._next = int(rng.random() * len(self._schedule))
        # Those who have to step around somebody take turns of their own, see RotationPicker.
        self._next_other = int(rng.random() * len(self._schedule))
        self._lots = _lots(tiers) if hasattr(algorithm, "key") else None
        self._started: dict[BackendState, _Hook] = self._hooks("started")
        self._ended: dict[BackendState, _Hook] = self._hooks("ended")
        self._observed: dict[BackendState, _Observed] = self._hooks("observed")
        self._refused: dict[BackendState, _Refused] = self._hooks("refused")
        self._reported: dict[BackendState, _Refused] = self._hooks("reported")
        self._avoided: dict[BackendState, _Avoided] = self._hooks("avoided")

    def _hooks(self, name: str) -> dict[BackendState, Any]:
        """The method called `name` of the picker that knows each backend, where it has one."""
        return {
            state: getattr(picker, name)
            for picker, tier in zip(self._pickers, self._tiers, strict=True)
            if hasattr(picker, name)
            for state in tier.members
        }

    def pick(self, key: bytes | None, /) -> BackendState:
        """The choice of the tier whose turn it is, or that the key belongs to."""
        return self._picker_of(key).pick(key)

    def pick_for(self, key: bytes | None, again: Again, /) -> BackendState:
        """The same for a request of which `again` says whether it would be sent again."""
        return pick_knowing(self._picker_of(key), key, again)

    def _picker_of(self, key: bytes | None) -> Picker:
        if key is not None and self._lots is not None:
            return self._pickers[self._lots.find(stable64(key))]
        at = self._next
        self._next = at + 1 if at < self._final else 0
        return self._pickers[self._schedule[at]]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`; when a tier has nobody else, the choice of the next one."""
        for index in self._in_order(key):
            picker, members = self._pickers[index], self._tiers[index].members
            state = pick_around(picker, self._algorithm, members, self._rng, key, avoid)
            if state is not None:
                return state
        return None

    def _in_order(self, key: bytes | None) -> Iterator[int]:
        """The tiers: the one whose turn it is, or the key's, and then the others as they would help out."""
        if key is not None and self._lots is not None:
            yield from self._lots.walk(stable64(key))
            return
        at = self._next_other
        self._next_other = at + 1 if at < self._final else 0
        first = self._schedule[at]
        yield first
        yield from (index for index in range(len(self._tiers)) if index != first)

    def started(self, state: BackendState, /) -> None:
        """A ticket was taken."""
        hook = self._started.get(state)
        if hook is not None:
            hook(state)

    def ended(self, state: BackendState, /) -> None:
        """A ticket ended."""
        hook = self._ended.get(state)
        if hook is not None:
            hook(state)

    def observed(self, state: BackendState, latency: float, failed: bool, now: float, /) -> None:
        """An attempt was answered, or failed."""
        hook = self._observed.get(state)
        if hook is not None:
            hook(state, latency, failed, now)

    def refused(self, state: BackendState, latency: float, now: float, /) -> None:
        """An attempt was answered with 429."""
        hook = self._refused.get(state)
        if hook is None:
            self.observed(state, latency, False, now)
        else:
            hook(state, latency, now)

    def reported(self, state: BackendState, in_flight: float, now: float, /) -> None:
        """A server said how much it has in flight."""
        hook = self._reported.get(state)
        if hook is not None:
            hook(state, in_flight, now)

    def avoided(self, state: BackendState, now: float, /) -> Avoided | None:
        """Why a backend gets less than others of its tier, if it does."""
        hook = self._avoided.get(state)
        return None if hook is None else hook(state, now)


def _lots(tiers: Sequence[Tier]) -> RendezvousLots:
    """Keys to tiers. Their names and shares are all that decides, so clients of one zone agree."""
    names = tuple(f"{tier.priority} {tier.zone!r}" for tier in tiers)
    return rendezvous_lots(names, tuple(float(tier.share) for tier in tiers))
