"""Passive and active health, on the virtual clock, through the pool that decides with it."""

from __future__ import annotations

import random

import pytest

from lbclient import NoBackendAvailable, PassiveHealth, TcpProbe
from lbclient.core.health import Check, Health, Passive, Window
from tests.core.pools import A, B, C, eject, fail, make_pool, of, others, shares, succeed

# Ejection


def test_five_failures_in_a_row_eject_and_four_do_not() -> None:
    pool, _ = make_pool()
    fail(pool, A, 4)
    assert not of(pool, A).ejected
    fail(pool, A)
    assert of(pool, A).ejected
    assert not of(pool, A).available
    assert shares(pool)[A] == 0


def test_a_success_clears_the_failures_in_a_row() -> None:
    pool, _ = make_pool()
    fail(pool, A, 4)
    succeed(pool, A)
    fail(pool, A, 4)
    assert not of(pool, A).ejected


def test_a_success_clears_the_row_but_not_the_ratio() -> None:
    pool, _ = make_pool()
    for _ in range(10):
        fail(pool, A, 2)
        succeed(pool, A)
    assert of(pool, A).ejected
    assert "of its requests failed" in of(pool, A).why


def test_exactly_the_ratio_does_not_eject() -> None:
    pool, _ = make_pool(passive=PassiveHealth(consecutive_failures=100))
    for _ in range(20):
        succeed(pool, A)
        fail(pool, A)
    assert not of(pool, A).ejected
    fail(pool, A)
    assert of(pool, A).ejected


def test_the_ratio_is_not_looked_at_below_its_minimum_of_requests() -> None:
    pool, _ = make_pool(passive=PassiveHealth(consecutive_failures=100))
    fail(pool, A, 19)
    assert not of(pool, A).ejected
    fail(pool, A)
    assert of(pool, A).ejected


def test_what_is_older_than_the_window_has_no_weight() -> None:
    pool, clock = make_pool(passive=PassiveHealth(consecutive_failures=100))
    fail(pool, A, 19)
    clock.advance(11)
    fail(pool, A, 1)
    assert not of(pool, A).ejected


def test_an_idle_gap_longer_than_the_window_does_not_wedge_it() -> None:
    window = Window(10)
    window.add(3, failed=True)
    window.add(1e6, failed=False)
    assert (window.good, window.bad) == (1, 0)
    window.add(1e6 + 9, failed=True)
    assert window.failure_ratio(1e6 + 9, 1) == 0.5
    assert window.failure_ratio(1e6 + 10, 1) == 1.0
    assert window.failure_ratio(1e6 + 30, 1) == 0.0


@pytest.mark.parametrize("status", [400, 401, 404, 405, 413, 422, 501, 505])
def test_a_status_that_is_about_the_request_never_ejects(status: int) -> None:
    pool, _ = make_pool()
    fail(pool, A, 50, status)
    assert not of(pool, A).ejected
    assert of(pool, A).failures == 0


def test_429_counts_for_the_ratio_only() -> None:
    pool, _ = make_pool()
    fail(pool, A, 19, 429)
    assert not of(pool, A).ejected
    fail(pool, A, 1, 429)
    assert of(pool, A).ejected


def test_429_neither_adds_to_nor_clears_the_failures_in_a_row() -> None:
    pool, _ = make_pool()
    fail(pool, A, 4)
    fail(pool, A, 1, 429)
    assert not of(pool, A).ejected
    fail(pool, A)
    assert of(pool, A).ejected


def test_the_failure_statuses_can_be_chosen() -> None:
    pool, _ = make_pool(passive=PassiveHealth(failure_statuses=[404]))
    fail(pool, B, 50, 500)
    assert not of(pool, B).ejected
    fail(pool, A, 5, 404)
    assert of(pool, A).ejected


