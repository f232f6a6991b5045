"""Backends without a pool: what a picker is built over, and what a pool does around a pick."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from lbclient.core.backend import Backend, BackendState


def states(
    *weights: float, clock: Callable[[], float] = lambda: 0.0, in_flight: tuple[int, ...] = ()
) -> list[BackendState]:
    """One backend per weight."""
    made = [
        BackendState(Backend(f"http://10.0.{number >> 8}.{number & 255}:80", weight=weight), clock)
        for number, weight in enumerate(weights)
    ]
    for state, load in zip(made, in_flight, strict=False):
        state.in_flight = load
    return made


def start(picker: Any, state: BackendState) -> BackendState:
    """A ticket is taken, as the pool does it."""
    state.in_flight += 1
    if hasattr(picker, "started"):
        picker.started(state)
    return state


def end(picker: Any, state: BackendState) -> None:
    """A ticket ends."""
    state.in_flight -= 1
    if hasattr(picker, "ended"):
        picker.ended(state)


class Dice(Random):
    """Draws what it is told to, then at random."""

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0) if self.draws else super().random()
