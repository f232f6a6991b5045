"""The retry budget: Finagle's arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from lbclient import RetryBudget
from lbclient.core.budget import Budget
from lbclient.testing import FakeClock


def budget(**policy: float) -> tuple[Budget, FakeClock]:
    clock = FakeClock()
    return Budget(RetryBudget(**policy), clock), clock


def withdrawals(budget: Budget) -> int:
    """How many are allowed right now; takes them all."""
    count = 0
    while budget.withdraw():
        count += 1
    return count


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.5, 0.75, 0.9, 1, 2, 10])
def test_the_share_is_exact(ratio: float) -> None:
    live, _ = budget(ratio=ratio, min_per_second=0)
    for _ in range(1000):
        live.deposit()
    assert withdrawals(live) == pytest.approx(1000 * ratio, rel=0.002)
    assert live.left == 0


def test_the_reserve_lets_a_quiet_client_retry() -> None:
    live, _ = budget(ratio=0.2, min_per_second=3, window=10)
    assert live.left == 30
    assert withdrawals(live) == 30


def test_without_a_share_there_is_the_reserve_alone() -> None:
    live, _ = budget(ratio=0, min_per_second=1, window=5)
    for _ in range(1000):
        live.deposit()
    assert withdrawals(live) == 5


def test_requests_are_forgotten_after_the_window() -> None:
    live, clock = budget(ratio=1, min_per_second=0, window=10)
    for _ in range(10):
        live.deposit()
        clock.advance(1)
    assert 9 <= live.left <= 10
    clock.advance(5)
    assert 4 <= live.left <= 5
    clock.advance(5)
    assert live.left == 0


def test_a_long_silence_forgets_everything_once() -> None:
    live, clock = budget(ratio=1, min_per_second=0, window=10)
    for _ in range(100):
        live.deposit()
    clock.advance(1e6)
    assert live.left == 0
    live.deposit()
    assert live.left == 1


def test_what_the_reserve_gave_comes_back_after_the_window() -> None:
    live, clock = budget(ratio=0.1, min_per_second=1, window=10)
    assert withdrawals(live) == 10
    clock.advance(9)
    assert withdrawals(live) == 0
    clock.advance(1.1)
    assert withdrawals(live) == 10


def test_under_steady_load_retries_never_exceed_share_and_floor() -> None:
    live, clock = budget()
    retries = 0
    for _ in range(60_000):  # 1000 a second for a minute, and a retry wanted for each
        live.deposit()
        retries += live.withdraw()
        clock.advance(0.001)
    assert retries <= 60_000 * 0.2 + 10 * 70
    assert repr(live) == f"<Budget, {live.left} retries left>"


@pytest.mark.parametrize(
    "arguments",
    [{"ratio": -0.1}, {"ratio": float("inf")}, {"ratio": "0.2"}, {"min_per_second": -1}, {"window": 0}],
)
def test_out_of_range_is_refused_in_words(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r" is .*; write "):
        RetryBudget(**arguments)
