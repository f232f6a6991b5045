"""Hedging: when a copy is due, and when copies are not worth it."""

from __future__ import annotations

from typing import Any

import pytest

from lbclient import Hedge
from lbclient.core.hedging import COPIES_JUDGED, ENOUGH, GENERATION, PAUSE, Hedging, Latencies
from lbclient.testing import FakeClock


def hedging(*policy: Any, **options: Any) -> tuple[Hedging, FakeClock]:
    clock = FakeClock()
    return Hedging(Hedge(*policy, **options), clock), clock


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 0.5), (0.95, 0.95), (0.99, 0.99)])
def test_percentiles_are_exact_to_a_bucket(share: float, seconds: float) -> None:
    latencies = Latencies()
    for n in range(GENERATION):
        latencies.add((n + 1) / GENERATION)
    assert latencies.quantile(share) == pytest.approx(seconds, rel=0.1)


def test_the_shortest_and_the_longest_have_a_bucket_too() -> None:
    latencies = Latencies()
    for seconds in (0.0, 1e-9, 1e9) * ENOUGH:
        latencies.add(seconds)
    assert latencies.quantile(0.5) == pytest.approx(1e-4)
    assert (latencies.quantile(0.9) or 0) > 1000


def test_of_few_latencies_nothing_is_said() -> None:
    live, _ = hedging("p95")
    for _ in range(ENOUGH - 1):
        live.observed(0.01)
    assert live.delay() is None
    live.observed(0.01)
    assert live.delay() == pytest.approx(0.01, rel=0.1)


def test_old_latencies_are_forgotten() -> None:
    latencies = Latencies()
    for seconds in (1.0, 0.01, 0.01):
        for _ in range(GENERATION):
            latencies.add(seconds)
    assert latencies.quantile(0.99) == pytest.approx(0.01, rel=0.1)


def test_a_delay_in_seconds_needs_no_latencies() -> None:
    live, _ = hedging(0.2)
    assert live.delay() == 0.2
    for _ in range(GENERATION):
        live.observed(0.01)
    assert live.delay() == 0.2


def test_copies_are_a_share_of_the_requests() -> None:
    live, _ = hedging(0.2, budget=0.02)
    copies = 0
    for _ in range(1000):
        live.delay()
        copies += live.withdraw()
    assert copies == 20


def test_copies_that_rarely_win_are_switched_off_for_a_while() -> None:
    live, clock = hedging(0.2, budget=1)
    live.delay()
    for n in range(COPIES_JUDGED):
        assert live.delay() is not None
        live.ended(won=n == 0)
    assert live.delay() is None
    assert not live.withdraw()
    assert repr(live) == "<Hedging off for 30 s>"
    clock.advance(PAUSE)
    assert live.delay() == 0.2
    live.ended(won=False)
    assert live.delay() is not None, "the count begins anew"
    assert repr(live) == "<Hedging after 0.2 s>"


def test_copies_that_win_go_on() -> None:
    live, _ = hedging(0.2, budget=1)
    for n in range(COPIES_JUDGED * 3):
        live.ended(won=n % 4 == 0)
    assert live.delay() == 0.2


def test_a_pool_that_has_become_slow_is_not_given_more_work() -> None:
    live, clock = hedging(0.2, budget=1)
    for _ in range(GENERATION):
        live.observed(0.01)
    assert live.delay() is not None
    for _ in range(GENERATION):
        live.observed(0.03)
    assert live.delay() is None
    clock.advance(PAUSE)
    assert live.delay() is not None


@pytest.mark.parametrize(
    "arguments",
    [
        {"delay": "95"},
        {"delay": "p"},
        {"delay": "p100"},
        {"delay": "p10"},
        {"delay": 0},
        {"delay": None},
        {"budget": 1.5},
        {"methods": "GET"},
        {"methods": ["get"]},
    ],
)
def test_out_of_range_is_refused_in_words(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r" is .*; write "):
        Hedge(**arguments)
