import random
from collections import Counter

import pytest

from lbclient.algorithms import PowerOfTwoChoices
from lbclient.core.algorithms.two_choices import Pairs, TwoChoicesPicker, WeightedTwoChoicesPicker
from lbclient.core.backend import BackendState
from tests.core.algorithms.backends import Dice, end, start, states


def test_the_two_are_distinct() -> None:
    backends = states(1, 1, in_flight=(1, 0))
    picker = PowerOfTwoChoices().build(backends, random.Random(1))
    assert {picker.pick(None) for _ in range(200)} == {backends[1]}, "of two, both are always seen"


def test_every_pair_is_as_likely_as_the_other() -> None:
    rng = random.Random(2)
    pairs = Counter(Pairs((1.0,) * 5).pair(rng.random()) for _ in range(40_000))
    assert len(pairs) == 20
    assert min(pairs.values()) > 1800
    assert max(pairs.values()) < 2200


@pytest.mark.parametrize("weights", [(99, 1), (3, 1), (1, 2, 3, 4), (10, 1, 1, 1)])
@pytest.mark.parametrize("concurrency", [1, 40])
def test_shares_are_the_weights_idle_and_busy(weights: tuple[int, ...], concurrency: int) -> None:
    backends = states(*weights)
    rng = random.Random(3)
    picker = PowerOfTwoChoices().build(backends, rng)
    running: list[BackendState] = []
    picked: Counter[BackendState] = Counter()
    for _ in range(40_000):
        if len(running) == concurrency:
            end(picker, running.pop(rng.randrange(concurrency)))
        state = start(picker, picker.pick(None))
        picked[state] += 1
        running.append(state)
    for state in backends:
        share = picked[state] / 40_000
        assert share == pytest.approx(state.weight / sum(weights), rel=0.1, abs=0.004)


def test_ninety_nine_per_cent_means_ninety_nine() -> None:
    backends = states(99, 1)
    picker = PowerOfTwoChoices().build(backends, random.Random(4))
    picked = Counter(picker.pick(None) for _ in range(50_000))
    assert picked[backends[0]] / 50_000 == pytest.approx(0.99, abs=0.003)
    assert picked[backends[1]] > 300, "and the light one is not starved"


def test_the_weight_divides_the_load_that_is_compared() -> None:
    backends = states(4, 1, in_flight=(3, 1))
    picker = PowerOfTwoChoices().build(backends, random.Random(4))
    assert {picker.pick(None) for _ in range(200)} == {backends[0]}, "3/4 is less than 1"


def test_a_tie_keeps_the_first_drawn() -> None:
    backends = states(1, 1, 1, 1)
    assert TwoChoicesPicker(backends, Dice(0.25)).pick(None) is backends[1]
    assert TwoChoicesPicker(backends, Dice(0.99)).pick(None) is backends[3]


def test_the_last_number_a_draw_can_be_is_a_pair() -> None:
    almost_one = 1 - 2**-53
    for weights in [(1.0,), (1.0, 1.0), (0.7, 0.2, 0.1), (1e-9, 1.0), (1.0,) * 8193]:
        for drawn in (0.0, almost_one):
            first, second = Pairs(weights).pair(drawn)
            assert 0 <= first < len(weights)
            assert 0 <= second < len(weights)
        picker = PowerOfTwoChoices().build(states(*weights), Dice(almost_one, 0.0))
        assert picker.pick(None).in_flight == picker.pick(None).in_flight == 0


def test_another_pick_looks_at_the_load_too() -> None:
    backends = states(1, 1, 1, 1, 1, 1, in_flight=(0, 9, 9, 9, 9, 0))
    for picker in (TwoChoicesPicker(backends, Dice()), WeightedTwoChoicesPicker(backends, Dice())):
        picked = Counter(picker.pick_other(None, {backends[0]}) for _ in range(3000))
        assert backends[0] not in picked
        assert picked[backends[5]] > 1.5 * 600
