"""The points of a hash ring, and how the ring of one set becomes that of the next.

Ten thousand backends have a million points and more, which take two seconds to compute and to sort. But of two sets
that follow each other most points are the same: then the new ring is the old one with some points taken out and some
put in, copied in as many pieces, which takes milliseconds. Nobody can tell from a ring how it came about.

What makes that possible:

* **Owners have numbers of their own** on the ring, which they keep while others come and go; `_place_of` says where in
  the set each of them stands.
* **No point is dropped.** Where two owners have a point in the same place the one declared first counts. The other
  one's stays behind it, because it counts as soon as the first one leaves. Such places are remembered (`_ties`; of a
  million 32-bit points there are about a hundred), so that they can be put in order when the order of the set changes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice
from operator import eq
from threading import Lock
from typing import TypeAlias

_OWNER_BITS = 32
_OWNER = 2**_OWNER_BITS - 1
_MOST_KEPT = 8  # rings of one layout
_MOST_KEPT_POINTS = 2**22  # of theirs together, unless one has more
_SAMPLE = 64
_SUFFIX = "\0"  # which no name has
_TOO_DIFFERENT = 0.5  # of the points: from there on sorting them all is as fast

PointsOf: TypeAlias = Callable[[str, int], Sequence[int]]
"""The first so many points of a name. More of them begin with fewer."""

Member: TypeAlias = str
"""A name; of several members with the same one (a host may serve two of them) the later ones have a suffix."""
Counts: TypeAlias = dict[Member, int]
"""How many points each member has, in the order of the set."""


@dataclass(frozen=True, slots=True)
class _Points:
    """Hashes in ascending order, and the numbers of their owners."""

    hashes: array[int]
    owners: array[int]


class Ring:
    """Points in ascending order and their owners, who are places in the set that the ring is made for.

    A hash belongs to the first point at or above it, beyond the last to the first (NGINX's
    `ngx_http_upstream_find_chash_point`). Of points with the same hash the one declared first counts.

    Args:
        points: All of them; those with the same hash in the order of their owners' places.
        counts: How many points each member has, in the order of the set.
        numbers: The number of each member on the ring.
        ties: The hashes that more than one owner has.
        bits: Of the hash, 32 or 64.

    Attributes:
        absent: The places of those without a point that counts.
    """

    __slots__ = ("_hashes", "_owners", "_place_of", "_ties", "absent", "bits", "counts", "numbers")

    def __init__(
        self, points: _Points, counts: Counts, numbers: dict[Member, int], ties: set[int], bits: int
    ) -> None:
        self.bits = bits
        self.counts = counts
        self.numbers = numbers
        self._hashes = points.hashes
        self._owners = points.owners
        self._place_of = place_of = array("I", bytes(4 * (max(numbers.values()) + 1)))
        for place, member in enumerate(counts):
            place_of[numbers[member]] = place
        self._ties: set[int] = set()
        hidden: Counter[int] = Counter()
        for hashed in ties:
            first, beyond = self._run(hashed)
            if beyond - first > 1:
                owners = sorted(self._owners[first:beyond], key=place_of.__getitem__)
                self._owners[first:beyond] = array("I", owners)
                self._ties.add(hashed)
                hidden.update(place_of[owner] for owner in owners[1:])
        self.absent = tuple(
            place for place, count in enumerate(counts.values()) if not count or count == hidden.get(place)
        )

    def __len__(self) -> int:
        return len(self._hashes)

    def __repr__(self) -> str:
        return f"<Ring of {len(self.counts)}, {len(self)} points>"

    def points(self) -> Iterator[tuple[int, int]]:
        """(hash, owner) of those that count, in ascending order."""
        before = None
        for hashed, number in zip(self._hashes, self._owners, strict=True):
            if hashed != before:
                yield hashed, self._place_of[number]
            before = hashed

    def is_of(self, counts: Counts) -> bool:
        """Whether it is the ring of that set, in that order."""
        return len(counts) == len(self.counts) and all(map(eq, counts.items(), self.counts.items()))

    def find(self, hashed: int, /) -> int:
        """The owner of the first point at or above `hashed`."""
        hashes = self._hashes
        at = bisect_left(hashes, hashed)
        return self._place_of[self._owners[at if at < len(hashes) else 0]]

    def walk(self, hashed: int, /) -> Iterator[int]:
        """The owners of that point and of all after it, once round, then those without a point."""
        hashes, owners, place_of = self._hashes, self._owners, self._place_of
        start = bisect_left(hashes, hashed)
        for at in chain(range(start, len(hashes)), range(start)):
            if not at or hashes[at] != hashes[at - 1]:
                yield place_of[owners[at]]
        yield from self.absent

    def _run(self, hashed: int) -> tuple[int, int]:
        """Where the points with that hash begin and end."""
        hashes = self._hashes
        first = beyond = bisect_left(hashes, hashed)
        while beyond < len(hashes) and hashes[beyond] == hashed:
            beyond += 1
        return first, beyond

    def changed(self, counts: Counts, points_of: PointsOf) -> Ring | None:
        """The ring of another set, made from this one; None where making it anew is as fast.

        Args:
            counts: How many points each member has, in the order of the set.
            points_of: Computes them.
        """
        had = self.counts
        fewer = [(member, count, counts.get(member, 0)) for member, count in had.items()]
        fewer = [(member, before, now) for member, before, now in fewer if now < before]
        more = [(member, had.get(member, 0), count) for member, count in counts.items()]
        more = [(member, before, now) for member, before, now in more if now > before]
        if sum(abs(now - before) for _, before, now in fewer + more) > _TOO_DIFFERENT * len(self):
            return None
        numbers = {member: self.numbers[member] for member in counts if member in self.numbers}
        free = iter(sorted(set(range(len(counts))) - set(numbers.values())))
        for member in counts:
            if member not in numbers:
                numbers[member] = next(free)
        out = sorted(
            self._position(hashed, self.numbers[member])
            for member, before, now in fewer
            for hashed in points_of(_name(member), before)[now:]
        )
        new = sorted(
            hashed << _OWNER_BITS | numbers[member]
            for member, before, now in more
            for hashed in points_of(_name(member), now)[before:]
        )
        for at in range(1, len(out)):  # a member may have a point twice; they lie behind each other
            out[at] = max(out[at], out[at - 1] + 1)
        points, met = self._spliced(out, new)
        return Ring(points, counts, numbers, self._ties | met, self.bits)

    def _position(self, hashed: int, number: int) -> int:
        at = bisect_left(self._hashes, hashed)
        while self._owners[at] != number:
            at += 1
        return at

    def _spliced(self, out: list[int], new: list[int]) -> tuple[_Points, set[int]]:
        """The points without those at the positions in `out` and with `new`; and where new ones met others."""
        hashes, owners = self._hashes, self._owners
        spliced = _Points(array(hashes.typecode), array(owners.typecode))
        met: set[int] = set()

        def keep(begin: int, end: int) -> None:
            if begin < end:
                spliced.hashes.extend(hashes[begin:end])
                spliced.owners.extend(owners[begin:end])

        copied = 0  # so many of ours
        before = -1
        leaving = iter([*out, len(hashes)])
        next_out = next(leaving)
        for point in new:
            hashed, number = point >> _OWNER_BITS, point & _OWNER
            at = bisect_left(hashes, hashed)
            while next_out < at:
                keep(copied, next_out)
                copied, next_out = next_out + 1, next(leaving)
            keep(copied, at)
            copied = max(copied, at)
            if hashed == before or (at < len(hashes) and hashes[at] == hashed):
                met.add(hashed)
            spliced.hashes.append(hashed)
            spliced.owners.append(number)
            before = hashed
        while next_out < len(hashes):
            keep(copied, next_out)
            copied, next_out = next_out + 1, next(leaving)
        keep(copied, next_out)
        return spliced, met


def ring_of(points: list[int], bits: int, counts: Counts) -> Ring:
    """A ring made from nothing.

    Args:
        points: Hash and place in the set in one number (`hash << 32 | place`): a million of them sort in half the time
            of pairs.
        bits: Of the hash, 32 or 64.
        counts: How many points each member has, in the order of the set.
    """
    points.sort()
    hashes = array("I" if bits == 32 else "Q", [point >> _OWNER_BITS for point in points])
    owners = array("I", [point & _OWNER for point in points])
    ties = set(compress(hashes, map(eq, islice(hashes, 1, None), hashes)))
    numbers = {member: place for place, member in enumerate(counts)}
    return Ring(_Points(hashes, owners), counts, numbers, ties, bits)


class Rings:
    """Makes the rings of one layout, and keeps those made last: to return them, and to make others from them.

    Args:
        points_of: Computes the points of a name.
        bits: Of a point, 32 or 64.
    """

    def __init__(self, points_of: PointsOf, bits: int) -> None:
        self._points_of = points_of
        self._bits = bits
        self._lock = Lock()  # guards _kept: pools of several threads make rings
        self._kept: list[Ring] = []  # the one used last is the last
        self.made = 0

    def __repr__(self) -> str:
        return f"<Rings, {self.made} made, {len(self._kept)} kept>"

    def ring(self, names: Sequence[str], counts: Sequence[int]) -> Ring:
        """The ring of a set.

        Args:
            names: In declared order.
            counts: How many points each has.
        """
        wanted = dict(zip(_members(names), counts, strict=True))
        with self._lock:
            kept = self._kept.copy()
        ring = next((each for each in reversed(kept) if each.is_of(wanted)), None)
        if ring is None:
            self.made += 1
            near = max(reversed(kept), key=lambda each: _likeness(each.counts, wanted), default=None)
            if near is not None:
                ring = near.changed(wanted, self._points_of)
            if ring is None:
                ring = self._new(wanted)
        with self._lock:
            self._kept = [each for each in self._kept if each is not ring]
            self._kept.append(ring)
            while len(self._kept) > _MOST_KEPT or (
                len(self._kept) > 1 and sum(map(len, self._kept)) > _MOST_KEPT_POINTS
            ):
                del self._kept[0]
        return ring

    def _new(self, counts: Counts) -> Ring:
        points: list[int] = []
        for place, (member, count) in enumerate(counts.items()):
            points += [hashed << _OWNER_BITS | place for hashed in self._points_of(_name(member), count)]
        return ring_of(points, self._bits, counts)


def _likeness(some: Counts, others: Counts) -> int:
    """How many of a sample of `others` are in `some`. A bad guess costs time and nothing else."""
    sample = islice(others.items(), 0, None, max(1, len(others) // _SAMPLE))
    return sum(1 for member, count in sample if some.get(member) == count)


def _members(names: Sequence[str]) -> Sequence[Member]:
    if len(set(names)) == len(names):
        return names
    before: Counter[str] = Counter()
    members: list[Member] = []
    for name in names:
        members.append(f"{name}{_SUFFIX}{before[name]}" if before[name] else name)
        before[name] += 1
    return members


def _name(member: Member) -> str:
    return member.partition(_SUFFIX)[0]