@pytest.mark.parametrize("kind", ["connect", "timeout", "reset", "status"])
def test_what_the_backend_did_counts_against_it(kind: str) -> None:
    pool, _ = make_pool()
    for _ in range(5):
        pool.pick(exclude=[B, C]).failed(kind)  # type: ignore[arg-type]
    assert of(pool, A).ejected
    assert kind in of(pool, A).why


@pytest.mark.parametrize("kind", ["cancelled", "local"])
def test_what_the_backend_did_not_do_never_counts_against_it(kind: str) -> None:
    pool, _ = make_pool()
    for _ in range(50):
        pool.pick(exclude=[B, C]).failed(kind)  # type: ignore[arg-type]
    assert not of(pool, A).ejected
    assert of(pool, A).failures == 0
    assert of(pool, A).successes == 0


def test_a_body_that_breaks_counts_after_a_good_status() -> None:
    pool, _ = make_pool()
    for _ in range(5):
        ticket = pool.pick(exclude=[B, C])
        ticket.answered(0.01, 200)
        ticket.failed("reset")
    assert of(pool, A).ejected


def test_a_failing_status_counts_at_the_headers_and_only_once() -> None:
    pool, _ = make_pool()
    tickets = [pool.pick(exclude=[B, C]) for _ in range(5)]
    for ticket in tickets:
        ticket.answered(0.01, 503)
    assert of(pool, A).ejected
    for ticket in tickets:
        ticket.failed("reset")
    assert of(pool, A).failures == 5
    assert of(pool, A).in_flight == 0


def test_passive_none_ejects_nobody() -> None:
    pool, _ = make_pool(passive=None)
    fail(pool, A, 100)
    assert not of(pool, A).ejected
    assert of(pool, A).failures == 100


# How long


@pytest.mark.parametrize(("ejection", "seconds"), [(1, 30), (2, 60), (3, 90), (10, 300), (11, 300)])
def test_the_kth_ejection_lasts_k_times_the_base_up_to_the_cap(ejection: int, seconds: float) -> None:
    health, policy = Health(), PassiveHealth()
    for k in range(1, ejection + 1):
        assert health.ejections == k - 1
        health.eject(policy, 1000.0, 1.0, "")
    assert health.ejected_for(1000.0) == seconds


def test_jitter_moves_an_ejection_by_a_fifth_at_most() -> None:
    lengths = set()
    for seed in range(200):
        pool, _ = make_pool(rng=random.Random(seed))
        eject(pool, A)
        lengths.add(round(of(pool, A).ejected_for, 3))
    assert len(lengths) > 150
    assert min(lengths) >= 24
    assert max(lengths) <= 36


def test_the_multiplier_falls_by_one_per_clean_base_outside_ejections() -> None:
    policy = PassiveHealth()
    health = Health()
    now = 1000.0
    for _ in range(3):
        health.eject(policy, now, 1.0, "")
    assert health.ejections == 3
    now = health.ejected_until
    health.settle(now)
    health.begin_trial()
    health.end_trial(True, policy, now, 1.0, "")
    health.record(policy, now + 65, failed=True)  # two clean bases and a bit
    assert health.ejections == 1
    health.record(policy, now + 80, failed=True)  # 15 s are no clean base
    assert health.ejections == 1


def test_time_spent_ejected_forgives_nothing() -> None:
    policy = PassiveHealth()
    health = Health()
    health.eject(policy, 1000.0, 1.0, "")
    health.eject(policy, 1000.0, 1.0, "")
    health.settle(5000.0)
    health.begin_trial()
    health.end_trial(False, policy, 5000.0, 1.0, "")
    assert health.ejections == 3


# The trial


def test_after_an_ejection_exactly_one_request_tries_the_backend() -> None:
    pool, clock = make_pool()
    eject(pool, A)
    clock.advance(40)
    tickets = [pool.pick() for _ in range(30)]
    assert [t.backend.url for t in tickets].count(A) == 1
    assert of(pool, A).why == "waiting for its trial request"


