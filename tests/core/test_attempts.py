"""The plan of a request and the record of it, on the core alone."""

from __future__ import annotations

import json

import pytest

from lbclient import Facts, NoBackendAvailable, Pool, Record
from lbclient.core.attempts import MOST_ATTEMPTS
from lbclient.core.outcome import Outcome
from tests.core.pools import A, B, C, make_pool, of

UNSENT = Outcome("connect", unsent=True, error="ConnectError: refused", elapsed=0.001)


def test_while_nothing_was_sent_another_backend_is_tried_each_time() -> None:
    pool, _ = make_pool(A, B, C, "http://d:1")
    plan = pool.attempts(Facts())
    tickets = [plan.first()]
    assert plan.others_left(tickets[0])
    plan.observe(tickets[0], UNSENT)
    while (ticket := plan.another()) is not None:
        tickets.append(ticket)
        plan.observe(ticket, UNSENT)
    assert len({ticket.backend.url for ticket in tickets}) == MOST_ATTEMPTS
    assert plan.tried == {ticket.backend.url for ticket in tickets}


def test_after_something_was_sent_nobody_else_is_tried() -> None:
    pool, _ = make_pool()
    plan = pool.attempts(Facts())
    plan.observe(plan.first(), Outcome("reset", error="ReadError"))
    assert plan.another() is None


def test_with_nobody_else_left_the_request_has_to_do_with_what_it_has_got() -> None:
    pool, _ = make_pool(A)
    plan = pool.attempts(Facts())
    ticket = plan.first()
    assert not plan.others_left(ticket)
    plan.observe(ticket, UNSENT)
    assert plan.another() is None


def test_the_last_attempt_has_nobody_after_it() -> None:
    pool, _ = make_pool(A, B, C, "http://d:1")
    plan = pool.attempts(Facts())
    for _ in range(MOST_ATTEMPTS - 1):
        ticket = plan.first()
        assert plan.others_left(ticket)
        plan.observe(ticket, UNSENT)
    assert not plan.others_left(plan.first())


def test_the_callers_own_key_goes_before_that_of_the_algorithm() -> None:
    pool, _ = make_pool(algorithm="ip_hash")
    assert pool.attempts(Facts(options={"key": 7, "client_ip": "10.0.0.1"})).key == b"7"
    assert pool.attempts(Facts(options={"client_ip": "10.0.0.1"})).key == b"10.0.0.1"
    assert pool.attempts(Facts()).key is None
    assert make_pool()[0].attempts(Facts(options={"client_ip": "10.0.0.1"})).key is None


def failed_over() -> tuple[Pool, Record]:
    pool, _ = make_pool(A, B, algorithm="first")
    plan = pool.attempts(Facts())
    first = plan.first()
    plan.observe(first, UNSENT)
    first.failed("connect")
    second = plan.another()
    assert second is not None
    plan.observe(second, Outcome(status=200, elapsed=0.012))
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
    plan.observe(ticket, Outcome("timeout"))
    assert "health ignored" in Record(plan).attempts[0].reason
    assert Record(plan).attempts[0].outcome == "timeout"
    assert of(pool, A).check == "failing"


def test_large_pools_tell_the_number_of_candidates_instead_of_their_loads() -> None:
    pool, _ = make_pool(*(f"http://s{n}:1" for n in range(20)))
    plan = pool.attempts(Facts())
    plan.observe(plan.first(), Outcome(status=200))
    assert "     of 20 candidates" in Record(plan).explain()
    assert Record(plan).attempts[0].loads == ()
