import random
from collections import Counter
from typing import Any

import pytest

from lbclient.algorithms import LeastResponseTime, PeakEWMA
from lbclient.core.algorithms.latency import peak_ewma
from lbclient.core.backend import BackendState
from lbclient.testing import FakeClock
from tests.core.algorithms.backends import end, start, states

BOTH = pytest.mark.parametrize(
    "algorithm", [PeakEWMA(), LeastResponseTime()], ids=["peak_ewma", "least_response_time"]
)


def build(
    algorithm: Any, *weights: float, latencies: tuple[float, ...] = ()
) -> tuple[Any, list[Any], FakeClock]:
    clock = FakeClock()
    backends = states(*weights, clock=clock)
    picker = algorithm.build(backends, random.Random(6))
    for state, latency in zip(backends, latencies, strict=False):
        for _ in range(30):
            picker.observed(state, latency, False, clock())
    return picker, backends, clock


@BOTH
def test_the_faster_one_is_picked(algorithm: Any) -> None:
    picker, backends, _ = build(algorithm, 1, 1, latencies=(0.1, 0.01))
    assert {picker.pick(None) for _ in range(50)} == {backends[1]}


@BOTH
def test_in_flight_is_part_of_the_cost_so_that_a_burst_does_not_herd(algorithm: Any) -> None:
    picker, backends, _ = build(algorithm, 1, 1, 1, latencies=(0.010, 0.012, 0.014))
    burst = Counter(start(picker, picker.pick(None)) for _ in range(30))
    assert max(burst.values()) < 15
    assert burst[backends[0]] >= burst[backends[2]]


@BOTH
def test_without_samples_a_backend_gets_one_request_at_a_time(algorithm: Any) -> None:
    picker, backends, clock = build(algorithm, 1, 1, 1, latencies=(0.01, 0.01))
    burst = Counter(start(picker, picker.pick(None)) for _ in range(60))
    assert burst[backends[2]] == 1
    picker.observed(backends[2], 0.01, False, clock())
    assert backends[2] in {start(picker, picker.pick(None)) for _ in range(60)}


@BOTH
def test_without_samples_a_light_backend_gets_one_request_at_a_time(algorithm: Any) -> None:
    picker, backends, _ = build(algorithm, 9, 1, 1, latencies=())
    picker.observed(backends[1], 0.01, False, 0.0)
    burst = Counter(start(picker, picker.pick(None)) for _ in range(30))
    assert burst[backends[0]] == 1
    assert burst[backends[2]] <= 1