def test_a_trial_that_succeeds_brings_the_backend_back() -> None:
    pool, clock = make_pool()
    eject(pool, A)
    clock.advance(40)
    assert shares(pool, 90)[A] in range(25, 35)


def test_a_trial_that_fails_ejects_for_longer() -> None:
    pool, clock = make_pool()
    eject(pool, A)
    clock.advance(40)
    trial = pool.pick(exclude=[B, C])
    assert trial.backend.url == A
    trial.failed("connect")
    assert 54 <= of(pool, A).ejected_for <= 66
    assert "trial" in of(pool, A).why


def test_a_trial_that_proves_nothing_lets_the_next_request_try() -> None:
    pool, clock = make_pool()
    eject(pool, A)
    clock.advance(40)
    for _ in range(3):
        trial = pool.pick(exclude=[B, C])
        assert trial.backend.url == A
        trial.failed("cancelled")
        assert of(pool, A).available
    pool.pick(exclude=[B, C]).answered(0.01, 429)
    assert of(pool, A).why == "half-open"


def test_a_trial_with_a_long_body_is_decided_at_its_headers() -> None:
    pool, clock = make_pool()
    eject(pool, A)
    clock.advance(40)
    trial = pool.pick(exclude=[B, C])
    trial.answered(0.01, 200)
    assert of(pool, A).why == "available"
    trial.release()
    assert of(pool, A).in_flight == 0


def test_stragglers_neither_open_nor_close_an_ejection() -> None:
    pool, clock = make_pool()
    stragglers = [pool.pick(exclude=[B, C]) for _ in range(20)]
    eject(pool, A)
    before = of(pool, A).ejected_for
    for ticket in stragglers[:10]:
        ticket.succeeded(0.01)
    assert of(pool, A).ejected_for == before
    clock.advance(40)
    pool.pick(exclude=[B, C])  # the trial
    for ticket in stragglers[10:15]:
        ticket.succeeded(0.01)
    for ticket in stragglers[15:]:
        ticket.failed("reset")
    assert of(pool, A).why == "waiting for its trial request"


def test_stragglers_of_one_that_came_back_do_not_open_another_ejection() -> None:
    pool, clock = make_pool(passive=PassiveHealth(consecutive_failures=2))
    stragglers = [pool.pick(exclude=[B, C]) for _ in range(4)]
    fail(pool, A, 2)
    clock.advance(40)
    succeed(pool, A)  # the trial
    for ticket in stragglers[:3]:
        ticket.failed("reset")
    assert of(pool, A).why == "available"
    fail(pool, A)
    stragglers[3].succeeded(0.01)  # nor does one clear what counts now
    fail(pool, A)
    assert of(pool, A).ejected


def test_a_backend_that_came_back_starts_with_a_clean_count() -> None:
    pool, clock = make_pool()
    eject(pool, A)
    clock.advance(40)
    succeed(pool, A)
    fail(pool, A, 4)
    assert not of(pool, A).ejected


# Never the last one


def test_the_last_backend_standing_is_never_ejected() -> None:
    pool, _ = make_pool()
    eject(pool, A)
    eject(pool, B)
    fail(pool, C, 50)
    assert not of(pool, C).ejected
    assert pool.pick().backend.url == C


def test_one_that_weighs_nothing_does_not_stand() -> None:
    pool, _ = make_pool(A, B)
    pool.set_weight(B, 0)
    fail(pool, A, 50)
    assert not of(pool, A).ejected
    pool.set_weight(B, 1)
    fail(pool, A)
    assert of(pool, A).ejected


def test_a_single_backend_is_never_ejected() -> None:
    pool, _ = make_pool(A)
    fail(pool, A, 100)
    assert not of(pool, A).ejected


def test_the_last_one_goes_once_another_is_back() -> None:
    pool, clock = make_pool(A, B)
    eject(pool, A)
    fail(pool, B, 20)
    clock.advance(40)
    pool.pick(exclude=[B]).succeeded(0.01)
    fail(pool, B)
    assert of(pool, B).ejected


