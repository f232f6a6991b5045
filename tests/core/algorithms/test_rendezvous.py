import math
import random
from collections import Counter

import pytest

from lbclient.algorithms import Rendezvous
from lbclient.core.algorithms.rendezvous import _MANY, _PRIME, RendezvousLots, score
from lbclient.core.hashing import stable64
from tests.core.algorithms.backends import states


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 3, 4), (99, 1), (1,) * 30])
def test_shares_are_the_weights(weights: tuple[float, ...]) -> None:
    backends = states(*weights)
    picker = Rendezvous().build(backends, random.Random(1))
    picked = Counter(picker.pick(b"user-%d" % number) for number in range(60_000))
    for state in backends:
        assert picked[state] / 60_000 == pytest.approx(state.weight / sum(weights), rel=0.08)


def test_the_keys_of_one_that_leaves_are_shared_by_all_others() -> None:
    lots = RendezvousLots([f"10.0.0.{number}:80" for number in range(6)], [1.0] * 6)
    rng = random.Random(1)
    heirs: Counter[int] = Counter()
    for hashed in (rng.getrandbits(64) for _ in range(60_000)):
        first, second, *_ = lots.walk(hashed)
        if first == 2:
            heirs[second] += 1
    for heir in (0, 1, 3, 4, 5):
        assert heirs[heir] == pytest.approx(2000, rel=0.1)


def test_a_score_grows_with_the_lot_and_with_the_weight() -> None:
    assert score(0.2, 1) < score(0.3, 1) < score(0.3, 2) < score(0.9, 2)
    assert score(1.0, 1) == math.inf


@pytest.mark.parametrize("count", [1, 2, _MANY - 1, _MANY, 1000])
def test_a_long_number_draws_the_lots_that_many_short_ones_would(count: int) -> None:
    rng = random.Random(count)
    names = [f"10.0.{number >> 8}.{number & 255}:80" for number in range(count)]
    lots = RendezvousLots(names, [1.0] * count)
    seeds = [stable64(name.encode()) % (_PRIME - 1) + 1 for name in names]
    for hashed in [
        0,
        1,
        _PRIME - 2,
        _PRIME - 1,
        _PRIME,
        2**64 - 1,
        *(rng.getrandbits(64) for _ in range(50)),
    ]:
        each = [seed * (hashed % (_PRIME - 1) + 1) % _PRIME for seed in seeds]
        assert list(lots._lots(hashed)) == each
        assert lots.find(hashed) == each.index(max(each))


def test_a_lane_holds_the_largest_product() -> None:
    lots = RendezvousLots([str(number) for number in range(_MANY)], [1.0] * _MANY)
    lots._seeds = [_PRIME - 1 - number for number in range(_MANY)]
    lots._lanes = sum(seed << 128 * place for place, seed in enumerate(lots._seeds))
    largest = _PRIME - 2  # as a hash: the key is one more
    assert list(lots._lots(largest)) == [seed * (_PRIME - 1) % _PRIME for seed in lots._seeds]


@pytest.mark.parametrize("hashed", [0, 12345, _PRIME - 3])
def test_weights_score_as_they_are_said_to(hashed: int) -> None:
    lots = RendezvousLots(["a", "b", "c"], [1.0, 2.0, 0.5])
    lots._seeds = [1, 12345, 2**60]  # 1 times the greatest key rounds to a lot of 1
    expected = [
        score(lot / _PRIME, weight) for lot, weight in zip(lots._lots(hashed), (1, 2, 0.5), strict=True)
    ]
    assert list(lots._scores(hashed)) == expected
    assert (math.inf in expected) == (hashed == _PRIME - 3)
