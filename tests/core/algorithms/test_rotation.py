import random
from collections import Counter

from lbclient.algorithms import First, RoundRobin
from lbclient.core.pool import Pool
from tests.core.algorithms.backends import Dice, states


def test_a_rotation_goes_round_in_declared_order() -> None:
    backends = states(1, 1, 1)
    picker = RoundRobin().build(backends, Dice(0.5))
    assert [backends.index(picker.pick(None)) for _ in range(7)] == [1, 2, 0, 1, 2, 0, 1]


def test_a_rotation_starts_at_a_random_place_after_every_change_too() -> None:
    pool = Pool(
        ["http://a:1", "http://b:1", "http://c:1", "http://d:1"],
        algorithm="round_robin",
        rng=random.Random(3),
    )
    first: Counter[str] = Counter()
    for _ in range(400):
        pool.add("http://e:1")
        pool.remove("http://e:1")
        first[pool.pick().backend.url] += 1
    assert min(first.values()) > 70


def test_a_pick_past_the_rotation_does_not_move_it() -> None:
    pool = Pool(["http://a:1", "http://b:1", "http://c:1"], algorithm="round_robin")
    order = [pool.pick().backend.url for _ in range(3)]
    seen = []
    for url in order * 4:
        pool.pick(exclude=[other for other in order if other != order[0]])  # a session that is tied to one
        seen.append(pool.pick().backend.url)
        assert seen[-1] == url


def test_the_neighbour_of_a_backend_that_everybody_avoids_gets_no_double_share() -> None:
    backends = states(1, 1, 1, 1)
    picker = RoundRobin().build(backends, random.Random(1))
    served: Counter[int] = Counter()
    for _ in range(1200):
        state = picker.pick(None)
        if state is backends[1]:
            other = picker.pick_other(None, {backends[1]})
            assert other is not None
            state = other
        served[backends.index(state)] += 1
    assert served == {0: 400, 2: 400, 3: 400}


def test_the_first_is_picked_until_it_cannot_be() -> None:
    backends = states(1, 5, 1)
    picker = First().build(backends, random.Random(1))
    assert picker.pick(None) is backends[0]
    assert picker.pick_other(None, {backends[0]}) is backends[1]
    assert picker.drawn == 1
    assert picker.pick(b"key") is backends[0]
    assert picker.drawn == 0