@pytest.mark.parametrize("take_out", ["disable", "begin_drain"])
def test_one_that_an_operator_took_out_does_not_stand(take_out: str) -> None:
    pool, _ = make_pool(A, B)
    getattr(pool, take_out)(B)
    fail(pool, A, 50)
    assert not of(pool, A).ejected


def test_the_ratio_ejects_at_most_half() -> None:
    pool, _ = make_pool(
        *(f"http://s{n}:1" for n in range(4)), passive=PassiveHealth(consecutive_failures=1000)
    )
    for status in pool.status().backends:
        fail(pool, status.url, 30)
    assert [status.ejected for status in pool.status().backends] == [True, True, False, False]


def test_in_a_pool_of_nine_one_can_be_ejected() -> None:
    pool, _ = make_pool(
        *(f"http://s{n}:1" for n in range(9)), passive=PassiveHealth(consecutive_failures=1000)
    )
    fail(pool, "http://s3:1", 30)
    assert of(pool, "http://s3:1").ejected


@pytest.mark.parametrize("count", [2, 3, 4])
def test_one_that_fails_every_second_request_is_ejected_from_a_small_pool(count: int) -> None:
    """Where a rule of 1.9 standard deviations could not: among fewer than five nobody is that far from the mean."""
    urls = [f"http://s{n}:1" for n in range(count)]
    pool, _ = make_pool(*urls, passive=PassiveHealth(consecutive_failures=1000, failure_ratio=0.4))
    for _ in range(30):
        for url in urls[1:]:
            succeed(pool, url)
        fail(pool, urls[0])
        succeed(pool, urls[0])
    assert [of(pool, url).ejected for url in urls] == [True] + [False] * (count - 1)


# Where nobody is ejected


def test_who_fails_all_the_time_is_in_the_log_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    pool, clock = make_pool(passive=None)
    caplog.set_level("INFO", "lbclient")
    fail(pool, A, 4)
    succeed(pool, A)
    fail(pool, A, 4)
    assert not caplog.messages
    pool.pick(exclude=others(pool, A)).failed("connect")
    fail(pool, A, 7)
    clock.advance(2)
    succeed(pool, A, 2)
    assert caplog.messages == [
        f"default: {A} 5 failures in a row, the last: connect",
        f"default: {A} answers again: after 2.0 s and 12 failures in a row",
    ]


def test_who_fails_by_turns_is_not_in_the_log_all_the_time(caplog: pytest.LogCaptureFixture) -> None:
    pool, clock = make_pool(passive=None)
    caplog.set_level("INFO", "lbclient")
    for _ in range(100):  # 20 s
        fail(pool, A, 6)
        clock.advance(0.2)
        succeed(pool, A)
    assert len(caplog.messages) == 4
    assert "5 failures in a row, the last: status 500" in caplog.messages[0]


# Fail open, panic


def test_when_nobody_is_available_health_is_ignored_and_the_status_says_so() -> None:
    pool, _ = make_pool()
    for url in (A, B, C):
        pool.report_probe(url, False)
    assert pool.status().panic
    assert set(shares(pool)) == {A, B, C}
    assert min(shares(pool).values()) > 0


def test_failing_open_never_picks_what_an_operator_took_out() -> None:
    pool, _ = make_pool()
    pool.disable(A)
    pool.begin_drain(B)
    pool.report_probe(C, False)
    assert shares(pool) == {A: 0, B: 0, C: 300}


def test_fail_open_false_refuses_and_says_why_backend_by_backend() -> None:
    pool, _ = make_pool(A, B, fail_open=False)
    pool.report_probe(A, False)
    pool.disable(B)
    with pytest.raises(NoBackendAvailable, match=r"http://a:1: failing its probe; http://b:1: disabled"):
        pool.pick()


