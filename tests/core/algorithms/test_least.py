import random
from collections import Counter
from typing import Any

import pytest

from lbclient.algorithms import LeastConnections
from lbclient.core.algorithms.least import LeastConnectionsPicker, WeightedLeastConnectionsPicker
from lbclient.core.backend import BackendState
from tests.core.algorithms.backends import Dice, end, start, states


@pytest.mark.parametrize("weights", [[1] * 6, [1, 2, 3, 1, 2, 0.5], [1 + number % 7 for number in range(40)]])
def test_it_is_always_one_with_the_least_load(weights: list[float]) -> None:
    backends = states(*weights)
    rng = random.Random(5)
    picker: Any = LeastConnections().build(backends, rng)
    running: list[BackendState] = []
    for _ in range(6000):
        if running and rng.random() < 0.48:
            end(picker, running.pop(rng.randrange(len(running))))
        else:
            # a fifth of the tickets is taken past the picker, as sticky sessions are
            state = rng.choice(backends) if rng.random() < 0.2 else picker.pick(None)
            running.append(start(picker, state))
        least = min(state.in_flight / state.weight for state in backends)
        picked = picker.pick(None)
        assert picked.in_flight / picked.weight == least
        avoid = set(rng.sample(backends, 3))
        other = picker.pick_other(None, avoid)
        assert other.in_flight / other.weight == min(
            s.in_flight / s.weight for s in backends if s not in avoid
        )


def test_ties_are_drawn_and_not_always_the_first() -> None:
    backends = states(*[1] * 5)
    picker = LeastConnections().build(backends, random.Random(1))
    picked = Counter(picker.pick(None) for _ in range(5000))
    assert min(picked.values()) > 850


@pytest.mark.parametrize("count", [4, 400])
def test_ties_of_idle_backends_are_drawn_by_weight(count: int) -> None:
    backends = states(*[1, 2, 3, 4] * (count // 4))
    picker = LeastConnections().build(backends, random.Random(1))
    picked = Counter(picker.pick(None).weight for _ in range(20_000))
    for weight in (1, 2, 3, 4):
        assert picked[weight] == pytest.approx(2000 * weight, rel=0.1)


def test_a_large_group_of_light_ones_among_busy_heavy_ones_is_still_drawn_from() -> None:
    backends = states(*[1000] * 4, *[1] * 30, *[2] * 30)
    picker: Any = LeastConnections().build(backends, random.Random(1))
    for state in backends[:4]:
        start(picker, state)
    picked = Counter(picker.pick(None) for _ in range(6000))
    assert set(picked) == set(backends[4:])


def test_the_busier_of_two_does_not_get_a_quarter_of_the_traffic() -> None:
    backends = states(1, 1)
    picker: Any = LeastConnections().build(backends, random.Random(1))
    start(picker, backends[0])
    for _ in range(100):
        assert picker.pick(None) is backends[1]
        end(picker, start(picker, backends[1]))


def test_groups_start_from_what_is_in_flight_when_the_picker_is_built() -> None:
    for weights in ((1, 1, 1), (2, 1, 1)):
        backends = states(*weights, in_flight=(7, 3, 4))
        assert LeastConnections().build(backends, random.Random(1)).pick(None) is backends[1]


def test_tickets_on_backends_of_another_set_are_ignored() -> None:
    for weights in ((1, 1), (2, 1)):
        picker: Any = LeastConnections().build(states(*weights), random.Random(1))
        stranger = states(1)[0]
        end(picker, start(picker, stranger))
        assert picker.pick(None) is not stranger


def test_loads_that_nobody_has_any_more_are_forgotten() -> None:
    backends = states(1, 1.5)
    picker = LeastConnections().build(backends, random.Random(1))
    assert isinstance(picker, WeightedLeastConnectionsPicker)
    for _ in range(500):
        start(picker, backends[0])
    for _ in range(500):
        end(picker, backends[0])
    assert len(picker._heap) < 30
    assert len(picker._groups) < 30


def test_equal_weights_take_the_simple_way() -> None:
    assert isinstance(LeastConnections().build(states(2.5, 2.5), random.Random(1)), LeastConnectionsPicker)


def test_a_draw_that_rounding_leaves_to_nobody_goes_to_the_last_one() -> None:
    backends = states(1, 2, 3)
    picker: Any = LeastConnections().build(backends, Dice())
    assert isinstance(picker, WeightedLeastConnectionsPicker)
    picker._random = lambda: 1.0
    assert picker._weigh(picker._order).state is backends[-1]
