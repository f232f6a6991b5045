"""What a pool counts and tells for metrics, and what a pool in another one's place begins with."""

from __future__ import annotations

import pytest

from lbclient import CookieAffinity, Facts, Hedge, HttpProbe, PassiveHealth, Retry
from lbclient.core.outcome import Outcome
from tests.core.pools import A, B, C, eject, fail, make_pool, of, succeed
from tests.core.test_attempts import BROKEN, end, plan_of


def test_retries_and_copies_are_counted() -> None:
    pool, _ = make_pool(A, B, C, hedge=Hedge(delay=0.1, budget=1.0))
    plan = plan_of(pool)
    plan.hedge_delay()
    first = plan.first()
    copy = plan.copy()
    assert copy is not None
    assert (pool.status().retries, pool.status().hedges) == (0, 1)
    copy.release()
    end(plan, first, BROKEN)
    assert plan.another(replayable=True) is not None
    assert (pool.status().retries, pool.status().hedges) == (1, 1)


def test_what_was_not_sent_again_is_not_counted() -> None:
    pool, _ = make_pool(A, retry=Retry(budget=None), hedge=Hedge(delay=0.1, budget=1.0))
    plan = plan_of(pool)
    plan.hedge_delay()
    first = plan.first()
    assert plan.copy() is None
    assert pool.status().hedges == 0
    end(plan, first, BROKEN)
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is None  # it has to be waited for
    assert pool.status().retries == 0
    assert plan.again() is not None
    assert pool.status().retries == 1


def test_ejections_are_counted_for_as_long_as_a_backend_is_a_member() -> None:
    pool, clock = make_pool()
    eject(pool, A)
    clock.advance(60)
    fail(pool, A)  # its trial
    assert of(pool, A).ejections == 2
    clock.advance(200)
    succeed(pool, A)
    assert of(pool, A).ejections == 2
    assert of(pool, B).ejections == 0


def test_answers_are_told_until_nobody_wants_to_know() -> None:
    pool, _ = make_pool(A, B)
    heard: list[tuple[str, float, int]] = []
    also: list[str] = []
    forget = pool.telemetry.listen(lambda *answer: heard.append(answer))
    pool.telemetry.listen(lambda url, *_: also.append(url))
    succeed(pool, A)
    fail(pool, B, status=503)
    assert heard == [(A, 0.01, 200), (B, 0.01, 503)]
    forget()
    succeed(pool, A)
    assert len(heard) == 2
    assert also == [A, B, A]


def test_a_listener_hears_without_the_lock() -> None:
    pool, _ = make_pool(A, B)
    seen: list[int] = []

    def look(url: str, latency: float, status: int) -> None:
        pool.set_weight(url, 2)  # takes the lock
        seen.append(of(pool, url).in_flight)

    pool.telemetry.listen(look)
    succeed(pool, A)
    assert seen == [1]


# A pool in another one's place


def test_health_and_what_operators_said_are_carried_over() -> None:
    old, clock = make_pool(A, B, C, probe=HttpProbe())
    eject(old, A)
    old.disable(B)
    old.report_probe(C, True)
    succeed(old, C, 3)
    new, _ = make_pool(A, B, C, "http://d:1", probe=HttpProbe("/other"))
    new.inherit(old)
    assert (of(new, A).ejected, of(new, B).admin, of(new, C).check) == (True, "disabled", "passing")
    assert (of(new, C).picks, of(new, C).successes, of(new, C).latency) == (3, 3, 0.01)
    assert of(new, A).failures == 5
    assert of(new, "http://d:1").picks == 0
    clock.advance(60)
    assert of(old, A).why == "half-open"
    assert of(new, A).ejected, "it has a clock of its own"


def test_what_the_old_pool_learns_later_does_not_reach_the_new_one() -> None:
    old, _ = make_pool(A, B)
    new, _ = make_pool(A, B)
    held = old.pick()
    new.inherit(old)
    assert [status.in_flight for status in new.status().backends] == [0, 0]
    held.failed("reset")
    eject(old, A)
    assert not of(new, A).ejected


def test_what_nothing_would_correct_is_not_carried_over() -> None:
    old, _ = make_pool(A, B, probe=HttpProbe())
    eject(old, A)
    old.report_probe(A, False)
    new, _ = make_pool(A, B, passive=None)
    new.inherit(old)
    assert of(new, A).available
    assert of(new, A).check == "unknown"


def test_a_trial_under_way_is_the_old_pools_so_the_new_one_makes_its_own() -> None:
    old, clock = make_pool(A, B, passive=PassiveHealth(base_ejection=1))
    eject(old, A)
    clock.advance(10)
    trial = old.pick(exclude=[B])
    assert of(old, A).why == "waiting for its trial request"
    new, _ = make_pool(A, B)
    new.inherit(old)
    assert of(new, A).why == "half-open"
    trial.release()


def test_a_client_stays_tied_across_pools_with_one_affinity() -> None:
    affinity = CookieAffinity()
    old, _ = make_pool(A, B, affinity=affinity)
    plan = plan_of(old)
    first = plan.first()
    end(plan, first, Outcome(status=200))
    header = plan.answer([])
    assert header is not None
    new, _ = make_pool(B, A, affinity=affinity)
    new.inherit(old)
    facts = Facts(headers=[(b"cookie", header[1].partition(b";")[0])])
    assert {plan_of(new, facts).first().backend.url for _ in range(4)} == {first.backend.url}


@pytest.mark.parametrize("passive", [None, PassiveHealth()])
def test_inheriting_publishes(passive: PassiveHealth | None) -> None:
    old, _ = make_pool(A, B)
    old.disable(A)
    new, _ = make_pool(A, B, passive=passive)
    before = new.status().generation
    new.inherit(old)
    assert new.status().generation > before
    assert {new.pick().backend.url for _ in range(4)} == {B}