def test_panic_threshold_is_a_share_of_the_pool() -> None:
    pool, _ = make_pool(*(f"http://s{n}:1" for n in range(10)), panic_threshold=0.5)
    for n in range(5):
        pool.report_probe(f"http://s{n}:1", False)
    assert not pool.status().panic
    pool.report_probe("http://s5:1", False)
    assert pool.status().panic
    assert min(shares(pool).values()) > 0
    pool.report_probe("http://s5:1", True)
    assert not pool.status().panic


def test_a_trial_under_way_is_no_panic() -> None:
    pool, clock = make_pool(A, B, panic_threshold=1.0)
    eject(pool, A)
    assert pool.status().panic
    clock.advance(40)
    assert not pool.status().panic
    while pool.pick().backend.url != A:
        pass
    assert not pool.status().panic


# Retry-After


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_a_backend_back_without_a_trial_after_it(status: int) -> None:
    pool, clock = make_pool()
    ticket = pool.pick(exclude=[B, C])
    ticket.answered(0.01, status, retry_after=7)
    ticket.release()
    assert of(pool, A).ejected_for == 7
    assert shares(pool)[A] == 0
    clock.advance(7.1)
    assert shares(pool)[A] == 100


def test_retry_after_of_a_straggler_holds_nobody_back() -> None:
    pool, clock = make_pool()
    straggler = pool.pick(exclude=[B, C])
    eject(pool, A)
    clock.advance(40)
    pool.pick(exclude=[B, C]).succeeded(0.01)  # the trial
    assert of(pool, A).why == "available"
    straggler.answered(0.01, 503, retry_after=60)
    assert of(pool, A).why == "available"


def test_who_was_beaten_to_connect_before_an_ejection_is_not_held_back_after_it() -> None:
    pool, clock = make_pool()
    straggler = pool.pick(exclude=[B, C])
    eject(pool, A)
    clock.advance(40)
    pool.pick(exclude=[B, C]).succeeded(0.01)  # the trial
    straggler.beaten()
    assert of(pool, A).why == "available"
    pool.pick(exclude=[B, C]).beaten()
    assert of(pool, A).ejected


def test_retry_after_is_capped() -> None:
    pool, _ = make_pool()
    pool.pick(exclude=[B, C]).answered(0.01, 503, retry_after=86400)
    assert of(pool, A).ejected_for == 300


def test_retry_after_does_not_hold_the_last_one_back() -> None:
    pool, _ = make_pool(A)
    pool.pick().answered(0.01, 503, retry_after=60)
    assert not of(pool, A).ejected


@pytest.mark.parametrize(
    ("status", "policy"), [(200, PassiveHealth()), (503, PassiveHealth(retry_after=False)), (503, None)]
)
def test_retry_after_is_ignored_elsewhere(status: int, policy: PassiveHealth | None) -> None:
    pool, _ = make_pool(passive=policy)
    pool.pick(exclude=[B, C]).answered(0.01, status, retry_after=60)
    assert not of(pool, A).ejected


def test_failures_in_a_row_outlive_being_held_back() -> None:
    pool, clock = make_pool()
    for _ in range(5):
        ticket = pool.pick(exclude=[B, C])
        assert ticket.backend.url == A
        ticket.answered(0.01, 503, retry_after=1)
        ticket.release()
        clock.advance(1.1)
    assert of(pool, A).ejected_for > 20


# Active checks


def test_the_first_result_ever_counts_alone_either_way() -> None:
    pool, _ = make_pool(probe=TcpProbe())
    pool.report_probe(A, True)
    pool.report_probe(B, False)
    assert [s.check for s in pool.status().backends] == ["passing", "failing", "unknown"]
    assert not of(pool, B).available


