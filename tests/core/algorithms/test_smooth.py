import random
from collections import Counter
from time import perf_counter

import pytest

from lbclient.algorithms import WeightedRoundRobin
from lbclient.core.algorithms.rotation import RotationPicker
from lbclient.core.algorithms.smooth import DeadlinePicker, SchedulePicker, smooth_schedule, whole_weights
from lbclient.core.backend import BackendState
from lbclient.core.pool import Pool
from tests.core.algorithms.backends import states


def naive(weights: tuple[int, ...]) -> list[int]:
    """NGINX's loop as it is written there: a scan per pick."""
    current = [0] * len(weights)
    sequence = []
    for _ in range(sum(weights)):
        current = [have + weight for have, weight in zip(current, weights, strict=True)]
        best = current.index(max(current))
        current[best] -= sum(weights)
        sequence.append(best)
    return sequence


def test_the_schedule_is_that_of_the_scan_for_any_weights() -> None:
    rng = random.Random(8)
    for _ in range(300):
        weights = tuple(rng.choice([1, 1, 2, 3, 5, 8, 40]) for _ in range(rng.randint(1, 9)))
        assert list(smooth_schedule(weights)) == naive(weights)


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ((1.0, 2.0), (1, 2)),
        ((100.0, 300.0), (1, 3)),
        ((0.1, 0.2, 0.3), (1, 2, 3)),
        ((0.333, 1.0), (333, 1000)),
        ((1 / 3, 1 / 3), (1, 1)),
        ((1e-7, 1.0), (1, 10_000_000)),
        ((0.5,), (1,)),
    ],
)
def test_fractions_become_the_smallest_whole_weights(
    weights: tuple[float, ...], whole: tuple[int, ...]
) -> None:
    assert whole_weights(weights) == whole


@pytest.mark.parametrize("weights", [(5, 1, 1), (0.5, 0.25, 1.25), (3, 7, 2, 2)])
def test_any_window_of_a_cycle_is_exact(weights: tuple[float, ...]) -> None:
    backends = states(*weights)
    whole = whole_weights(tuple(map(float, weights)))
    for seed in range(20):
        picker = WeightedRoundRobin().build(backends, random.Random(seed))
        assert isinstance(picker, SchedulePicker)
        for _ in range(3):
            counts = Counter(backends.index(picker.pick(None)) for _ in range(sum(whole)))
            assert counts == dict(enumerate(whole))


@pytest.mark.parametrize("weights", [(1, 1_000_000), (1 / 3, 1, 0.37 * 2.1), (7, 13.123456789, 2)])
def test_a_cycle_too_long_to_write_down_is_smooth_all_the_same(weights: tuple[float, ...]) -> None:
    backends = states(*weights)
    picker = WeightedRoundRobin().build(backends, random.Random(1))
    assert isinstance(picker, DeadlinePicker)
    counts = [0] * len(weights)
    for picks in range(1, 3000):
        counts[backends.index(picker.pick(None))] += 1
        for have, weight in zip(counts, weights, strict=True):
            assert abs(have - picks * weight / sum(weights)) < 2, "never more than two turns from its share"


def test_a_million_to_one_is_exact_over_a_cycle() -> None:
    backends = states(2, 300_001)
    picker = WeightedRoundRobin().build(backends, random.Random(4))
    assert Counter(picker.pick(None).weight for _ in range(300_003)) == {2: 2, 300_001: 300_001}


def test_ten_thousand_backends_with_a_hundred_weights_are_set_up_quickly() -> None:
    backends = states(*(1 + number % 100 for number in range(10_000)))
    began = perf_counter()
    picker = WeightedRoundRobin().build(backends, random.Random(4))
    assert perf_counter() - began < 2
    picked = Counter(picker.pick(None) for _ in range(505_000))
    assert all(picked[state] == state.weight for state in backends)


def test_the_order_inside_ties_does_not_depend_on_floating_point() -> None:
    tenths = whole_weights((0.1, 0.2, 0.3, 0.7))
    assert tenths == (1, 2, 3, 7)
    assert list(smooth_schedule(tenths)) == naive((1, 2, 3, 7))


def test_a_schedule_is_computed_once_for_a_set_that_comes_back() -> None:
    backends = states(5, 1, 3)
    one, two = (WeightedRoundRobin().build(backends, random.Random(seed)) for seed in range(2))
    assert isinstance(one, SchedulePicker)
    assert isinstance(two, SchedulePicker)
    assert one._schedule is two._schedule


def test_equal_weights_need_no_schedule() -> None:
    assert isinstance(WeightedRoundRobin().build(states(3, 3), random.Random(1)), RotationPicker)


def test_a_new_weight_counts_from_the_next_pick_on() -> None:
    pool = Pool(["http://a:1", "http://b:1"], algorithm="weighted_round_robin")
    pool.pick()
    pool.set_weight("http://a:1", 9)
    assert Counter(pool.pick().backend.url for _ in range(10)) == {"http://a:1": 9, "http://b:1": 1}


def test_a_run_of_a_heavy_one_that_is_avoided_is_not_walked_through() -> None:
    backends = states(5000, 1, 3)
    picker = WeightedRoundRobin().build(backends, random.Random(1))
    picked = Counter(picker.pick_other(None, {backends[0]}) for _ in range(4000))
    assert picked[backends[2]] == pytest.approx(3000, rel=0.1)
    assert backends[0] not in picked


def test_many_clients_with_a_long_cycle_do_not_start_with_the_same_backend() -> None:
    backends = states(*[1] * 9, 1.000001)
    first: Counter[BackendState] = Counter()
    for seed in range(1000):
        picker = WeightedRoundRobin().build(backends, random.Random(seed))
        assert isinstance(picker, DeadlinePicker)
        first[picker.pick(None)] += 1
    assert max(first.values()) < 160


def test_avoiding_somebody_in_a_long_cycle_costs_the_others_no_turn() -> None:
    backends = states(*[1] * 9, 1.000001)
    picker = WeightedRoundRobin().build(backends, random.Random(1))
    assert isinstance(picker, DeadlinePicker)
    avoid = set(backends[:4])
    others = Counter(picker.pick_other(None, avoid) for _ in range(60))
    assert set(others) == set(backends[4:])
    assert max(others.values()) - min(others.values()) <= 1
    assert picker.pick_other(None, set(backends)) is None
    assert picker.pick(None) in backends
