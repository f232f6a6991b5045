"""The immutable answer to "who may be picked right now", and how it comes about.

Health says who is available, priorities and zones (see `tiers.py`) who of them is needed, and the pool's algorithm
builds a picker over those.

A snapshot is replaced whole and never edited. What time will change (an ejection that ends, a ramp, a drain) needs no
timer: the snapshot says until when it is valid, and the first pick after that has a new one built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

from lbclient.core.algorithms.picker import (
    Again,
    Algorithm,
    Avoided,
    Explains,
    Picker,
    pick_around,
    pick_by_rebuilding,
)
from lbclient.core.backend import BackendState, Scale
from lbclient.core.health import RAMP_STEPS, Admin, Passive
from lbclient.core.tiers import Tier, TieredPicker, divide

HEAVIEST = 1e100
LIGHTEST = 1e-12  # of the heaviest: rarer than anybody could tell
LOADS_SHOWN = 16  # copying the loads of the candidates costs 30 ns each; a larger pool's record does without


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a pool's configuration decides who may be picked."""

    algorithm: Algorithm
    slow_start: float
    panic_threshold: float
    fail_open: bool
    limited: bool
    zone: str | None = None
    scale: Scale | None = None


class Snapshot:
    """Who may be picked, and the picker built over them.

    Attributes:
        generation: Grows by one with every snapshot that differs from the one before.
        tiers: Who carries how much of the load.
        candidates: The members of all tiers, in declared order.
        weights: Theirs, slow start included.
        reserve: Who is available and not needed, in declared order.
        within_reach: How many they are together, candidates and reserve.
        panic: Whether health was ignored.
        helping: The priorities that carry load though they are not the first.
        valid_until: When time may have changed the answer.
        skipped: Why each of the others is none.
        picker: None when there are no candidates.
        explains: The picker, when it tells what it compared.
        pick, pick_for, started, ended, observed, refused, reported, avoided: The picker's methods, looked up once.
    """

    __slots__ = (
        "avoided",
        "candidates",
        "ended",
        "explains",
        "generation",
        "helping",
        "observed",
        "panic",
        "pick",
        "pick_for",
        "picker",
        "refused",
        "reported",
        "reserve",
        "shows_loads",
        "skipped",
        "started",
        "tiers",
        "valid_until",
        "weights",
        "within_reach",
    )

    def __init__(
        self,
        generation: int,
        tiers: tuple[Tier, ...],
        candidates: tuple[BackendState, ...],
        weights: tuple[float, ...],
        reserve: tuple[BackendState, ...],
        panic: bool,
        valid_until: float,
        skipped: dict[str, str],
        picker: Picker | None,
        helping: tuple[int, ...],
    ) -> None:
        self.generation = generation
        self.tiers = tiers
        self.candidates = candidates
        self.weights = weights
        self.reserve = reserve
        self.within_reach = len(candidates) + len(reserve)
        self.panic = panic
        self.valid_until = valid_until
        self.skipped = skipped
        self.picker = picker
        self.helping = helping
        self.explains = picker if isinstance(picker, Explains) else None
        self.shows_loads = len(candidates) <= LOADS_SHOWN
        self.pick: Callable[[bytes | None], BackendState] | None = None if picker is None else picker.pick
        self.pick_for: Callable[[bytes | None, Again], BackendState] | None = getattr(
            picker, "pick_for", None
        )
        self.started: Callable[[BackendState], None] | None = getattr(picker, "started", None)
        self.ended: Callable[[BackendState], None] | None = getattr(picker, "ended", None)
        self.observed: Callable[[BackendState, float, bool, float], None] | None = getattr(
            picker, "observed", None
        )
        self.reported: Callable[[BackendState, float, float], None] | None = getattr(picker, "reported", None)
        self.refused: Callable[[BackendState, float, float], None] | None = getattr(picker, "refused", None)
        self.avoided: Callable[[BackendState, float], Avoided | None] | None = getattr(
            picker, "avoided", None
        )

    @property
    def trouble(self) -> str:
        """What is wrong with the pool as a whole, in words; empty when its first priority carries all of the load."""
        if not self.candidates:
            return "nobody may be picked"
        if self.panic:
            return "too few backends are available; picking among all, healthy or not"
        if self.helping:
            return (
                f"too few backends are available; priority {' and '.join(map(str, self.helping))} helps out"
            )
        return ""

    def pick_other(
        self, algorithm: Algorithm, rng: Random, key: bytes | None, avoid: Collection[BackendState]
    ) -> BackendState | None:
        """The picker's choice among those not in `avoid`, else one of the reserve, the lowest priority number first;
        None when nobody is left.
        """
        state = pick_around(self.picker, algorithm, self.candidates, rng, key, avoid)
        if state is None and self.reserve:
            for priority in sorted({spare.backend.priority for spare in self.reserve}):
                spares = [spare for spare in self.reserve if spare.backend.priority == priority]
                state = pick_by_rebuilding(algorithm, spares, rng, key, avoid)
                if state is not None:
                    break
        return state


