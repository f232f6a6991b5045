"""The immutable answer to "who may be picked right now", and how it comes about.

A snapshot is replaced whole and never edited. What time will change (an ejection that ends, a ramp, a drain) needs no
timer: the snapshot says until when it is valid, and the first pick after that has a new one built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from lbclient.core.algorithms.picker import Algorithm, Picker, pick_by_rebuilding
from lbclient.core.backend import BackendState
from lbclient.core.health import RAMP_STEPS, Admin, Passive

_PickOther: TypeAlias = Callable[[bytes | None, Collection[BackendState]], BackendState | None]

LOADS_SHOWN = 16  # copying the loads of the candidates costs 30 ns each; a larger pool's record does without


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a pool's configuration decides who may be picked."""

    algorithm: Algorithm
    slow_start: float
    panic_threshold: float
    fail_open: bool
    limited: bool


class Snapshot:
    """Who may be picked, and the picker built over them.

    Attributes:
        generation: Grows by one with every snapshot that differs from the one before.
        candidates: In declared order.
        weights: Theirs, slow start included.
        panic: Whether health was ignored.
        valid_until: When time may have changed the answer.
        skipped: Why each of the others is none.
        picker: None when there are no candidates.
        pick, started, ended, observed: The picker's methods, looked up once.
    """

    __slots__ = (
        "candidates",
        "ended",
        "generation",
        "observed",
        "panic",
        "pick",
        "picker",
        "shows_loads",
        "skipped",
        "started",
        "valid_until",
        "weights",
    )

    def __init__(
        self,
        generation: int,
        candidates: tuple[BackendState, ...],
        weights: tuple[float, ...],
        panic: bool,
        valid_until: float,
        skipped: dict[str, str],
        picker: Picker | None,
    ) -> None:
        self.generation = generation
        self.candidates = candidates
        self.weights = weights
        self.panic = panic
        self.valid_until = valid_until
        self.skipped = skipped
        self.picker = picker
        self.shows_loads = len(candidates) <= LOADS_SHOWN
        self.pick: Callable[[bytes | None], BackendState] | None = None if picker is None else picker.pick
        self.started: Callable[[BackendState], None] | None = getattr(picker, "started", None)
        self.ended: Callable[[BackendState], None] | None = getattr(picker, "ended", None)
        self.observed: Callable[[BackendState, float, bool, float], None] | None = getattr(
            picker, "observed", None
        )

    def pick_other(
        self, algorithm: Algorithm, rng: Random, key: bytes | None, avoid: Collection[BackendState]
    ) -> BackendState | None:
        """The picker's choice among those not in `avoid`; None when nobody is left."""
        own: _PickOther | None = getattr(self.picker, "pick_other", None)
        if own is not None:
            return own(key, avoid)
        return pick_by_rebuilding(algorithm, self.candidates, rng, key, avoid)


def build_snapshot(
    states: Sequence[BackendState], rules: Rules, rng: Random, now: float, before: Snapshot | None
) -> Snapshot:
    """What is true of `states` at `now`; keeps the picker of the snapshot before when nothing it knows has changed."""
    valid_until = math.inf
    for state in states:
        state.health.settle(now)
        valid_until = min(valid_until, state.health.changes_at())
        state.guarded = rules.limited or state.health.passive is Passive.HALF_OPEN
    candidates, panic = _eligible(states, rules)
    weights, ramping = _weights(candidates, rules.slow_start, now)
    if ramping:
        valid_until = min(valid_until, now + rules.slow_start / RAMP_STEPS)

    chosen = set(candidates)
    skipped = {s.url: why_not(s, now) for s in states if s not in chosen}
    if before is not None and before.candidates == candidates and before.weights == weights:
        generation = before.generation if before.panic == panic else before.generation + 1
        picker = before.picker
    else:
        generation = 0 if before is None else before.generation + 1
        for state, weight in zip(candidates, weights, strict=True):
            state.weight = weight
        picker = rules.algorithm.build(candidates, rng) if candidates else None
    return Snapshot(generation, candidates, weights, panic, valid_until, skipped, picker)


def why_not(state: BackendState, now: float) -> str:
    """Why a backend is no candidate, in words."""
    if not state.health.available:
        return state.health.describe(now)
    return "weight 0" if not state.backend.weight else f"priority {state.backend.priority} is not needed"


def fail_open_set(states: Sequence[BackendState]) -> list[BackendState]:
    """Everybody that an operator has not taken out, whatever health says."""
    return [s for s in states if s.health.admin is Admin.ACTIVE and s.backend.weight > 0]


def _eligible(states: Sequence[BackendState], rules: Rules) -> tuple[tuple[BackendState, ...], bool]:
    serving = fail_open_set(states)
    available = [s for s in serving if s.health.available]
    in_trial = sum(1 for s in serving if s.health.passive is Passive.TRIAL)
    if serving and rules.fail_open:
        # One on trial is neither here nor there: it does not start a panic that its own absence causes.
        enough = available and len(available) + in_trial >= rules.panic_threshold * len(serving)
        if not enough:
            return tuple(serving), True
    first = min((s.backend.priority for s in available), default=0)
    return tuple(s for s in available if s.backend.priority == first), False


def _weights(
    candidates: Sequence[BackendState], slow_start: float, now: float
) -> tuple[tuple[float, ...], bool]:
    declared = tuple(float(s.backend.weight) for s in candidates)
    if not slow_start:
        return declared, False
    ramps = [s.health.ramp(now, slow_start) for s in candidates]
    ramping = any(ramp < 1 for ramp in ramps)
    if all(ramp < 1 for ramp in ramps):
        return declared, ramping  # when everybody is new there is nobody to relieve them
    return tuple(weight * ramp for weight, ramp in zip(declared, ramps, strict=True)), ramping
