"""A ring made from another one is the ring that would have been made from nothing."""

from collections.abc import Sequence
from itertools import accumulate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient.core.algorithms.points import Ring, Rings
from lbclient.core.hashing import stable64_stream


def narrow(name: str, count: int) -> Sequence[int]:
    """Points that often lie in the same place."""
    return [point % 64 for point in stable64_stream(name.encode(), count)]


def wide(name: str, count: int) -> Sequence[int]:
    return stable64_stream(name.encode(), count)


def seen(ring: Ring) -> object:
    every = range(66)
    walks = [list(ring.walk(hashed)) for hashed in (0, 31, 65)]
    return list(ring.points()), [ring.find(hashed) for hashed in every], walks, ring.absent


def named(points: dict[str, Sequence[int]]) -> Ring:
    return Rings(lambda name, count: points[name][:count], bits=32).ring(
        tuple(points), tuple(map(len, points.values()))
    )


def test_a_hash_belongs_to_the_first_point_at_or_above_it() -> None:
    three = named({"a": [100], "b": [200], "c": [300]})
    assert [three.find(hashed) for hashed in (0, 100, 101, 200, 300, 301, 2**32 - 1)] == [0, 0, 1, 1, 2, 0, 0]
    assert list(three.walk(150)) == [1, 2, 0]
    assert list(three.walk(301)) == [0, 1, 2]
    assert repr(three) == "<Ring of 3, 3 points>"


def test_of_two_points_in_one_place_the_one_declared_first_counts() -> None:
    both = named({"a": [100], "b": [100], "c": [300]})
    assert list(both.points()) == [(100, 0), (300, 2)]
    assert both.find(100) == 0
    assert list(both.walk(0)) == [0, 2, 1], "who has no point left comes last, but comes"


def test_when_the_first_leaves_or_moves_behind_the_other_one_counts() -> None:
    points = {"a": [100], "b": [100], "c": [300], "d": [400]}
    rings = Rings(lambda name, count: points[name][:count], bits=32)
    assert rings.ring("abcd", (1, 1, 1, 1)).find(100) == 0
    assert rings.ring("bcd", (1, 1, 1)).find(100) == 0, "b"
    assert rings.ring("bcda", (1, 1, 1, 1)).find(100) == 0, "still b"
    assert rings.ring("abcd", (1, 1, 1, 1)).find(100) == 0, "a again"


members = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(min_value=0, max_value=6)), min_size=1, max_size=8
).filter(lambda pairs: any(count for _, count in pairs))


@given(st.lists(members, min_size=2, max_size=6))
def test_sets_that_follow_each_other_have_the_rings_that_they_have_alone(
    sets: list[list[tuple[str, int]]],
) -> None:
    rings = Rings(narrow, bits=64)
    for pairs in sets:
        names, counts = zip(*pairs, strict=True)
        assert seen(rings.ring(names, counts)) == seen(Rings(narrow, bits=64).ring(names, counts))


def test_a_large_set_that_changes_a_little_has_the_ring_that_it_has_alone() -> None:
    rng = Random(1)
    rings = Rings(wide, bits=64)
    names = [f"10.0.0.{number}:80" for number in range(300)]
    rings.ring(names, [16] * 300)
    for turn in range(20):
        rng.shuffle(names)
        names = [*names[3:], f"10.1.0.{turn}:80", f"10.2.0.{turn}:80"]
        counts = [rng.choice((15, 16, 16, 16)) for _ in names]
        ring, alone = rings.ring(names, counts), Rings(wide, bits=64).ring(names, counts)
        assert list(ring.points()) == list(alone.points())
        assert ring.absent == alone.absent


def test_little_is_computed_for_a_little_change(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str, count: int) -> Sequence[int]:
        asked.append(name)
        return wide(name, count)

    rings = Rings(counted, bits=64)
    names = [f"10.0.0.{number}:80" for number in range(100)]
    rings.ring(names, [160] * 100)
    asked.clear()
    rings.ring([*names[1:], "10.0.1.0:80"], [160] * 100)
    assert sorted(asked) == ["10.0.0.0:80", "10.0.1.0:80"]
    asked.clear()
    rings.ring(names, [160] * 100)
    assert asked == [], "the set before is remembered"
    rings.ring(tuple(reversed(names)), [160] * 100)
    assert asked == [], "another order has the same points"
    rings.ring([f"10.9.0.{number}:80" for number in range(100)], [160] * 100)
    assert len(asked) == 100, "nothing in common"


def test_several_backends_of_one_name_take_turns_to_leave() -> None:
    rings = Rings(narrow, bits=64)
    for names, counts in (("aab", (3, 5, 2)), ("ab", (5, 2)), ("aaab", (1, 2, 3, 4)), ("bb", (1, 1))):
        assert seen(rings.ring(names, counts)) == seen(Rings(narrow, bits=64).ring(names, counts))


def test_what_is_kept_is_bounded_by_number_and_by_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbclient.core.algorithms.points._MOST_KEPT_POINTS", 100)
    rings = Rings(wide, bits=64)
    for size in accumulate([1] * 20):
        rings.ring([str(number) for number in range(size)], [1] * size)
    assert repr(rings) == "<Rings, 20 made, 5 kept>"  # of 16 to 20 points
    monkeypatch.setattr("lbclient.core.algorithms.points._MOST_KEPT_POINTS", 1000)
    for size in accumulate([1] * 20):
        rings.ring([str(number) for number in range(size)], [1] * size)
    assert repr(rings).endswith("8 kept>")
    assert repr(Rings(wide, bits=64)) == "<Rings, 0 made, 0 kept>"