def build_snapshot(
    states: Sequence[BackendState], rules: Rules, rng: Random, now: float, before: Snapshot | None
) -> Snapshot:
    """What is true of `states` at `now`; keeps the picker of the snapshot before when nothing it knows has changed."""
    valid_until = math.inf
    for state in states:
        state.health.settle(now)
        valid_until = min(valid_until, state.health.changes_at())
        state.scale = rules.scale
        state.guarded = rules.limited or state.health.passive is Passive.HALF_OPEN
    serving = fail_open_set(states)
    available, ramping = _weights([s for s in serving if s.health.available], rules.slow_start, now)
    tiers, panic = divide(serving, available, rules.zone, rules.panic_threshold, rules.fail_open)
    chosen = {state for tier in tiers for state in tier.members}
    candidates = tuple(s for s in serving if s in chosen)
    effective = available
    if panic:
        effective, also_ramping = _weights(candidates, rules.slow_start, now)
        ramping = ramping or also_ramping
    weights = _comparable(tuple(effective[s] for s in candidates))
    if ramping:
        valid_until = min(valid_until, now + rules.slow_start / RAMP_STEPS)

    others = [s for s in states if s not in chosen]
    for state in others:
        state.weight = float(state.backend.weight)
    skipped = {s.url: why_not(s, now, tiers) for s in others}
    reserve = tuple(s for s in others if s in available)
    first = min((s.backend.priority for s in states if s.health.admin is not Admin.STANDBY), default=0)
    helping = tuple(sorted({tier.priority for tier in tiers} - {first}))
    now_true = (tiers, candidates, weights)
    if before is not None and (before.tiers, before.candidates, before.weights) == now_true:
        generation = before.generation if before.panic == panic else before.generation + 1
        picker = before.picker
    else:
        generation = 0 if before is None else before.generation + 1
        for state, weight in zip(candidates, weights, strict=True):
            state.weight = weight
        picker = _picker(rules.algorithm, tiers, rng)
    return Snapshot(
        generation, tiers, candidates, weights, reserve, panic, valid_until, skipped, picker, helping
    )


def why_not(state: BackendState, now: float, tiers: Sequence[Tier]) -> str:
    """Why a backend is no candidate while `tiers` carry the load, in words."""
    if not state.health.available:
        return state.health.describe(now)
    if not state.backend.weight:
        return "weight 0"
    zone, priority = state.backend.zone, state.backend.priority
    if all(tier.priority != priority for tier in tiers):
        return f"priority {priority} is not needed"
    return "it has no zone and is not needed" if zone is None else f"zone {zone} is not needed"


def fail_open_set(states: Sequence[BackendState]) -> list[BackendState]:
    """Everybody that an operator has not taken out, whatever health says."""
    return [s for s in states if s.health.admin is Admin.ACTIVE and s.backend.weight > 0]


def _picker(algorithm: Algorithm, tiers: Sequence[Tier], rng: Random) -> Picker | None:
    if len(tiers) > 1:
        return TieredPicker(algorithm, tiers, rng)
    return algorithm.build(tiers[0].members, rng) if tiers else None


def _weights(
    states: Sequence[BackendState], slow_start: float, now: float
) -> tuple[dict[BackendState, float], bool]:
    """Everybody's weight with the ramp of slow start, and whether somebody is still on it."""
    declared = {s: float(s.backend.weight) for s in states}
    if not slow_start:
        return declared, False
    ramps = [s.health.ramp(now, slow_start) for s in states]
    ramping = any(ramp < 1 for ramp in ramps)
    if all(ramp < 1 for ramp in ramps):
        return declared, ramping  # when everybody is new there is nobody to relieve them
    return {s: weight * ramp for (s, weight), ramp in zip(declared.items(), ramps, strict=True)}, ramping


def _comparable(weights: tuple[float, ...]) -> tuple[float, ...]:
    """The weights, so that no algorithm's sum or quotient of them leaves the range of floats: only their ratios count.

    Any finite weight may be declared; all but the strangest ones stay as they are.
    """
    heaviest = max(weights, default=0.0)
    if heaviest <= HEAVIEST and min(weights, default=0.0) >= heaviest * LIGHTEST:
        return weights
    scale = min(1.0, HEAVIEST / heaviest)
    lightest = heaviest * scale * LIGHTEST
    return tuple(max(weight * scale, lightest) for weight in weights)
