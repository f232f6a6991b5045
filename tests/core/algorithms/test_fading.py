"""Estimates keep their meaning when the unit they are written in changes."""

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
    assert one.expected(clock(), fleet.grown) > 5
    assert two.expected(clock(), fleet.grown) == pytest.approx(1, abs=0.01)
    assert estimates_of("adaptive", [quick, slow], clock())[1] == [two, one]


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
        estimate.answered(fleet.succeeded(0.01 if second % 2 else 0.03, 10.0))
        before, now = expected, float(second)
        expected = estimate.expected(now, fleet.grown)
        assert 0.5 < expected < 1.5
        assert fleet.grown_by(now - 1) == fleet.grown
    assert shrunk == 1


def test_everything_is_forgotten_towards_the_mean() -> None:
    (state,) = states(1)
    fleet = Fleet(0.0)
    estimate = Estimate(state, fleet)
    fleet.succeeded(0.01, 10.0)
    estimate.charge(50.0)
    assert estimate.expected(0.0, fleet.grown) == 25.5
    assert estimate.expected(60.0, fleet.grown_by(60.0)) == pytest.approx(1)
    assert fleet.grown == 1
