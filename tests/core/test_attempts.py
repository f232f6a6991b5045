"""The plan of a request and the record of it, on the core alone."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from tenacity import stop_after_attempt, stop_after_delay, stop_before_delay, wait_fixed

from lbclient import Backend, Connect, Facts, Hedge, NoBackendAvailable, Pool, Record, Retry, RetryBudget
from lbclient.core.attempts import Attempts, Step
from lbclient.core.outcome import BACKEND_S_FAULT, ENDINGS, Elsewhere, Ending, Outcome
from lbclient.core.ticket import Ticket
from lbclient.testing import FakeClock
from tests.core.pools import A, B, C, make_pool, of

UNSENT = Outcome(Ending.UNREACHABLE, unsent=True, error="ConnectError: refused", elapsed=0.001)
BROKEN = Outcome(Ending.BROKEN, error="ReadError", elapsed=0.001)
BUSY = Outcome(status=503, elapsed=0.001)
POST = Facts(method="POST")


def plan_of(pool: Pool, facts: Facts | None = None) -> Attempts:
    return pool.attempts(facts or Facts())


def end(plan: Attempts, ticket: Ticket, outcome: Outcome) -> None:
    """As a shell does it."""
    plan.observe(ticket, outcome)
    if outcome.failure is not None:
        ticket.failed(outcome.failure, outcome.elapsed)
    else:
        ticket.succeeded(outcome.elapsed, outcome.status or 200)


def run(plan: Attempts, *outcomes: Outcome, clock: FakeClock | None = None) -> list[str]:
    """Whom the attempts of a plan go to when they end like this, the last one again and again."""
    urls: list[str] = []
    step: Step | None = Step(plan.first())
    while step is not None:
        if clock is not None:
            clock.advance(step.wait)
        ticket = step.ticket or plan.again()
        if ticket is None:
            break
        urls.append(ticket.backend.url)
        outcome = outcomes[min(len(urls), len(outcomes)) - 1]
        end(plan, ticket, outcome)
        step = plan.another(replayable=True, error=None if outcome.ending is None else OSError())
    return urls


# Whether another attempt follows


BLAMED = {Ending.UNREACHABLE, Ending.BROKEN, Ending.SLOW, Ending.TRUNCATED}
ANYWHERE = {Ending.UNREACHABLE, Ending.STARVED, Ending.FULL, Ending.REFUSED}
ONCE_IDEMPOTENT = {Ending.BROKEN, Ending.STALE, Ending.SLOW, Ending.HURRIED, Ending.LEAVING}


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.name)
def test_what_an_ending_proves(ending: Ending) -> None:
    """Written down a second time: whoever changes a row has to mean it."""
    failure, elsewhere = ENDINGS[ending]
    assert (failure in BACKEND_S_FAULT) == (ending in BLAMED)
    assert (elsewhere is Elsewhere.ANY) == (ending in ANYWHERE)
    assert (elsewhere is Elsewhere.IDEMPOTENT) == (ending in ONCE_IDEMPOTENT)


@pytest.mark.parametrize(
    "ending", [ending for ending in Ending if ending is not Ending.BEATEN], ids=lambda ending: ending.name
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("unsent", [False, True])
def test_what_may_follow_is_in_the_table(ending: Ending, method: str, unsent: bool) -> None:
    pool, _ = make_pool()
    urls = run(plan_of(pool, Facts(method=method)), Outcome(ending, unsent=unsent), Outcome(status=200))
    elsewhere = ENDINGS[ending].elsewhere
    follows = elsewhere is Elsewhere.ANY or (
        elsewhere is Elsewhere.IDEMPOTENT and (unsent or method == "GET")
    )
    assert len(urls) == 1 + follows


@pytest.mark.parametrize(
    ("method", "again"),
    [(m, True) for m in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")]
    + [(m, False) for m in ("POST", "PATCH", "CONNECT", "LOCK", "get")],
)
def test_only_idempotent_methods_are_repeated_once_something_was_sent(method: str, again: bool) -> None:
    pool, _ = make_pool()
    assert len(run(plan_of(pool, Facts(method=method)), BROKEN, Outcome(status=200))) == 1 + again


def test_the_callers_word_goes_before_the_method() -> None:
    pool, _ = make_pool()
    yes, no = {"idempotent": True}, {"idempotent": False}
    assert len(run(plan_of(pool, Facts(method="POST", options=yes)), BROKEN, Outcome(status=200))) == 2
    assert len(run(plan_of(pool, Facts(method="GET", options=no)), BROKEN)) == 1
    assert len(run(plan_of(pool, Facts(method="GET", options=no)), UNSENT)) == 3, "it was not sent"


def test_the_handshake_of_a_websocket_is_repeated_only_when_it_was_not_sent() -> None:
    pool, _ = make_pool()
    headers = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    for outcome in (BROKEN, BUSY):
        assert len(run(plan_of(pool, Facts(headers=headers)), outcome)) == 1
    assert len(run(plan_of(pool, Facts(headers=headers)), UNSENT)) == 3
    sure = Facts(headers=headers, options={"idempotent": True})
    assert len(run(plan_of(pool, sure), BROKEN, Outcome(status=200))) == 2


@pytest.mark.parametrize(
    ("status", "again"), [(502, True), (503, True), (504, True), (500, False), (429, False)]
)
def test_some_responses_are_asked_for_again(status: int, again: bool) -> None:
    pool, _ = make_pool()
    assert len(run(plan_of(pool), Outcome(status=status), Outcome(status=200))) == 1 + again
    assert len(run(plan_of(pool, POST), Outcome(status=status))) == 1


def test_the_policy_names_methods_and_statuses() -> None:
    pool, _ = make_pool(retry=Retry(methods={"POST"}, statuses={409}))
    assert len(run(plan_of(pool, POST), Outcome(status=409), Outcome(status=200))) == 2
    assert len(run(plan_of(pool), Outcome(status=409))) == 1
    assert len(run(plan_of(pool, POST), BUSY)) == 1


def test_a_body_that_is_gone_ends_it() -> None:
    pool, _ = make_pool()
    plan = plan_of(pool)
    end(plan, plan.first(), UNSENT)
    assert plan.another(replayable=False) is None


def test_without_a_policy_there_is_one_attempt() -> None:
    pool, _ = make_pool(retry=None)
    plan = plan_of(pool)
    ticket = plan.first()
    assert not plan.others_left(ticket)
    assert not plan.idempotent
    assert plan.beside() is None
    end(plan, ticket, UNSENT)
    assert plan.another(replayable=True) is None


@pytest.mark.parametrize(
    ("facts", "options", "would"),
    [
        (Facts(), {}, True),
        (Facts(method="DELETE"), {}, True),
        (POST, {}, False),
        (Facts(method="POST", options={"idempotent": True}), {}, True),
        (Facts(options={"idempotent": False}), {}, False),
        (Facts(headers=[(b"Upgrade", b"websocket")]), {}, False),
        (Facts(), {"retry": None}, False),
        (Facts(), {"retry": Retry(stop=stop_after_attempt(1))}, False),
        (Facts(), {"retry": Retry(stop=stop_after_delay(1.0))}, True),
        (Facts(), {"retry": Retry(budget=None)}, True),
        (Facts(), {"retry": Retry(budget=RetryBudget(ratio=0.0, min_per_second=0.0))}, False),
        (POST, {"retry": Retry(methods={"POST"})}, True),
    ],
)
def test_whether_another_attempt_would_follow_is_known_before_the_first(
    facts: Facts, options: dict[str, Any], would: bool
) -> None:
    plan = plan_of(make_pool(**options)[0], facts)
    assert plan.would_follow() is would
    plan.replayable = False
    assert plan.would_follow() is False


def test_a_stale_connection_is_replaced_once_for_free_at_the_same_backend() -> None:
    pool, _ = make_pool(retry=Retry(stop=stop_after_attempt(1), budget=RetryBudget(0, 0)))
    plan = plan_of(pool)
    ticket = plan.first()
    end(plan, ticket, Outcome(Ending.STALE))
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    assert step.fresh
    assert step.ticket.backend is ticket.backend
    end(plan, step.ticket, Outcome(Ending.STALE))
    assert plan.another(replayable=True) is None, "once"


def test_a_stale_connection_to_a_backend_that_may_not_be_picked_any_more_is_replaced_elsewhere() -> None:
    pool, _ = make_pool()
    plan = plan_of(pool)
    ticket = plan.first()
    pool.disable(ticket.backend.url)
    end(plan, ticket, Outcome(Ending.STALE))
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    assert not step.fresh
    assert step.ticket.backend.url != ticket.backend.url


# Whom to try, and when


def test_everybody_is_tried_before_anybody_is_tried_again() -> None:
    pool, clock = make_pool(retry=Retry(stop=stop_after_attempt(9)))
    urls = run(plan_of(pool), UNSENT, clock=clock)
    assert [set(urls[i : i + 3]) for i in (0, 3, 6)] == [{A, B, C}] * 3
    assert all(a != b for a, b in pairwise(urls)), "and never the same twice in a row"


def test_only_a_backend_that_was_tried_before_is_waited_for() -> None:
    pool, _ = make_pool(A, B, retry=Retry(wait=wait_fixed(0.125)))
    plan = plan_of(pool)
    end(plan, plan.first(), BUSY)
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    assert step.wait == 0
    end(plan, step.ticket, BUSY)
    assert plan.another(replayable=True) == Step(None, 0.125)


def test_a_single_backend_is_tried_again_after_a_jittered_wait() -> None:
    pool, _ = make_pool(A)
    plan = plan_of(pool)
    ticket = plan.first()
    assert not plan.others_left(ticket)
    end(plan, ticket, UNSENT)
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is None
    assert 0 <= step.wait <= 0.25
    assert plan.again() is not None


def test_a_doubtful_backend_that_was_not_tried_goes_before_one_that_was() -> None:
    pool, _ = make_pool(A, B)
    pool.report_probe(B, False)
    assert run(plan_of(pool), BUSY, Outcome(status=200)) == [A, B]


def test_nobody_left_after_the_wait_ends_it() -> None:
    pool, _ = make_pool(A, B)
    plan = plan_of(pool)
    end(plan, plan.first(), BUSY)
    pool.disable(A)
    pool.disable(B)
    assert plan.another(replayable=True) is not None
    assert plan.again() is None


def test_retry_after_is_waited_for_up_to_its_cap() -> None:
    pool, _ = make_pool(A, retry=Retry(wait=wait_fixed(0.1), max_retry_after=2))
    for asked, wait in ((0.0, 0.1), (1.5, 1.5), (2.0, 2.0)):
        plan = plan_of(pool)
        end(plan, plan.first(), Outcome(status=503, retry_after=asked))
        assert plan.another(replayable=True) == Step(None, wait)
    plan = plan_of(pool)
    end(plan, plan.first(), Outcome(status=503, retry_after=2.5))
    assert plan.another(replayable=True) is None


def test_retry_after_of_one_backend_does_not_hold_up_another() -> None:
    pool, _ = make_pool(A, B)
    plan = plan_of(pool)
    end(plan, plan.first(), Outcome(status=503, retry_after=100))
    step = plan.another(replayable=True)
    assert step is not None
    assert step.wait == 0


# How many


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_stop_counts_attempts(attempts: int) -> None:
    pool, _ = make_pool(*(f"http://s{n}:1" for n in range(9)), retry=Retry(stop=stop_after_attempt(attempts)))
    plan = plan_of(pool)
    assert plan.others_left(plan.first()) is (attempts > 1)
    assert len(run(plan_of(pool), UNSENT)) == attempts


def test_the_last_attempt_has_nobody_after_it() -> None:
    pool, _ = make_pool(A, B)
    plan = plan_of(pool)
    ticket = plan.first()
    assert plan.others_left(ticket)
    end(plan, ticket, UNSENT)
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    assert not plan.others_left(step.ticket)


def test_stop_can_be_about_time() -> None:
    pool, clock = make_pool(A, retry=Retry(stop=stop_after_delay(1), wait=wait_fixed(0.3)))
    assert plan_of(pool).pool.retry is not None
    assert len(run(plan_of(pool), UNSENT, clock=clock)) == 5  # at 0, 0.3, 0.6, 0.9 and 1.2
    pool, clock = make_pool(A, retry=Retry(stop=stop_before_delay(1), wait=wait_fixed(0.3)))
    assert len(run(plan_of(pool), BUSY, clock=clock)) == 4, "the wait counts"


def test_policies_see_the_attempt_as_tenacity_would_show_it() -> None:
    seen: list[Any] = []

    def stop(state: Any) -> bool:
        seen.append((state.attempt_number, state.outcome.failed, state.seconds_since_start))
        return len(seen) == 2

    pool, clock = make_pool(A, B, C, retry=Retry(stop=stop))
    plan = plan_of(pool)
    ticket = plan.first()
    clock.advance(0.5)
    end(plan, ticket, BROKEN)
    error = OSError("reset")
    step = plan.another(replayable=True, error=error)
    assert step is not None
    assert step.ticket is not None
    end(plan, step.ticket, BUSY)
    assert plan.another(replayable=True) is None
    assert seen == [(1, True, 0.5), (2, False, 0.5)]


def test_what_adds_load_is_paid_for() -> None:
    pool, _ = make_pool(retry=Retry(budget=RetryBudget(ratio=0, min_per_second=0.1)))  # one in ten seconds
    assert len(run(plan_of(pool), BROKEN)) == 2
    assert len(run(plan_of(pool), BROKEN)) == 1
    assert len(run(plan_of(pool), BUSY)) == 1


def test_going_elsewhere_with_what_was_not_sent_costs_nothing() -> None:
    pool, _ = make_pool(retry=Retry(budget=RetryBudget(ratio=0, min_per_second=0)))
    assert len(run(plan_of(pool), UNSENT)) == 3
    pool, _ = make_pool(A, retry=Retry(budget=RetryBudget(ratio=0, min_per_second=0)))
    assert len(run(plan_of(pool), UNSENT)) == 1, "to the same backend it does"


def test_without_a_budget_nothing_is_counted() -> None:
    pool, _ = make_pool(retry=Retry(budget=None))
    assert pool.budget is None
    assert all(len(run(plan_of(pool), BROKEN)) == 3 for _ in range(200))


def test_a_dead_fleet_gets_at_most_the_ratio_and_the_floor_on_top() -> None:
    pool, clock = make_pool(passive=None)
    attempts = 0
    for _ in range(10_000):  # 100 a second for 100 seconds
        attempts += len(run(plan_of(pool), BROKEN))
        clock.advance(0.01)
    assert attempts <= 10_000 * 1.2 + 10 * 110


# The deadline


def test_nothing_follows_the_deadline() -> None:
    pool, clock = make_pool()
    plan = plan_of(pool, Facts(options={"deadline": 2.0}))
    assert plan.left() == 2
    ticket = plan.first()
    clock.advance(1.5)
    end(plan, ticket, BROKEN)
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    clock.advance(0.5)
    end(plan, step.ticket, BROKEN)
    assert plan.another(replayable=True) is None
    assert plan_of(pool).left() == float("inf")


def test_a_wait_that_the_deadline_does_not_allow_is_not_begun() -> None:
    pool, _ = make_pool(A, retry=Retry(wait=wait_fixed(3)))
    plan = plan_of(pool, Facts(options={"deadline": 2.0}))
    end(plan, plan.first(), BROKEN)
    assert plan.another(replayable=True) is None


def test_a_timeout_that_is_the_deadlines_doing_is_blamed_on_who_had_most_of_it() -> None:
    pool, clock = make_pool()
    plan = plan_of(pool, Facts(options={"deadline": 2.0}))
    first = plan.first()
    clock.advance(1.5)
    assert not plan.hurried(first), "the deadline has not passed"
    second = plan.beside()
    assert second is not None
    clock.advance(0.5)
    assert not plan.hurried(first)
    assert plan.hurried(second)


@pytest.mark.parametrize("deadline", [0, -1, float("inf"), "2", True])
def test_a_deadline_that_is_none_is_refused(deadline: object) -> None:
    pool, _ = make_pool()
    with pytest.raises((ValueError, TypeError), match="deadline is"):
        plan_of(pool, Facts(options={"deadline": deadline}))


# Attempts beside each other


def test_beside_an_attempt_others_are_tried_as_far_as_the_policy_goes() -> None:
    pool, _ = make_pool(A, B, C, "http://d:1")
    plan = plan_of(pool)
    tickets = [plan.first(), plan.beside(), plan.beside()]
    assert len({ticket.backend.url for ticket in tickets if ticket is not None}) == 3
    assert plan.beside() is None
    pool, _ = make_pool(A)
    plan = plan_of(pool)
    plan.first()
    assert plan.beside() is None


def test_the_last_one_that_was_not_beaten_decides() -> None:
    pool, _ = make_pool()
    assert plan_of(pool).last is None
    plan = plan_of(pool)
    first, second = plan.first(), plan.beside()
    assert second is not None
    plan.observe(second, Outcome(status=200))
    plan.observe(first, Outcome(Ending.BEATEN))
    assert plan.last == (second, Outcome(status=200))
    plan.observe(first, Outcome(status=204))
    plan.settle_on(second)
    assert plan.last == (second, Outcome(status=200))


def test_a_copy_is_made_of_what_the_policy_allows() -> None:
    pool, _ = make_pool(hedge=Hedge(delay=0.05, budget=1))
    plan = plan_of(pool)
    assert plan.hedge_delay() == 0.05
    plan.first()
    assert plan.copy() is not None
    assert plan_of(pool, POST).hedge_delay() is None
    plain, _ = make_pool()
    assert plan_of(plain).hedge_delay() is None
    assert plan_of(plain).copy() is None


def test_what_may_be_carried_out_once_only_is_not_copied() -> None:
    pool, _ = make_pool(hedge=Hedge(delay=0.05, budget=1))
    assert plan_of(pool, Facts(options={"idempotent": False})).hedge_delay() is None
    assert plan_of(pool, Facts(options={"idempotent": True})).hedge_delay() == 0.05
    assert plan_of(pool, Facts(headers=[(b"Upgrade", b"websocket")])).hedge_delay() is None


def test_a_copy_is_paid_for_and_needs_somebody_else() -> None:
    poor, _ = make_pool(hedge=Hedge(delay=0.05, budget=1), retry=Retry(budget=RetryBudget(0, 0)))
    plan = plan_of(poor)
    plan.hedge_delay()
    plan.first()
    assert plan.copy() is None
    alone, _ = make_pool(A, hedge=Hedge(delay=0.05, budget=1))
    plan = plan_of(alone)
    plan.hedge_delay()
    plan.first()
    assert plan.copy() is None


def test_first_answers_are_what_the_delay_of_copies_is_derived_from() -> None:
    pool, _ = make_pool(hedge=Hedge("p50"))
    for _ in range(100):
        plan = plan_of(pool)
        assert plan.hedge_delay() is None or plan.hedge_delay() == pytest.approx(0.02, rel=0.1)
        end(plan, plan.first(), Outcome(status=200, elapsed=0.02))
    assert plan_of(pool).hedge_delay() is not None


# The record


def test_the_callers_own_key_goes_before_that_of_the_algorithm() -> None:
    pool, _ = make_pool(algorithm="ip_hash")
    assert pool.attempts(Facts(options={"key": 7, "client_ip": "10.0.0.1"})).key == b"7"
    assert pool.attempts(Facts(options={"client_ip": "10.0.0.1"})).key == b"10.0.0.1"
    assert pool.attempts(Facts()).key is None
    assert make_pool()[0].attempts(Facts(options={"client_ip": "10.0.0.1"})).key is None


def failed_over() -> tuple[Pool, Record]:
    pool, _ = make_pool(A, B, algorithm="first")
    plan = pool.attempts(Facts())
    assert run(plan, UNSENT, Outcome(status=200, elapsed=0.012)) == [A, B]
    return pool, Record(plan)


def test_a_record_tells_every_attempt() -> None:
    _, record = failed_over()
    assert record.backend == B
    assert [attempt.outcome for attempt in record.attempts] == ["connect (ConnectError: refused)", "200"]
    assert [attempt.candidates for attempt in record.attempts] == [(A, B), (B,)]
    assert record.attempts[1].skipped == {A: "already tried"}
    assert record.explain().splitlines() == [
        "pool default: 2 attempts",
        "  1. http://a:1: connect (ConnectError: refused) after 1.0 ms; first available in the declared order",
        "     in flight: http://a:1 0, http://b:1 0",
        "  2. http://b:1: 200 after 12.0 ms; first available in the declared order",
        "     in flight: http://b:1 0",
        "     not http://a:1: already tried",
    ]
    assert repr(record) == "<Record http://b:1, 2 attempts>"


def test_a_record_tells_why_somebody_was_tried_again() -> None:
    pool, _ = make_pool(A, B, algorithm="first", retry=Retry(stop=stop_after_attempt(4), wait=wait_fixed(0)))
    plan = pool.attempts(Facts())
    stale, slow = Outcome(Ending.STALE), Outcome(Ending.SLOW)
    assert run(plan, stale, slow, slow, Outcome(status=200)) == [A, A, B, A]
    attempts = Record(plan).attempts
    assert [attempt.reason for attempt in attempts] == [
        "first available in the declared order",
        "once more, over a fresh connection: the one that was kept had been closed",
        "first available in the declared order",
        "first available in the declared order; after a wait, since everybody had been tried",
    ]
    assert [attempt.candidates for attempt in attempts] == [(A, B), (A, B), (B,), (A,)]
    assert [dict(attempt.skipped) for attempt in attempts] == [
        {},
        {},
        {A: "already tried"},
        {B: "already tried"},
    ]


def test_a_record_is_plain_data_too() -> None:
    pool, record = failed_over()
    data = json.loads(json.dumps(record.as_dict()))
    assert (data["backend"], data["pool"], data["sticky"], data["seed"]) == (B, "default", False, pool.seed)
    assert data["attempts"][1]["skipped"] == {A: "already tried"}


def test_the_seed_is_told_where_the_pool_chose_it() -> None:
    pool = Pool([A])
    assert isinstance(Record(pool.attempts(Facts())).seed, int)


def test_a_record_of_a_request_that_nobody_got_says_why() -> None:
    pool, _ = make_pool(A, B, fail_open=False)
    pool.disable(A)
    pool.report_probe(B, False)
    plan = pool.attempts(Facts())
    with pytest.raises(NoBackendAvailable):
        plan.first()
    record = Record(plan)
    assert record.backend is None
    assert not record.sticky
    assert record.explain().splitlines() == [
        "pool default: 0 attempts",
        "  not http://a:1: disabled",
        "  not http://b:1: failing its probe",
    ]


def test_a_trial_and_a_panic_are_reasons() -> None:
    pool, clock = make_pool(A, B)
    for _ in range(5):
        pool.pick(exclude=[B]).failed("connect")
    clock.advance(40)
    plan = pool.attempts(Facts())
    while (ticket := plan.first()).backend.url != A:
        ticket.release()
    plan.observe(ticket, Outcome(status=200))
    assert Record(plan).attempts[0].reason == "its ejection ended: the one request that tries it"
    ticket.release()
    for url in (A, B):
        pool.report_probe(url, False)
    plan = pool.attempts(Facts())
    while (ticket := plan.first()).backend.url != B:
        ticket.release()
    plan.observe(ticket, Outcome(Ending.SLOW))
    assert "health ignored" in Record(plan).attempts[0].reason
    assert Record(plan).attempts[0].outcome == "timeout"
    assert of(pool, A).check == "failing"


def test_large_pools_tell_the_number_of_candidates_instead_of_their_loads() -> None:
    pool, _ = make_pool(*(f"http://s{n}:1" for n in range(20)))
    plan = pool.attempts(Facts())
    plan.observe(plan.first(), Outcome(status=200))
    assert "     of 20 candidates" in Record(plan).explain()
    assert Record(plan).attempts[0].loads == ()


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(Ending.STALE, error="ReadError"), "stale (ReadError)"),
        (Outcome(Ending.CANCELLED), "cancelled"),
        (Outcome(Ending.BROKEN, error="ReadError: reset"), "reset (ReadError: reset)"),
        (Outcome(status=204), "204"),
        (Outcome(), "connected"),
    ],
)
def test_an_outcome_is_told_in_a_few_words(outcome: Outcome, words: str) -> None:
    assert outcome.describe() == words


# The policy


@pytest.mark.parametrize(
    "arguments",
    [
        {"stop": 3},
        {"wait": 0.1},
        {"wait": "1"},
        {"statuses": (99,)},
        {"statuses": ("503",)},
        {"methods": ("get",)},
        {"methods": "GET"},
        {"methods": (b"GET",)},
        {"budget": 0.2},
        {"max_retry_after": -1},
        {"max_buffer": -1},
        {"max_buffer": 0.5},
    ],
)
def test_a_policy_out_of_range_is_refused_in_words(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r" is .*; write "):
        Retry(**arguments)


def test_a_pool_wants_a_policy() -> None:
    with pytest.raises(TypeError, match=r"retry is 3; write Retry\(\.\.\.\), or None"):
        Pool([A], retry=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"hedge is True; write Hedge\(\.\.\.\), or None"):
        Pool([Backend(A)], hedge=True)  # type: ignore[arg-type]


def test_a_policy_that_does_not_count_sets_no_limit_beside() -> None:
    pool, _ = make_pool(A, B, retry=Retry(stop=stop_after_delay(60)))
    plan = plan_of(pool)
    ticket = plan.first()
    assert plan.others_left(ticket)
    assert plan.beside() is not None


def test_who_has_not_connected_when_a_later_one_had_is_left_alone_for_a_while() -> None:
    pool, clock = make_pool(A, B, connect=Connect(connect_timeout=2, start_next_after=0.1))
    slow = pool.pick(exclude={B})
    clock.advance(0.2)
    slow.beaten()
    slow.beaten()  # a second end is none
    assert (of(pool, A).available, of(pool, A).in_flight) == (False, 0)
    clock.advance(5 * 2 + 0.1)
    assert {pool.pick().backend.url for _ in range(2)} == {A, B}


def test_a_connect_timeout_ejects_by_itself() -> None:
    pool, _ = make_pool(A, B, connect=Connect(connect_timeout=1))
    pool.pick(exclude={B}).failed("connect", 1.0)
    assert of(pool, A).ejected


def test_the_time_until_the_next_backend_is_asked_is_above_zero() -> None:
    with pytest.raises(ValueError, match="start_next_after"):
        Connect(start_next_after=0)
