"""What all hashing algorithms share: the key's hash is looked up in a table, and the table says who, and who
next.

A table is computed from names and weights alone, so every client that knows the same set computes the same
one, and a backend that leaves and returns brings its old table back. A request without a key gets a random
hash: it goes to anyone, by weight, not always to the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from random import Random as Rng
from typing import Protocol

from lbclient.core.backend import BackendState
from lbclient.core.hashing import Digest


class Table(Protocol):
    """Whom each hash belongs to, as indices into the names it was computed from."""

    bits: int
    """How long a hash is."""

    def find(self, hashed: int, /) -> int:
        """The owner of `hashed`."""
        ...  # pragma: no cover - a protocol

    def walk(self, hashed: int, /) -> Iterator[int]:
        """The owner, then whoever would own it without those before; each at least once, then it ends."""
        ...  # pragma: no cover - a protocol


def names_and_weights(backends: Sequence[BackendState]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """What tables are computed from."""
    return tuple(state.backend.name for state in backends), tuple(state.weight for state in backends)


class KeyedPicker:
    """Looks keys up in a table.

    Attributes:
        drawn: The hash of the last key, or the random one in its place.
    """

    __slots__ = ("_bits", "_digest", "_find", "_random_bits", "_states", "_table", "drawn")

    def __init__(self, backends: Sequence[BackendState], table: Table, digest: Digest, rng: Rng) -> None:
        self._states = tuple(backends)
        self._table = table
        self._find = table.find
        self._bits = table.bits
        self._digest = digest
        self._random_bits = rng.getrandbits
        self.drawn: int | None = None

    def pick(self, key: bytes | None, /) -> BackendState:
        """The owner of `key`."""
        self.drawn = hashed = self._random_bits(self._bits) if key is None else self._digest(key)
        return self._states[self._find(hashed)]

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The first on the way from the key's place who is not in `avoid`: who would own it if they were not
        there.
        """
        self.drawn = hashed = self._random_bits(self._bits) if key is None else self._digest(key)
        states = self._states
        if all(state in avoid for state in states):
            return None
        return next(states[index] for index in self._table.walk(hashed) if states[index] not in avoid)
