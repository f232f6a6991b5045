import random
from collections import Counter

import pytest

from lbclient.algorithms import Random, WeightedRandom
from lbclient.core.algorithms.sampling import AliasTable, RandomPicker, weighted_rest
from tests.core.algorithms.backends import Dice, states


@pytest.mark.parametrize(
    "weights",
    [(1.0,), (3.0, 1.0), (1.0, 2.0, 3.0, 4.0), (99.0, 1.0), (1e-9, 1.0), (0.1,) * 7, (1e308, 1e308, 5e307)],
)
def test_the_lots_of_an_alias_table_add_up_to_the_weights(weights: tuple[float, ...]) -> None:
    table = AliasTable(weights)
    lots = [0.0] * len(weights)
    for index, (own, other) in enumerate(zip(table.own, table.other, strict=True)):
        lots[index] += own
        lots[other] += 1 - own
    heaviest = max(weights)
    total = sum(weight / heaviest for weight in weights)
    for lot, weight in zip(lots, weights, strict=True):
        assert lot == pytest.approx(len(weights) * (weight / heaviest) / total, abs=1e-9)


def test_the_ends_of_the_draw_belong_to_somebody() -> None:
    almost_one = 1 - 2**-53
    for count in (1, 3, 7, 8193, 10_000):
        picker = Random().build(states(*[1] * count), Dice(0.0, almost_one))
        assert picker.pick(None) is picker._states[0]
        assert picker.pick(None) is picker._states[-1]
    table = AliasTable((3.0, 1.0, 2.0))
    assert {table.index(0.0), table.index(almost_one)} <= {0, 1, 2}


def test_equal_weights_need_no_table() -> None:
    assert isinstance(WeightedRandom().build(states(2, 2), random.Random(1)), RandomPicker)


def test_the_rest_is_weighed() -> None:
    backends = states(1, 2, 3)
    rng = random.Random(1)
    picked = Counter(weighted_rest(backends, {backends[0]}, rng.random()) for _ in range(5000))
    assert picked[backends[1]] == pytest.approx(2000, rel=0.1)
    assert weighted_rest(backends, {backends[0]}, 1.0) is backends[2], "rounding up leaves nobody out"
    assert weighted_rest(backends, backends, 0.5) is None
