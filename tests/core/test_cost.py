"""Requests that weigh more than others: what is in flight, for algorithms, limits and status, is what they weigh."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from lbclient import NoBackendAvailable, Pool
from lbclient.algorithms import RingHash
from lbclient.core.facts import Facts
from lbclient.core.ticket import Ticket

SIZED = [
    "least_connections",
    "power_of_two_choices",
    "adaptive",
    "peak_ewma",
    "least_response_time",
]


def sized(**options: Any) -> Pool:
    return Pool(["http://a", "http://b"], cost=lambda facts: len(facts.path), rng=Random(1), **options)


def take(pool: Pool, size: int) -> Ticket:
    return pool.attempts(Facts(target=b"/" + b"x" * (size - 1))).first()


def in_flight(pool: Pool) -> list[int]:
    return [backend.in_flight for backend in pool.status().backends]


@pytest.mark.parametrize("algorithm", SIZED)
def test_one_large_request_counts_like_many_small_ones(algorithm: str) -> None:
    pool = sized(algorithm=algorithm)
    for name in ("a", "b"):  # both have been heard, and are alike
        ticket = pool.pick(exclude=[f"http://{name}"])
        ticket.succeeded(0.1)
    large = take(pool, 100)
    small = [take(pool, 1) for _ in range(20)]
    assert {ticket.backend for ticket in small}.isdisjoint({large.backend})
    assert sorted(in_flight(pool)) == [20, 100]
    for ticket in (large, *small):
        ticket.release()
        ticket.release()
    assert in_flight(pool) == [0, 0]
    assert pool._in_flight == 0


def test_least_connections_is_exact_about_sizes() -> None:
    pool, model = sized(algorithm="least_connections"), {"http://a": 0, "http://b": 0}
    rng = Random(7)
    tickets: list[Ticket] = []
    for _ in range(500):
        if tickets and rng.random() < 0.4:
            ticket = tickets.pop(rng.randrange(len(tickets)))
            ticket.release()
            model[ticket.backend.url] -= ticket.size
        size = rng.randrange(1, 1000)
        ticket = take(pool, size)
        assert model[ticket.backend.url] == min(model.values())
        model[ticket.backend.url] += size
        tickets.append(ticket)
    assert in_flight(pool) == list(model.values())


def test_limits_count_sizes() -> None:
    pool = sized(max_in_flight=100, max_pending=0)
    tickets = [
        take(pool, 100),
        take(pool, 60),
        take(pool, 60),
    ]  # the last one began with room, and exceeds it
    assert sorted(in_flight(pool)) == [100, 120]
    with pytest.raises(NoBackendAvailable, match="in flight, the limit"):
        take(pool, 1)
    for ticket in tickets:
        ticket.release()


def test_a_bounded_load_counts_sizes() -> None:
    pool = Pool(
        ["http://a", "http://b"],
        algorithm=RingHash(key="path", bounded_load=1.25),
        cost=lambda facts: 10 if facts.path == "/" else 1,
        rng=Random(1),
    )
    home = pool.pick("k", cost=10).backend
    assert {pool.pick("k", cost=1).backend for _ in range(5)} == {b for b in pool.declared if b != home}


def test_a_retry_and_a_tied_request_weigh_the_same_again() -> None:
    pool = sized(algorithm="first")
    plan = pool.attempts(Facts(target=b"/xxxxxxxxx"))
    plan.first()
    assert in_flight(pool) == [10, 0]
    assert pool.pick_tied("http://b", 10) is not None
    assert in_flight(pool) == [10, 10]


@pytest.mark.parametrize(
    ("says", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)]
)
def test_a_cost_that_is_none_is_said_at_once(says: Any, error: type[Exception]) -> None:
    pool = Pool(["http://a"], cost=lambda facts: says)
    with pytest.raises(error, match="what cost= returned"):
        pool.attempts(Facts())
    assert in_flight(pool) == [0]


def test_a_cost_is_a_function() -> None:
    with pytest.raises(TypeError, match="write a function from the facts of a request"):
        Pool(["http://a"], cost=5)  # type: ignore[arg-type]


def test_without_a_cost_everything_weighs_one() -> None:
    pool = Pool(["http://a"])
    assert pool.cost_of(Facts(target=b"/long/long/long")) == 1
    assert Facts().content is None
