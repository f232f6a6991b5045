"""Hash rings: each backend owns the arcs that end in its points, so a change moves its own arcs and nothing
else.

Two layouts are other balancers' own, point by point, so that lbclient and they send a key to the same
backend: NGINX's (`hash ... consistent`, also known as ketama) and Envoy's (`ring_hash`). `IPHash` has nobody
to agree with, and takes more points from a better hash, for evener shares.
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, islice
from operator import ne
from random import Random as Rng
from typing import ClassVar, Literal, get_args

from lbclient.core.algorithms.bounded import check_keyed, keyed_picker
from lbclient.core.algorithms.keyed import KeyedPicker, names_and_weights
from lbclient.core.backend import BackendState
from lbclient.core.checks import check_whole
from lbclient.core.facts import KeyLike
from lbclient.core.hashing import crc32, stable64, stable64_stream, xxh64

_OWNER_BITS = 32
_OWNER = 2**_OWNER_BITS - 1

Layout = Literal["ketama", "envoy"]

_MOST_POINTS = 2**22  # of a whole ring: 32 to 48 MB, and a few seconds to sort
_IP_HASH_POINTS = 512  # the shares of equal backends are even to about 1 / sqrt(points), 4 %
_MOST_IP_HASH_POINTS = 2**21


@dataclass(frozen=True, slots=True)
class RingHash:
    """A key's backend is the next point on a ring of hashes; only the keys of a backend that leaves move.

    Args:
        key: What of a request is hashed.
        points: How many points a backend of weight 1 has, 1 to 65,536; `layout="ketama"` only.
        layout: `"ketama"` equals NGINX's `hash ... consistent`, `"envoy"` equals Envoy's `ring_hash` with
            xxHash64.
        bounded_load: How far above its fair share of what is in flight a backend may go before its keys move
            on; above 1, None for no bound.
        min_ring_size, max_ring_size: Envoy's, 1 to 8,388,608; `layout="envoy"` only.

    Raises:
        ImportError: `layout="envoy"` without the extra `xxhash`.
    """

    key: KeyLike = "client_ip"
    points: int = 160
    layout: Layout = "ketama"
    bounded_load: float | None = None
    min_ring_size: int = 1024
    max_ring_size: int = 8_388_608

    name: ClassVar[str] = "ring_hash"
    because: ClassVar[str] = "the key's place on the ring"

    def __post_init__(self) -> None:
        check_keyed(self.key, self.bounded_load)
        check_whole("points", self.points, at_least=1, at_most=65_536)
        check_whole("min_ring_size", self.min_ring_size, at_least=1, at_most=8_388_608)
        check_whole("max_ring_size", self.max_ring_size, at_least=self.min_ring_size, at_most=8_388_608)
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout is {self.layout!r}; allowed are 'ketama' (as in NGINX) and 'envoy'")
        if self.layout == "envoy":
            xxh64("layout='envoy'")

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> KeyedPicker:
        """A picker by the ring of `backends`."""
        names, weights = names_and_weights(backends)
        if self.layout == "envoy":
            ring = envoy_ring(names, weights, self.min_ring_size, self.max_ring_size)
            return keyed_picker(backends, ring, xxh64("layout='envoy'"), self.bounded_load, rng)
        ring = ketama_ring(names, weights, self.points)
        return keyed_picker(backends, ring, crc32, self.bounded_load, rng)


@dataclass(frozen=True, slots=True)
class IPHash:
    """Each client address has its backend; when one leaves, only its own clients move.

    Args:
        key: What of a request is hashed.
        bounded_load: How far above its fair share of what is in flight a backend may go before its clients
            move on; above 1, None for no bound.
    """

    key: KeyLike = "client_ip"
    bounded_load: float | None = None

    name: ClassVar[str] = "ip_hash"
    because: ClassVar[str] = "the client's place on the ring"

    def __post_init__(self) -> None:
        check_keyed(self.key, self.bounded_load)

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> KeyedPicker:
        """A picker by the ring of `backends`."""
        names, weights = names_and_weights(backends)
        return keyed_picker(backends, stable_ring(names, weights), stable64, self.bounded_load, rng)


class Ring:
    """Points in ascending order and their owners.

    A hash belongs to the first point at or above it, beyond the last to the first (NGINX's
    `ngx_http_upstream_find_chash_point`). Of points with the same hash the one declared first counts.

    Args:
        points: Hash and owner in one number (`hash << 32 | owner`): a million of them sort in half the time of pairs.
        bits: Of the hash, 32 or 64.
        count: How many owners there are, with or without a point.
    """

    __slots__ = ("absent", "bits", "owners", "points")

    def __init__(self, points: list[int], bits: int, count: int) -> None:
        points.sort()
        hashes = [point >> _OWNER_BITS for point in points]
        first = [True, *map(ne, islice(hashes, 1, None), hashes)]
        self.bits = bits
        self.points = array("I" if bits == 32 else "Q", compress(hashes, first))
        self.owners = array("I", compress([point & _OWNER for point in points], first))
        self.absent = tuple(set(range(count)) - set(self.owners))

    def _place(self, hashed: int) -> int:
        at = bisect_left(self.points, hashed)
        return at if at < len(self.points) else 0

    def find(self, hashed: int, /) -> int:
        """The owner of the first point at or above `hashed`."""
        owner: int = self.owners[self._place(hashed)]
        return owner

    def walk(self, hashed: int, /) -> Iterator[int]:
        """The owners of that point and of all after it, once round, then those without a point."""
        at = self._place(hashed)
        owners = self.owners
        for place in range(at, len(owners)):
            yield owners[place]
        for place in range(at):
            yield owners[place]
        yield from self.absent


def point_counts(weights: Sequence[float], points: int, most: int = _MOST_POINTS) -> list[int]:
    """How many points each backend gets: `points` times its weight, at least one.

    Weights are relative: where the greatest is below 1 (shares that sum up to 1) all are doubled until it is
    not, and a ring of more than `most` points is halved until it fits. By powers of two, because any other
    factor would change everybody's points, and with them the owners of most keys, whenever the set changes.
    """
    scale = 1.0
    while max(weights) * scale < 1:
        scale *= 2
    while sum(weights) * scale * points > most:
        scale /= 2
    return [max(1, round(weight * scale * points)) for weight in weights]


@lru_cache(maxsize=8)
def ketama_ring(names: tuple[str, ...], weights: tuple[float, ...], points: int = 160) -> Ring:
    """NGINX's ring (`ngx_http_upstream_update_chash`): each point is the crc32 of host, NUL, port and the
    point before.

    The point before is four little-endian bytes, at first zeros. A Unix socket's name is its path, without
    port.
    """
    ring: list[int] = []
    pack = struct.Struct("<I").pack
    for owner, (name, count) in enumerate(zip(names, point_counts(weights, points), strict=True)):
        host, colon, port = name.rpartition(":")
        if not colon or not port.isdigit():
            host, port = name, ""
        base = crc32(port.encode(), crc32(host.encode() + b"\0"))
        point = 0
        for _ in range(count):
            point = crc32(pack(point), base)
            ring.append(point << _OWNER_BITS | owner)
    return Ring(ring, bits=32, count=len(names))


@lru_cache(maxsize=8)
def envoy_ring(
    names: tuple[str, ...],
    weights: tuple[float, ...],
    min_ring_size: int = 1024,
    max_ring_size: int = 8_388_608,
    digest: Callable[[bytes], int] | None = None,
) -> Ring:
    """Envoy's ring (`ring_hash_lb.cc`): xxHash64 of `name_0`, `name_1`, ...; the lightest gets a whole number
    of points.

    The counts follow two running sums, in doubles as there, so that fractions are rounded alike.
    """
    digest = digest or xxh64("layout='envoy'")
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    lightest = min(shares)
    scale = min(math.ceil(lightest * min_ring_size) / lightest, max_ring_size)
    ring: list[int] = []
    current = target = 0.0
    for owner, (name, share) in enumerate(zip(names, shares, strict=True)):
        target += scale * share
        number = 0
        while current < target:
            ring.append(digest(f"{name}_{number}".encode()) << _OWNER_BITS | owner)
            number += 1
            current += 1
    return Ring(ring, bits=64, count=len(names))


@lru_cache(maxsize=8)
def stable_ring(names: tuple[str, ...], weights: tuple[float, ...]) -> Ring:
    """A ring of 64-bit points that needs the standard library only."""
    ring: list[int] = []
    counts = point_counts(weights, _IP_HASH_POINTS, _MOST_IP_HASH_POINTS)
    for owner, (name, count) in enumerate(zip(names, counts, strict=True)):
        ring += [point << _OWNER_BITS | owner for point in stable64_stream(name.encode(), count)]
    return Ring(ring, bits=64, count=len(names))