def test_later_results_go_by_the_thresholds_and_an_opposite_one_restarts_the_count() -> None:
    pool, _ = make_pool(probe=TcpProbe(healthy_threshold=2, unhealthy_threshold=3))
    seen = []
    for passed in (True, False, False, True, False, False, False, True, False, True, True):
        pool.report_probe(A, passed)
        seen.append(of(pool, A).check[0])
    assert "".join(seen) == "ppppppffffp"


def test_without_a_probe_each_outside_verdict_counts_alone() -> None:
    pool, _ = make_pool()
    pool.report_probe(A, True)
    pool.report_probe(A, False)
    assert of(pool, A).check == "failing"
    pool.report_probe(A, True)
    assert of(pool, A).check == "passing"


def test_a_probe_that_passes_does_not_cancel_an_ejection() -> None:
    pool, _ = make_pool(probe=TcpProbe())
    eject(pool, A)
    for _ in range(5):
        pool.report_probe(A, True)
    assert of(pool, A).ejected
    assert shares(pool)[A] == 0


def test_unknown_backends_are_picked() -> None:
    pool, _ = make_pool(probe=TcpProbe())
    assert min(shares(pool).values()) == 100


# Slow start


def test_a_new_backend_ramps_up_linearly_from_a_tenth() -> None:
    pool, clock = make_pool(A, B, algorithm="weighted_round_robin", slow_start=100)
    pool.add(C)
    assert shares(pool, 2100)[C] == pytest.approx(100, abs=10)
    clock.advance(50)
    assert shares(pool, 2500)[C] == pytest.approx(500, abs=10)
    clock.advance(50)
    assert shares(pool, 300)[C] == pytest.approx(100, abs=1)


def test_slow_start_does_nothing_when_everybody_is_new() -> None:
    pool, _ = make_pool(A, B, algorithm="weighted_round_robin", slow_start=100)
    assert shares(pool, 300) == {A: 150, B: 150}
    pool.update([C, "http://d:1"])
    assert shares(pool, 300) == {C: 150, "http://d:1": 150}


def test_slow_start_applies_after_an_ejection() -> None:
    pool, clock = make_pool(A, B, algorithm="weighted_round_robin", slow_start=100)
    eject(pool, A)
    clock.advance(40)
    succeed(pool, A)
    assert shares(pool, 1100)[A] == pytest.approx(100, abs=5)


def test_slow_start_applies_after_a_failed_check() -> None:
    pool, _ = make_pool(A, B, algorithm="weighted_round_robin", slow_start=100)
    pool.report_probe(A, True)
    pool.report_probe(A, False)
    pool.report_probe(A, True)
    assert shares(pool, 1100)[A] == pytest.approx(100, abs=5)


# Words


def test_the_state_is_told_in_words() -> None:
    health = Health()
    assert health.describe(0) == "available"
    health.check = Check.FAILING
    assert health.describe(0) == "failing its probe"
    health.check = Check.PASSING
    health.passive = Passive.HALF_OPEN
    assert health.describe(0) == "half-open"
    health.eject(PassiveHealth(), 0, 1, "5 failures in a row")
    assert health.describe(12) == "ejected for 18.0 s more (5 failures in a row)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consecutive_failures": 0}, "consecutive_failures is 0; write a whole number of 1 or more"),
        ({"failure_ratio": 1.5}, "failure_ratio is 1.5; write a number from 0 to 1"),
        ({"min_requests": 0}, "min_requests is 0"),
        ({"window": 0}, "window is 0; write a number above 0"),
        ({"base_ejection": -1}, "base_ejection is -1"),
        (
            {"base_ejection": 30, "max_ejection": 10},
            r"max_ejection is 10; write at least base_ejection \(30\)",
        ),
        ({"max_ejected": 2}, "max_ejected is 2"),
        (
            {"failure_statuses": [99]},
            "a status in failure_statuses is 99; write a whole number from 100 to 599",
        ),
    ],
)
def test_a_policy_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PassiveHealth(**options)  # type: ignore[arg-type]
