"""Splits: exact shares, flips that are atomic, and clients that stay on their side."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from threading import Event, Lock, Thread
from time import sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient import Facts, Pool
from lbclient.core.backend import BackendState
from lbclient.core.split import Routed, Split
from lbclient.core.tokens import Signer

SECRET = "a secret of enough bytes"
STABLE, CANARY, OTHER = (Pool(["http://10.0.0.1:80"], name=name) for name in ("stable", "canary", "other"))
ANYBODY = Facts()


def with_cookie(value: str, name: str = "LBCLIENT-SPLIT") -> Facts:
    return Facts(headers=[(b"Cookie", f"theme=dark; {name}={value}; lang=en".encode("latin-1"))])


def cookie_of(routed: Routed) -> str:
    """The value that a client keeps."""
    assert routed.set_cookie is not None
    return routed.set_cookie[1].decode().partition("=")[2].partition(";")[0]


def served(split: Split, times: int, facts: Facts = ANYBODY) -> list[str]:
    return [split.pick(facts).pool.name for _ in range(times)]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns every few picks."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# Shares


@pytest.mark.parametrize(
    ("weights", "cycle"),
    [
        ((95, 5), {"stable": 19, "canary": 1}),
        ((0.99, 0.01), {"stable": 99, "canary": 1}),
        ((0.1, 0.2), {"stable": 1, "canary": 2}),
        ((1, 1), {"stable": 1, "canary": 1}),
        ((7, 0), {"stable": 1}),
        ((2.5, 1, 0.5), {"stable": 5, "canary": 2, "other": 1}),
    ],
)
def test_shares_are_exact_over_any_window_of_a_cycle(
    weights: tuple[float, ...], cycle: dict[str, int]
) -> None:
    pools = dict(zip((STABLE, CANARY, OTHER), weights, strict=False))
    length = sum(cycle.values())
    for seed in range(10):
        names = served(Split(pools, rng=random.Random(seed)), 3 * length)
        for start in range(2 * length):
            assert Counter(names[start : start + length]) == cycle


@given(st.lists(st.integers(0, 12), min_size=1, max_size=3).filter(any), st.integers(0, 2**32))
def test_shares_are_exact_whatever_the_weights(weights: list[int], seed: int) -> None:
    pools = dict(zip((STABLE, CANARY, OTHER), weights, strict=False))
    split = Split(pools, rng=random.Random(seed))
    counts = Counter(served(split, sum(weights)))
    assert counts == {pool.name: weight for pool, weight in pools.items() if weight}


def test_one_in_a_million_is_neither_first_nor_never() -> None:
    firsts = Counter(
        Split({STABLE: 1, CANARY: 1e-6}, rng=random.Random(seed)).pick(ANYBODY).pool.name
        for seed in range(100)
    )
    assert firsts["stable"] >= 99
    counts = Counter(served(Split({STABLE: 1, CANARY: 0.00001}, rng=random.Random(3)), 100_001))
    assert counts == {"stable": 100_000, "canary": 1}


def test_processes_do_not_start_together() -> None:
    firsts = {Split({STABLE: 1, CANARY: 1}).pick(ANYBODY).pool.name for _ in range(64)}
    assert firsts == {"stable", "canary"}


@pytest.mark.usefixtures("hasty_threads")
def test_threads_together_get_exact_shares() -> None:
    split = Split({STABLE: 9, CANARY: 1})
    counts: Counter[str] = Counter()
    lock = Lock()

    def run() -> None:
        found = served(split, 1000)
        with lock:
            counts.update(found)

    threads = [Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {"stable": 7200, "canary": 800}


def test_one_thread_at_a_time_takes_a_turn() -> None:
    split = Split({STABLE: 2, CANARY: 1})
    sides: Any = split._sides
    picker, inside, most = sides._picker, 0, 0

    class Watched:
        def pick(self, key: bytes | None) -> BackendState:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            sleep(0)  # lets go of the interpreter
            inside -= 1
            return picker.pick(key)  # type: ignore[no-any-return]

    sides._picker = Watched()
    threads = [Thread(target=served, args=(split, 50)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


# Flips


def test_a_flip_holds_for_every_pick_after_it() -> None:
    split = Split({STABLE: 1, CANARY: 0})
    assert set(served(split, 5)) == {"stable"}
    split.set({STABLE: 0, CANARY: 1})
    assert set(served(split, 5)) == {"canary"}
    split.set({STABLE: 3, CANARY: 1})
    assert Counter(served(split, 8)) == {"stable": 6, "canary": 2}


def test_a_pool_that_is_left_out_of_a_flip_is_off() -> None:
    split = Split({STABLE: 1, CANARY: 1})
    split.set({CANARY: 5})
    assert dict(split.weights) == {STABLE: 0, CANARY: 5}
    assert set(served(split, 5)) == {"canary"}


@pytest.mark.usefixtures("hasty_threads")
def test_threads_see_a_flip_at_once_and_whole() -> None:
    split = Split({STABLE: 1, CANARY: 0})
    steady: list[str | None] = ["stable"]  # who serves; None while a flip is under way
    done = Event()
    looked = [0] * 4
    wrong: list[str] = []

    def pick(thread: int) -> None:
        while not done.is_set():
            before = steady[0]
            name = split.pick(ANYBODY).pool.name
            if before is not None and before is steady[0]:
                looked[thread] += 1
                if name != before.partition(" ")[0]:
                    wrong.append(f"{name} while {before}")

    threads = [Thread(target=pick, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    turn = 0
    while turn < 300 or min(looked) < 50:
        pool = (CANARY, STABLE)[turn % 2]
        steady[0] = None
        split.set({pool: 1})
        steady[0] = f"{pool.name} {turn}"  # a new object each time: the same one means the same flip
        served(split, 20)
        turn += 1
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ({STABLE: 1, OTHER: 1}, ValueError, r"'other'.* is none of the pools .*'stable', 'canary'.*weight 0"),
        ({Pool(["http://a:1"], name="stable"): 1}, ValueError, "is none of the pools"),
        ({}, ValueError, r"no pools; write \{pool: weight"),
        ({STABLE: 0, CANARY: 0.0}, ValueError, "every weight .*'stable', 'canary'.*write one above 0"),
        ({STABLE: -1}, ValueError, "weight of pool 'stable' is -1; write a number of 0 or more"),
        ({STABLE: float("nan")}, ValueError, "is nan"),
        ({STABLE: float("inf")}, ValueError, "is inf"),
        ({STABLE: True}, TypeError, "is True"),
        ({STABLE: "1"}, TypeError, "is '1'"),
        ({"stable": 1}, TypeError, "'stable' is none; write {pool: weight"),
        ([STABLE], TypeError, "write {pool: weight"),
    ],
)
def test_a_flip_that_is_refused_changes_nothing(weights: Any, error: type[Exception], words: str) -> None:
    split = Split({STABLE: 2, CANARY: 1})
    with pytest.raises(error, match=words):
        split.set(weights)
    assert repr(split) == "<Split 'stable' 2, 'canary' 1>"
    assert Counter(served(split, 3)) == {"stable": 2, "canary": 1}


def test_the_caller_s_mapping_is_the_caller_s() -> None:
    weights: dict[Pool, float] = {STABLE: 1, CANARY: 1}
    split = Split(weights)
    weights[CANARY] = 0
    weights[OTHER] = 1
    split.weights[STABLE] = 0  # type: ignore[index]  # a copy
    assert set(served(split, 2)) == {"stable", "canary"}
    assert split.pools == (STABLE, CANARY)


# Sticky


def test_a_client_stays_on_its_side() -> None:
    split = Split({STABLE: 1, CANARY: 1}, sticky=True)
    for _ in range(4):
        first = split.pick(ANYBODY, now=100.0)
        again = [split.pick(with_cookie(cookie_of(first)), now=200.0) for _ in range(5)]
        assert {routed.pool for routed in again} == {first.pool}
        assert {routed.set_cookie for routed in again} == {None}, "it has the cookie already"


def test_the_cookie_is_opaque_and_for_the_whole_host() -> None:
    split = Split({STABLE: 1}, sticky=True, secret=SECRET)
    name, value = split.pick(ANYBODY).set_cookie or (b"", b"")
    assert name == b"set-cookie"
    assert value.startswith(b"LBCLIENT-SPLIT=")
    assert value.endswith(b"; Path=/; HttpOnly; SameSite=Lax")
    assert b"stable" not in value
    secure = split.pick(Facts(scheme="https")).set_cookie or (b"", b"")
    assert secure[1].endswith(b"; SameSite=Lax; Secure")


def test_the_cookie_is_not_sent_on() -> None:
    split = Split({STABLE: 1}, sticky=True, cookie="side")
    first = split.pick(ANYBODY)
    assert first.strip == split.pick(with_cookie(cookie_of(first), "side")).strip == ("side",)
    assert Split({STABLE: 1}).pick(with_cookie(cookie_of(first))).strip == ()


def test_clients_that_come_back_take_no_turns_of_the_new_ones() -> None:
    split = Split({STABLE: 3, CANARY: 1}, sticky=True)
    known = with_cookie(cookie_of(split.pick(ANYBODY)))
    names = []
    for _ in range(8):
        served(split, 7, known)
        names += served(split, 1)
    assert Counter(names) == {"stable": 6, "canary": 2}


def test_a_side_that_is_turned_off_gives_its_clients_away_once() -> None:
    split = Split({STABLE: 0, CANARY: 1}, sticky=True)
    on_canary = with_cookie(cookie_of(split.pick(ANYBODY)))
    split.set({STABLE: 99, CANARY: 1})
    assert served(split, 20, on_canary) == ["canary"] * 20, "other weights move nobody"
    split.set({STABLE: 1, CANARY: 0})
    moved = split.pick(on_canary)
    assert moved.pool is STABLE
    on_stable = with_cookie(cookie_of(moved))
    split.set({STABLE: 1, CANARY: 99})
    after = split.pick(on_stable)
    assert (after.pool, after.set_cookie) == (STABLE, None)


def test_a_client_stays_across_processes_that_share_a_secret() -> None:
    here = Split({STABLE: 0, CANARY: 1}, sticky=True, secret=SECRET)
    there = Split({STABLE: 1, CANARY: 1}, sticky=True, secret=["another secret, a new one", SECRET])
    on_canary = with_cookie(cookie_of(here.pick(ANYBODY)))
    assert served(there, 4, on_canary) == ["canary"] * 4
    stranger = Split({STABLE: 1, CANARY: 1}, sticky=True)
    assert Counter(served(stranger, 4, on_canary)) == {"stable": 2, "canary": 2}


@pytest.mark.parametrize(
    "value",
    [
        "canary",
        "",
        '""',
        "x" * 44,
        "x" * 8192,
        "é",
        Signer("another secret of enough bytes").issue("canary", 0.0),
        Signer(SECRET).issue("canary", 0.0)[:-1],
        Signer(SECRET).issue("other", 0.0),
        Signer(SECRET).issue("canary", 0.0, max_age=5.0),
    ],
)
def test_a_cookie_that_is_not_good_selects_nobody_and_is_replaced(value: str) -> None:
    split = Split({STABLE: 1, CANARY: 1}, sticky=True, secret=SECRET)
    routed = [split.pick(with_cookie(value), now=100.0) for _ in range(4)]
    assert Counter(one.pool.name for one in routed) == {"stable": 2, "canary": 2}
    for one in routed:
        assert split.pick(with_cookie(cookie_of(one)), now=100.0).pool is one.pool


def test_a_good_cookie_is_found_behind_one_of_another_path() -> None:
    split = Split({STABLE: 1, CANARY: 1}, sticky=True, secret=SECRET)
    good = Signer(SECRET).issue("canary", 0.0)
    assert served(split, 4, with_cookie(f"junk; LBCLIENT-SPLIT={good}")) == ["canary"] * 4
    far = "; ".join(["junk", *["LBCLIENT-SPLIT=junk"] * 50, f"LBCLIENT-SPLIT={good}"])
    assert set(served(split, 4, with_cookie(far))) == {"stable", "canary"}, "nobody makes us look for ever"


# Construction


def test_the_repr_tells_the_weights() -> None:
    assert repr(Split({STABLE: 95, CANARY: 5})) == "<Split 'stable' 95, 'canary' 5>"
    split = Split({STABLE: 0.5, CANARY: 0}, sticky=True, name="checkout")
    assert repr(split) == "<Split 'checkout': 'stable' 0.5, 'canary' 0, sticky>"
    split.set({STABLE: 1, CANARY: 1})
    assert repr(split) == "<Split 'checkout': 'stable' 1, 'canary' 1, sticky>"


def test_two_pools_of_one_name_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="two pools of a split are named 'stable'; give each"):
        Split({STABLE: 1, Pool(["http://a:1"], name="stable"): 1})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"secret": SECRET}, ValueError, "write sticky=True, or leave it out"),
        ({"sticky": True, "secret": "short"}, ValueError, "secret has 5 bytes"),
        ({"sticky": 1}, TypeError, "sticky is 1; write True or False"),
        ({"name": 7}, TypeError, "name is 7"),
        ({"cookie": "a b"}, ValueError, "cookie is 'a b'; write a cookie name"),
        ({"cookie": "a;b"}, ValueError, "cookie is 'a;b'"),
        ({"cookie": None}, TypeError, "cookie is None"),
    ],
)
def test_an_option_out_of_its_range_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Split({STABLE: 1}, **options)
