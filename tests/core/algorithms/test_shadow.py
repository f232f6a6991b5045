"""A shadow sees everything and changes nothing."""

import random
from typing import Any

import pytest

from lbclient import Pool
from lbclient.algorithms import LeastConnections, Shadow
from lbclient.core.health import PassiveHealth
from lbclient.testing import FakeClock
from tests.core.algorithms.test_adaptive import alike, one_by_one
from tests.core.pools import A, B, C, make_pool, others


def shadow_of(pool: Pool) -> Any:
    shadow = pool.status().shadow
    assert shadow is not None
    return shadow


def test_the_one_that_decides_decides_and_where_the_other_differs_is_counted() -> None:
    pool, clock = make_pool(A, B, algorithm=Shadow("adaptive", beside="round_robin"))
    one_by_one(pool, clock, 300, lambda url, rng: 0.001 if url == A else 0.02)
    shadow = shadow_of(pool)
    assert (shadow.algorithm, shadow.picks) == ("round_robin", 300)
    assert abs(shadow.chosen[A] - shadow.chosen[B]) <= 1
    picks = {backend.url: backend.picks for backend in pool.status().backends}
    assert picks[A] > 200
    assert 100 < shadow.differed < 200
    assert pool.status().algorithm == "adaptive"


@pytest.mark.parametrize("beside", ["least_connections", "peak_ewma", "ring_hash"])
def test_without_effect(beside: str) -> None:
    """Rotation is the same with a shadow and without."""

    def picks(algorithm: Any) -> list[str]:
        pool, clock = make_pool(algorithm=algorithm, passive=None)
        found = []
        for _ in range(60):
            ticket = pool.pick(b"key")
            found.append(ticket.backend.url)
            clock.advance(0.01)
            ticket.succeeded(0.01, 429)
        return found

    plain, shadowed = picks("round_robin"), picks(Shadow("round_robin", beside=beside))
    offset = (A, B, C).index(shadowed[0]) - (A, B, C).index(plain[0])
    assert [(A, B, C)[((A, B, C).index(url) + offset) % 3] for url in plain] == shadowed


def test_what_was_counted_survives_a_change_of_the_set() -> None:
    pool, clock = make_pool(A, B, algorithm=Shadow(beside=LeastConnections()))
    one_by_one(pool, clock, 20, alike)
    pool.add(C)
    one_by_one(pool, clock, 20, alike)
    assert shadow_of(pool).picks == 40


def test_a_health_policy_says_whom_it_would_have_ejected() -> None:
    pool, clock = make_pool(
        algorithm=Shadow(passive=PassiveHealth(consecutive_failures=2, base_ejection=5.0))
    )
    for _ in range(2):
        pool.pick(exclude=others(pool, A)).succeeded(0.01, 500)
    shadow = shadow_of(pool)
    assert (shadow.ejections, shadow.ejected, shadow.algorithm) == ({A: 1}, (A,), "")
    pool.pick().release()
    assert (shadow_of(pool).picks, shadow_of(pool).differed) == (1, 0)
    assert all(backend.available for backend in pool.status().backends)
    pool.pick(exclude=others(pool, A)).succeeded(0.01, 500)  # ejected already: nothing new
    clock.advance(6)
    pool.pick(exclude=others(pool, A)).succeeded(0.01, 500)
    assert shadow_of(pool).ejections == {A: 2}
    clock.advance(60)
    pool.pick(exclude=others(pool, A)).succeeded(0.01)
    assert shadow_of(pool).ejected == ()
    pool.pick(exclude=others(pool, B)).succeeded(0.01, 429)
    assert shadow_of(pool).ejections == {A: 2}


def test_it_is_what_the_one_that_decides_is_to_the_pool() -> None:
    assert Pool([A], algorithm=Shadow(beside="random")).passive is None
    pool = Pool([A], algorithm=Shadow("round_robin", beside="adaptive"))
    assert pool.passive == PassiveHealth()
    assert pool.status().shadow is not None
    assert Pool([A]).status().shadow is None
    assert Shadow("ring_hash", beside="adaptive").key == "client_ip"
    assert Shadow("adaptive", beside="ring_hash").key == "client_ip"
    assert not pool.status().backends[0].avoided
    assert Shadow("adaptive", beside="random") == Shadow("adaptive", beside="random")


def test_the_record_shows_what_the_one_that_decides_compared() -> None:
    pool = Pool([A, B], algorithm=Shadow(beside="peak_ewma"), clock=FakeClock(), rng=random.Random(1))
    ticket = pool.pick()
    assert ticket.costs is not None
    assert len(ticket.costs) == 2
    assert ticket.reason is None
    ticket.reported(3)
    ticket.succeeded(0.01, 429)
    assert pool.pick(exclude=[A]).backend.url == B


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "a shadow has nobody to ask"),
        ({"beside": "adaptive"}, ValueError, "both algorithms are 'adaptive'"),
        ({"beside": 7}, TypeError, "beside is 7; write a name"),
        ({"decides": LeastConnections, "beside": "random"}, TypeError, "decides is .*; write a name"),
        ({"passive": True}, TypeError, r"passive is True; write PassiveHealth\(...\), or None"),
    ],
)
def test_bad_shadows_are_refused(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Shadow(**options)