@BOTH
def test_a_burst_before_the_first_answer_asks_a_few_of_ten_thousand(
    algorithm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    picker, backends, _ = build(algorithm, *[1] * 10_000)
    for state in backends:
        start(picker, state)
    asked = 0
    cost = type(picker)._cost

    def spy(self: Any, index: int, now: float) -> float:
        nonlocal asked
        asked += 1
        return float(cost(self, index, now))

    monkeypatch.setattr(type(picker), "_cost", spy)
    picker.pick(None)
    assert asked <= 18


@BOTH
def test_when_nobody_has_samples_a_burst_is_spread(algorithm: Any) -> None:
    picker, _, _ = build(algorithm, 1, 1, 1)
    burst = Counter(start(picker, picker.pick(None)) for _ in range(30))
    assert (
        set(burst.values()) == {10} if isinstance(algorithm, LeastResponseTime) else min(burst.values()) > 6
    )


@BOTH
def test_an_idle_slow_backend_is_looked_at_again_with_one_request(algorithm: Any) -> None:
    picker, backends, clock = build(algorithm, 1, 1, latencies=(0.3, 0.01))
    waited = 0
    while True:
        state = start(picker, picker.pick(None))
        if state is backends[0]:
            break
        clock.advance(0.01)
        picker.observed(state, 0.01, False, clock())
        end(picker, state)
        clock.advance(1)
        waited += 1
        assert waited < 120
    assert waited > 5
    assert {start(picker, picker.pick(None)) for _ in range(5)} == {backends[1]}, "one look, not a stampede"


@BOTH
def test_a_fast_failure_never_attracts_traffic(algorithm: Any) -> None:
    picker, backends, clock = build(algorithm, 1, 1, latencies=(0.01, 0.01))
    for _ in range(3):
        picker.observed(backends[0], 0.0001, True, clock())
    assert {picker.pick(None) for _ in range(50)} == {backends[1]}


@BOTH
def test_a_failure_before_anybody_answered_is_charged_too(algorithm: Any) -> None:
    picker, backends, clock = build(algorithm, 1, 1)
    picker.observed(backends[0], 0.0001, True, clock())
    picker.observed(backends[1], 0.2, False, clock())
    assert {picker.pick(None) for _ in range(50)} == {backends[1]}


@BOTH
def test_a_slow_failure_costs_what_it_took(algorithm: Any) -> None:
    picker, backends, clock = build(algorithm, 1, 1)
    picker.observed(backends[0], 60.0, True, clock())
    assert picker._estimates[0].seconds == 60.0


@BOTH
def test_costs_that_are_alike_leave_the_shares_at_the_weights(algorithm: Any) -> None:
    picker, backends, _ = build(algorithm, 3, 1, latencies=(0.01, 0.01))
    picked = Counter(picker.pick(None) for _ in range(8000))
    assert picked[backends[0]] / 8000 == pytest.approx(0.75, abs=0.02)


@BOTH
def test_a_weight_divides_what_is_in_flight(algorithm: Any) -> None:
    picker, backends, _ = build(algorithm, 4, 1, latencies=(0.01, 0.01))
    burst = Counter(start(picker, picker.pick(None)) for _ in range(50))
    assert burst[backends[0]] == pytest.approx(40, abs=4)


@BOTH
def test_news_of_backends_of_another_set_is_ignored(algorithm: Any) -> None:
    picker, backends, _ = build(algorithm, 1)
    stranger = states(1)[0]
    start(picker, stranger)
    picker.observed(stranger, 0.001, False, 0.0)
    assert picker.pick(None) is backends[0]
    assert not stranger.memory


@BOTH
def test_two_algorithms_of_one_backend_do_not_share_their_memory(algorithm: Any) -> None:
    clock = FakeClock()
    backends = states(1, clock=clock)
    backends[0].memory["peak_ewma"] = backends[0].memory["least_response_time"] = "somebody else's"
    picker: Any = algorithm.build(backends, random.Random(1))
    picker.observed(backends[0], 0.01, False, clock())
    again: Any = algorithm.build(backends, random.Random(1))
    assert again._estimates[0] is picker._estimates[0]
    assert sum(value != "somebody else's" for value in backends[0].memory.values()) == 1


def test_a_peak_is_believed_at_once_and_forgotten_bit_by_bit() -> None:
    assert peak_ewma(0.010, 0.5, 1.0, 10.0) == 0.5
    assert peak_ewma(0.5, 0.010, 0.0, 10.0) == 0.5
    assert 0.4 < peak_ewma(0.5, 0.010, 1.0, 10.0) < 0.5
    assert peak_ewma(0.5, 0.010, 200.0, 10.0) == pytest.approx(0.010, rel=0.01)


def test_a_first_answer_that_was_slow_by_chance_is_not_held_against_a_backend() -> None:
    picker, backends, clock = build(LeastResponseTime(), 1, 1, latencies=(0.02,))
    picker.observed(backends[1], 0.06, False, clock())
    picks: Counter[BackendState] = Counter()
    for _ in range(2000):
        state = start(picker, picker.pick(None))
        picks[state] += 1
        clock.advance(0.02)
        picker.observed(state, 0.02, False, clock())
        end(picker, state)
    assert picks[backends[1]] > 300


def test_of_many_backends_a_window_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    picker, _, _ = build(LeastResponseTime(), *[1] * 200, latencies=(0.02,) * 200)
    looked: list[int] = []
    original = type(picker)._cost

    def cost(self: Any, index: int, now: float) -> float:
        looked.append(index)
        return float(original(self, index, now))

    monkeypatch.setattr(type(picker), "_cost", cost)
    picker.pick(None)
    assert len(set(looked)) == 16


@pytest.mark.parametrize("kind", [PeakEWMA, LeastResponseTime])
@pytest.mark.parametrize("tau", [0, -1, 1e9, float("nan")])
def test_tau_out_of_its_range_is_refused(kind: Any, tau: float) -> None:
    with pytest.raises(ValueError, match=r"tau is .*; write a number from 0\.001 to 86400"):
        kind(tau=tau)


def test_an_estimate_without_a_mean_of_the_pool_stands_alone() -> None:
    picker, backends, clock = build(LeastResponseTime(), 1, 1)
    picker.observed(backends[0], 0.01, True, clock())
    assert picker.pick(None) is backends[1]
    start(picker, backends[1])
    assert picker.pick(None) is backends[0]
