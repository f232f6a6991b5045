"""Algorithms that follow the declared order: `First` stays at its beginning, `RoundRobin` goes round it.

A rotation starts at a random place. From index 0, every process that starts and every set that changes would
send its first request to the same backend.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random as Rng
from typing import ClassVar

from lbclient.core.backend import BackendState


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Each backend in turn, in the declared order, whatever its weight."""

    name: ClassVar[str] = "round_robin"
    because: ClassVar[str] = "next in rotation"

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> RotationPicker:
        """A rotation over `backends` from a random start."""
        return RotationPicker(backends, rng)


class RotationPicker:
    """Goes round its backends.

    Attributes:
        drawn: The index of the last pick.
    """

    __slots__ = ("_last", "_next", "_next_other", "_states", "drawn")

    def __init__(self, backends: Sequence[BackendState], rng: Rng) -> None:
        self._states = tuple(backends)
        self._last = len(self._states) - 1
        self._next = int(rng.random() * len(self._states))
        self._next_other = int(rng.random() * len(self._states))
        self.drawn: int | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """The next one."""
        self.drawn = at = self._next
        self._next = at + 1 if at < self._last else 0
        return self._states[at]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The next one that is not in `avoid`.

        These picks have a rotation of their own: in the common one the neighbour of a backend that everybody
        avoids would get its share on top of the neighbour's own.
        """
        count = len(self._states)
        for step in range(count):
            at = (self._next_other + step) % count
            if self._states[at] not in avoid:
                self._next_other = at + 1
                self.drawn = at
                return self._states[at]
        return None


@dataclass(frozen=True, slots=True)
class First:
    """The first available backend in the declared order; the others only stand by."""

    name: ClassVar[str] = "first"
    because: ClassVar[str] = "first available in the declared order"

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> FirstPicker:
        """A picker of the first of `backends`."""
        return FirstPicker(backends)


class FirstPicker:
    """Always the same one; `drawn` is its index."""

    __slots__ = ("_states", "drawn")

    def __init__(self, backends: Sequence[BackendState]) -> None:
        self._states = tuple(backends)
        self.drawn = 0

    def pick(self, key: bytes | None, /) -> BackendState:
        """The first one."""
        self.drawn = 0
        return self._states[0]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The first one that is not in `avoid`."""
        for at, state in enumerate(self._states):
            if state not in avoid:
                self.drawn = at
                return state
        return None
