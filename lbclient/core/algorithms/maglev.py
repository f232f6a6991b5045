"""Maglev hashing: a table that a key is looked up in with one division.

Evener than a ring (every slot counts alike) for a little disruption: when a backend leaves, about one slot in
a thousand of the others moves as well (Eisenbud et al., NSDI 2016). The table is Envoy's, slot by slot.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.bounded import check_keyed, keyed_picker
from lbclient.core.algorithms.keyed import KeyedPicker, names_and_weights
from lbclient.core.backend import BackendState
from lbclient.core.checks import check_whole
from lbclient.core.facts import KeyLike
from lbclient.core.hashing import xxh64

_MOST_SLOTS = 5_000_011  # Envoy's limit


@dataclass(frozen=True, slots=True)
class Maglev:
    """A key's backend is that of its slot in a table as even as can be.

    Args:
        key: What of a request is hashed.
        size: Slots in the table: a prime, 2 to 5,000,011, and many times the number of backends.
        bounded_load: How far above its fair share of what is in flight a backend may go before its keys move
            on; above 1, None for no bound.

    Raises:
        ImportError: The extra `xxhash` is missing.
    """

    key: KeyLike = "client_ip"
    size: int = 65_537
    bounded_load: float | None = None

    name: ClassVar[str] = "maglev"
    because: ClassVar[str] = "the key's slot in the table"

    def __post_init__(self) -> None:
        check_keyed(self.key, self.bounded_load)
        check_whole("size", self.size, at_least=2, at_most=_MOST_SLOTS)
        if not _is_prime(self.size):
            raise ValueError(f"size is {self.size}; write a prime from 2 to {_MOST_SLOTS}, such as 65537")
        xxh64("maglev")

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> KeyedPicker:
        """A picker by the table of `backends`."""
        names, weights = names_and_weights(backends)
        table = maglev_table(names, weights, self.size)
        return keyed_picker(backends, table, xxh64("maglev"), self.bounded_load, rng)


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


class MaglevTable:
    """Slots and their owners: a hash belongs to slot hash mod size."""

    __slots__ = ("absent", "bits", "owners")

    def __init__(self, owners: array[int], count: int) -> None:
        self.bits = 64
        self.owners = owners
        self.absent = tuple(set(range(count)) - set(owners))

    def find(self, hashed: int, /) -> int:
        """The owner of the hash's slot."""
        return self.owners[hashed % len(self.owners)]

    def walk(self, hashed: int, /) -> Iterator[int]:
        """The owners of that slot and of all after it, once round, then those without a slot."""
        at = hashed % len(self.owners)
        yield from self.owners[at:]
        yield from self.owners[:at]
        yield from self.absent


@lru_cache(maxsize=8)
def maglev_table(
    names: tuple[str, ...],
    weights: tuple[float, ...],
    size: int = 65_537,
    digest: Callable[..., int] | None = None,
) -> MaglevTable:
    """Envoy's table (`maglev_lb.cc`): backends in the order of their names take turns to claim their next
    free slot.

    A backend's slots are offset + n x skip, both from xxHash64 of its name (seeds 0 and 1). The heaviest has
    a turn in every round, one of a third of its weight in every third.

    To find the last slots means to pass thousands that are taken, which is half of all the work. So they are found by
    how many steps away each of them is.
    """
    digest = digest or xxh64("maglev")
    order = sorted(range(len(names)), key=names.__getitem__)
    data = [names[index].encode() for index in order]
    total = math.fsum(weights)
    shares = [weights[index] / total for index in order]
    heaviest = max(shares)
    alike = min(shares) == heaviest
    slots = [digest(name, 0) % size for name in data]
    skips = [digest(name, 1) % (size - 1) + 1 for name in data]
    targets = [0.0] * len(order)
    owners = array("I", bytes(4)) * size
    taken = bytearray(size)
    left = size
    few = math.isqrt(size)
    free: list[int] = []
    turn = 0
    while left:
        turn += 1
        for entry, index in enumerate(order):
            if not alike:
                if turn * shares[entry] < targets[entry]:
                    continue
                targets[entry] += heaviest
            slot = slots[entry]
            skip = skips[entry]
            if left > few:
                while taken[slot]:
                    slot += skip
                    if slot >= size:
                        slot -= size
            else:
                free = free or [slot for slot in range(size) if not taken[slot]]
                steps = _steps(slot, skip, free, size)
                slot = free.pop(steps.index(min(steps)))
            taken[slot] = 1
            owners[slot] = index
            slots[entry] = slot
            left -= 1
            if not left:
                break
    return MaglevTable(owners, len(names))


def _steps(start: int, skip: int, slots: Sequence[int], size: int) -> list[int]:
    """How many times to skip from `start`, round a table whose size is a prime, to come to each of these slots."""
    inverse = pow(skip, -1, size)
    return [(slot - start) * inverse % size for slot in slots]
