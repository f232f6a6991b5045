"""Hash rings: each backend owns the arcs that end in its points, so a change moves its own arcs and nothing
else.

Two layouts are other balancers' own, point by point, so that lbclient and they send a key to the same
backend: NGINX's (`hash ... consistent`, also known as ketama) and Envoy's (`ring_hash`). `IPHash` has nobody
to agree with, and takes more points from a better hash, for evener shares.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random as Rng
from typing import ClassVar, Literal, get_args

from lbclient.core.algorithms.bounded import check_keyed, keyed_picker
from lbclient.core.algorithms.keyed import KeyedPicker, names_and_weights
from lbclient.core.algorithms.points import Ring, Rings
from lbclient.core.backend import BackendState
from lbclient.core.checks import check_whole
from lbclient.core.facts import KeyLike
from lbclient.core.hashing import crc32, stable64, stable64_stream, xxh64

Layout = Literal["ketama", "envoy"]

_MOST_POINTS = 2**21  # of a whole ring: 24 MB at most, and some two seconds to sort
_MOST_POINTS_OF_ONE = 2**18  # its share is exact to 0.2 % then; 0.2 s
_HUGE = 64  # 2 ** 64 has too many points already: nothing is lost by beginning there
_IP_HASH_POINTS = 512  # the shares of equal backends are even to about 1 / sqrt(points), 4 %


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
        min_ring_size, max_ring_size: Envoy's, 1 to 8,388,608; `layout="envoy"` only. Envoy's own default for the
            greatest is 8,388,608 points, which take it a second and us ten; it makes a difference where the lightest
            backend has less than 1 / `max_ring_size` of all weight.

    Raises:
        ImportError: `layout="envoy"` without the extra `xxhash`.
    """

    key: KeyLike = "client_ip"
    points: int = 160
    layout: Layout = "ketama"
    bounded_load: float | None = None
    min_ring_size: int = 1024
    max_ring_size: int = 262_144

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


def point_counts(weights: Sequence[float], points: int) -> list[int]:
    """How many points each backend gets: `points` times its weight, at least one.

    Weights are relative: where the greatest is below 1 (shares that sum up to 1) all are doubled until it is
    not, and a ring with too many points, in all or of one backend, is halved until it fits. By powers of two,
    because any other factor would change everybody's points, and with them the owners of most keys, whenever the
    set changes.
    """
    exponent = math.frexp(max(weights))[1]  # the greatest is 2 ** exponent, or half of that
    if exponent < 1:
        weights = [math.ldexp(weight, 1 - exponent) for weight in weights]
    elif exponent > _HUGE:
        weights = [math.ldexp(weight, _HUGE - exponent) for weight in weights]
    scale = 1.0
    heaviest, total = max(weights) * points, sum(weights) * points
    while total * scale > _MOST_POINTS or heaviest * scale > _MOST_POINTS_OF_ONE:
        scale /= 2
    return [max(1, round(weight * scale * points)) for weight in weights]


def ketama_ring(names: tuple[str, ...], weights: tuple[float, ...], points: int = 160) -> Ring:
    """NGINX's ring (`ngx_http_upstream_update_chash`): each point is the crc32 of host, NUL, port and the
    point before.

    The point before is four little-endian bytes, at first zeros. A Unix socket's name is its path, without
    port.
    """
    return _KETAMA.ring(names, point_counts(weights, points))


def envoy_ring(
    names: tuple[str, ...],
    weights: tuple[float, ...],
    min_ring_size: int = 1024,
    max_ring_size: int = 8_388_608,
) -> Ring:
    """Envoy's ring (`ring_hash_lb.cc`): xxHash64 of `name_0`, `name_1`, ...; the lightest gets a whole number
    of points.

    The counts follow two running sums, in doubles as there, so that fractions are rounded alike.
    """
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    lightest = min(shares)
    scale = min(math.ceil(lightest * min_ring_size) / lightest, max_ring_size)
    counts: list[int] = []
    current = target = 0.0
    for share in shares:
        target += scale * share
        number = 0
        while current < target:
            number += 1
            current += 1
        counts.append(number)
    return _ENVOY.ring(names, counts)


def stable_ring(names: tuple[str, ...], weights: tuple[float, ...]) -> Ring:
    """A ring of 64-bit points that needs the standard library only."""
    return _STABLE.ring(names, point_counts(weights, _IP_HASH_POINTS))


_FOUR = struct.Struct("<I").pack


def _ketama_points(name: str, count: int) -> list[int]:
    host, colon, port = name.rpartition(":")
    if not colon or not port.isdigit():
        host, port = name, ""
    base = crc32(port.encode(), crc32(host.encode() + b"\0"))
    points: list[int] = []
    point = 0
    for _ in range(count):
        point = crc32(_FOUR(point), base)
        points.append(point)
    return points


def _envoy_points(name: str, count: int) -> list[int]:
    digest = xxh64("layout='envoy'")
    return [digest(f"{name}_{number}".encode()) for number in range(count)]


def _stable_points(name: str, count: int) -> list[int]:
    return stable64_stream(name.encode(), count)


_KETAMA = Rings(_ketama_points, bits=32)
_ENVOY = Rings(_envoy_points, bits=64)
_STABLE = Rings(_stable_points, bits=64)
