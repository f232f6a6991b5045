"""What a fork does, without forking: tests/lifecycles forks."""

from __future__ import annotations

import random

from lbclient import Pool
from lbclient.core import forking
from lbclient.testing import FakeClock


def a_fork() -> None:
    """What the child sees of one."""
    forking._before()
    forking._in_the_child()


def test_locks_are_taken_before_and_free_after() -> None:
    first, second = forking.new_lock(), forking.new_lock()
    forking._before()
    assert first.locked()
    assert second.locked()
    forking._let_go()
    assert not first.locked()
    assert not second.locked()


def test_a_lock_that_cannot_be_had_is_left_as_it_is() -> None:
    lock, other = forking.new_lock(), forking.new_lock()
    with lock:
        a_fork()
        assert lock.locked()
    assert not other.locked()


def test_what_is_in_flight_is_the_parents() -> None:
    pool = Pool(["http://a", "http://b"], max_in_flight=1, max_pending=5, retry=None)
    assert pool.queue is not None
    mine = pool.pick()
    place = pool.queue.join(lambda: None)
    a_fork()
    assert [one.in_flight for one in pool.status().backends] == [0, 0]
    assert len(pool.queue) == 0
    with pool.pick(), pool.pick():
        mine.release()
        assert [one.in_flight for one in pool.status().backends] == [1, 1]
        assert pool._in_flight == 2
    pool.queue.leave(place)
    assert pool._in_flight == 0
    assert not mine.open


def test_dice_fall_differently_except_the_callers_own() -> None:
    pool = Pool(["http://a", "http://b"])
    before = random.Random(pool.seed).random()
    a_fork()
    assert random.Random(pool.seed).random() == pool.rng.random() != before
    own = random.Random(1)
    pool = Pool(["http://a", "http://b"], rng=own)
    state = own.getstate()
    a_fork()
    assert pool.rng is own
    assert pool.seed is None
    assert Pool(["http://a"], rng=random.Random(1)).rng.random() == random.Random(1).random()
    assert state[0] == own.getstate()[0]


def test_what_is_known_of_the_backends_stays_known() -> None:
    clock = FakeClock()
    pool = Pool(["http://a", "http://b", "http://c"], clock=clock, algorithm="round_robin")
    pool.report_probe("http://a", False)
    pool.disable("http://b")
    pool.set_weight("http://c", 0.5)
    a_fork()
    status = pool.status().backends
    assert [(one.check, one.admin, one.weight) for one in status] == [
        ("failing", "active", 1),
        ("unknown", "disabled", 1),
        ("unknown", "active", 0.5),
    ]
    assert pool.pick().backend.url == "http://c"
