import random
import sys
from collections import Counter
from typing import Any

import pytest

from lbclient.algorithms import Maglev
from lbclient.core.algorithms.maglev import maglev_table
from tests.core.algorithms.backends import states

xxhash = pytest.importorskip("xxhash")


def test_every_backend_has_as_many_slots_as_its_weight_says() -> None:
    table = maglev_table(("a:1", "b:1", "c:1"), (1.0, 2.0, 5.0), 65_537)
    counts = Counter(table.owners)
    for owner, weight in enumerate((1, 2, 5)):
        assert counts[owner] == pytest.approx(65_537 * weight / 8, rel=0.001)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 251, 1009])
@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_every_backend_claims_its_next_free_slot_in_turn(size: int, count: int) -> None:
    """Against the paper's words (Eisenbud et al., figure 1): for alike weights, whole permutations, one turn each."""
    names = tuple(f"10.0.0.{n}:80" for n in range(count))
    owners: dict[int, int] = {}
    preferences = []
    for name in sorted(names):
        offset = xxhash.xxh64_intdigest(name.encode(), 0) % size
        skip = xxhash.xxh64_intdigest(name.encode(), 1) % (size - 1) + 1
        preferences.append((names.index(name), iter([(offset + n * skip) % size for n in range(size)])))
    while len(owners) < size:
        for index, slots in preferences:
            if len(owners) < size:
                owners[next(slot for slot in slots if slot not in owners)] = index
    assert list(maglev_table(names, (1.0,) * count, size).owners) == [owners[slot] for slot in range(size)]


def test_the_table_does_not_depend_on_the_declared_order() -> None:
    names = ("c:1", "a:1", "b:1")
    one = maglev_table(names, (1.0, 1.0, 2.0), 251)
    two = maglev_table(names[::-1], (2.0, 1.0, 1.0), 251)
    assert [names[owner] for owner in one.owners] == [names[::-1][owner] for owner in two.owners]


def test_a_walk_begins_at_the_slot_and_goes_round() -> None:
    table = maglev_table(("a:1", "b:1"), (1.0, 1.0), 7)
    assert list(table.walk(5)) == [*table.owners[5:], *table.owners[:5]]
    assert table.find(12) == next(table.walk(12)) == table.owners[5]


def test_a_backend_without_a_slot_is_still_there_when_all_others_are_avoided() -> None:
    backends = states(*[1] * 8)
    picker = Maglev(size=5).build(backends, random.Random(1))
    without = set(range(8)) - set(picker._table.owners)  # type: ignore[attr-defined]
    last = backends[without.pop()]
    assert picker.pick_other(b"key", set(backends) - {last}) is last


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(ImportError, match=r"maglev hashes with xxHash64.*pip install lbclient\[xxhash\]"):
        Maglev()


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_012, 1000])
def test_a_size_that_is_no_prime_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size is {size}; write"):
        Maglev(size=size)


def test_a_table_is_computed_once_for_a_set_that_comes_back() -> None:
    backends = states(1, 1, 1)
    pickers: list[Any] = [
        Maglev().build(some, random.Random(1)) for some in (backends, backends[1:], backends)
    ]
    assert pickers[0]._table is pickers[2]._table
