"""Estimates keep their meaning when the unit they are written in changes."""

import math
import random

import pytest

from lbclient.algorithms import Adaptive
from lbclient.core.algorithms.fading import Estimate, Fleet, estimates_of
from lbclient.testing import FakeClock
from tests.core.algorithms.backends import states


def test_estimates_of_two_sets_become_those_of_one() -> None:
    clock = FakeClock()
    slow, quick = states(1, 1, clock=clock)
    first = Adaptive().build([slow], random.Random(1))
    clock.advance(30)
    second = Adaptive().build([quick], random.Random(1))
    for _ in range(5):
        clock.advance(0.1)
        first.observed(slow, 0.05, False, clock())
        second.observed(quick, 0.05, False, clock())
    first.observed(slow, 0.05, True, clock())
    fleet, (one, two) = estimates_of("adaptive", [slow, quick], clock())
    assert one.fleet is two.fleet is fleet
    assert one.expected(clock(), fleet.grown, fleet.charge) > 5
    assert two.expected(clock(), fleet.grown, fleet.charge) == pytest.approx(1, abs=0.01)
    assert estimates_of("adaptive", [quick, slow], clock())[1] == [two, one]
    assert one.trial - fleet.turn == pytest.approx(650, rel=0.5)
    assert two.trial == math.inf


def test_a_smaller_unit_changes_no_estimate() -> None:
    (state,) = states(1)
    fleet = Fleet(0.0)
    estimate = Estimate(state, fleet)
    now, expected = 0.0, 1.0
    shrunk = 0
    for second in range(1, 400):
        before = fleet.grown
        fleet.advance(float(second))
        shrunk += fleet.grown < before
        estimate.answered(fleet.succeeded(0.01 if second % 2 else 0.03, 10.0), math.inf)
        before, now = expected, float(second)
        expected = estimate.expected(now, fleet.grown, fleet.charge)
        assert 0.5 < expected < 1.5
        assert fleet.units_at(now - 1) == (fleet.grown, fleet.charge)
    assert shrunk == 1


def test_everything_is_forgotten_towards_the_mean() -> None:
    (state,) = states(1)
    fleet = Fleet(0.0)
    estimate = Estimate(state, fleet)
    fleet.succeeded(0.01, 10.0)
    estimate.failed(50.0, 1000.0, 0.0)
    assert estimate.expected(0.0, fleet.grown, fleet.charge) == 25.5
    assert estimate.expected(60.0, *fleet.units_at(60.0)) == pytest.approx(1)
    assert fleet.grown == 1


def test_sparse_answers_are_remembered_longer_than_failures() -> None:
    slow, failing = states(1, 1)
    fleet, (one, two) = estimates_of("adaptive", [slow, failing], 0.0)
    now = 0.0
    for _ in range(60):  # a pick every ten seconds: a round takes twenty
        now += 10.0
        fleet.advance(now)
        fleet.picked(now)
        one.answered(fleet.succeeded(0.01, 10.0) * 3, math.inf)
    two.failed(50.0, 1000.0, now)
    assert one.failing(fleet.grown, fleet.charge) == 0
    assert two.failing(fleet.grown, fleet.charge) == 1
    units = fleet.units_at(now + 20)
    assert one.expected(now + 20, *units) > 2
    assert two.expected(now + 20, *units) == pytest.approx(1, abs=0.01)


def test_units_of_failures_are_renewed_alone() -> None:
    (state,) = states(1)
    fleet, (estimate,) = estimates_of("adaptive", [state], 0.0)
    renewed = 0
    for second in range(1, 400):
        now = second * 10.0
        before = fleet.charge
        fleet.advance(now)
        renewed += fleet.charge < before
        fleet.picked(now)
        estimate.failed(50.0, 1000.0, 0.0)
        assert 20 < estimate.expected(now, fleet.grown, fleet.charge) < 210
    assert renewed > 10
    assert fleet.grown > 1


def test_failures_in_a_row_outweigh_a_long_good_past() -> None:
    (state,) = states(1)
    fleet, (estimate,) = estimates_of("adaptive", [state], 0.0)
    for _ in range(100):
        estimate.answered(fleet.succeeded(0.01, 10.0), math.inf)
    costs: list[float] = []
    for _ in range(5):
        estimate.failed(50.0, 1000.0, 0.0)
        costs.append(estimate.charged)
    assert costs == [50, 150, 300, 500, 700]
    estimate.answered(fleet.succeeded(0.01, 10.0), math.inf)
    estimate.failed(50.0, 1000.0, 0.0)
    assert estimate.charged == 750


def test_of_sparse_answers_a_failure_leaves_few() -> None:
    (state,) = states(1)
    fleet, (estimate,) = estimates_of("adaptive", [state], 0.0)
    for second in range(20):
        fleet.advance(second * 10.0)
        fleet.picked(second * 10.0)
        estimate.answered(fleet.succeeded(0.01, 10.0), math.inf)
    assert fleet.is_sparse
    assert estimate.count > 3 * fleet.grown
    estimate.failed(50.0, 1000.0, 0.0)
    assert estimate.count == 2 * fleet.grown
    assert estimate.expected(190.0, fleet.grown, fleet.charge) > 10


def test_whoever_fails_again_after_long_is_charged_for_both() -> None:
    (state,) = states(1)
    fleet, (estimate,) = estimates_of("adaptive", [state], 0.0)
    estimate.failed(50.0, 1000.0, 0.0)
    fleet.advance(20.0)
    estimate.failed(50.0, 1000.0, 0.0)
    assert estimate.charged / fleet.charge == pytest.approx(100, rel=0.01)
    assert estimate.trial == 2000


def test_the_scatter_of_answers_is_their_standard_deviation_in_means() -> None:
    fleet = Fleet(0.0)
    for _ in range(2000):
        fleet.succeeded(0.01, 10.0)
        fleet.succeeded(0.03, 10.0)
    assert fleet.scatter == pytest.approx(0.5, rel=0.01)
    nothing = Fleet(0.0)
    nothing.succeeded(0.0, 10.0)
    assert nothing.scatter == 1


def test_a_smaller_unit_changes_no_scatter() -> None:
    fleet = Fleet(0.0)
    for second in range(1, 400):
        fleet.advance(float(second))
        for seconds in (0.01, 0.03) * 20:
            fleet.succeeded(seconds, 10.0)
        assert second < 10 or fleet.scatter == pytest.approx(0.5, rel=0.1)
