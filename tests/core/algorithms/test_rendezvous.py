import math
import random
from collections import Counter

import pytest

from lbclient.algorithms import Rendezvous
from lbclient.core.algorithms.rendezvous import RendezvousLots, score
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
