"""A pool whose backends a source says: what a set changes, what it leaves alone, and what is no set."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lbclient import Backend, CookieAffinity, NoBackendAvailable, Pool
from lbclient.core.deploy import Swap
from lbclient.core.errors import NoSetYet
from lbclient.core.source import Said, Source, Trouble
from lbclient.testing import FakeClock
from tests.core.pools import A, B, C, eject, of


class Registry(Source):
    """Says nothing by itself: the tests call `pool.receive`."""

    async def watch(self) -> AsyncIterator[Said]:
        yield ()


class Exact(Registry):
    allow_empty = True

    def __str__(self) -> str:
        return "the exact registry"


def make(source: Source | None = None, **options: Any) -> tuple[Pool, FakeClock]:
    clock = FakeClock()
    return Pool(source or Registry(), algorithm="round_robin", clock=clock, **options), clock


def urls(pool: Pool) -> list[str]:
    return [backend.url for backend in pool.declared]


def source_of(pool: Pool) -> Any:
    status = pool.status().source
    assert status is not None
    return status


# Before the first set


def test_before_the_first_set_a_pick_says_whose_set_is_missing() -> None:
    pool, _ = make()
    with pytest.raises(NoSetYet, match=r"pool 'default' is available \(no set from Registry yet\)"):
        pool.pick()
    assert urls(pool) == []
    assert pool.status().degraded
    assert pool.status().why == "nobody may be picked"


def test_and_what_is_wrong_with_the_source() -> None:
    pool, _ = make()
    pool.receive(Trouble("connection refused"))
    with pytest.raises(NoBackendAvailable, match="no set from Registry yet: connection refused"):
        pool.pick()


def test_the_first_set_is_served() -> None:
    pool, _ = make()
    pool.receive([A, Backend(B, weight=2)])
    assert urls(pool) == [A, B]
    assert pool.pick().backend.url in (A, B)
    assert not pool.status().degraded


def test_an_initial_set_serves_until_the_first_one_comes() -> None:
    pool, _ = make(initial=[C])
    pool.receive(Trouble("down"))
    assert pool.pick().backend.url == C
    pool.receive([A])
    assert urls(pool) == [A]


def test_an_initial_set_is_for_sources() -> None:
    with pytest.raises(TypeError, match="initial is who serves until a source"):
        Pool([A], initial=[B])


def test_an_initial_set_has_to_be_one() -> None:
    with pytest.raises(ValueError, match="http://a:1 more than once"):
        make(initial=[A, A])


def test_an_empty_list_is_no_source() -> None:
    with pytest.raises(ValueError, match="has no backends"):
        Pool([])


def test_a_pool_with_a_list_receives_nothing() -> None:
    pool = Pool([A])
    assert pool.status().source is None
    with pytest.raises(RuntimeError, match="has no source; use update"):
        pool.receive([B])


# A set that follows another


def test_those_that_stay_keep_their_numbers_their_health_and_what_operators_said() -> None:
    pool, _ = make()
    pool.receive([A, B, C])
    eject(pool, A)
    pool.disable(B)
    failures = of(pool, A).failures
    pool.receive([Backend(A, weight=5), B, "http://d:1"])
    assert of(pool, A).ejected
    assert of(pool, A).failures == failures
    assert of(pool, A).weight == 5
    assert of(pool, B).admin == "disabled"


def test_those_that_go_take_no_new_picks_and_finish_what_they_have() -> None:
    pool, _ = make()
    pool.receive([A])
    ticket = pool.pick()
    pool.receive([B])
    assert {pool.pick().backend.url for _ in range(5)} == {B}
    ticket.succeeded(0.1)
    pool.receive([A, B])
    assert of(pool, A).in_flight == 0


def test_the_same_set_again_changes_nothing_but_the_status(caplog: pytest.LogCaptureFixture) -> None:
    pool, clock = make()
    pool.receive([A, B])
    generation = pool.status().generation
    pool.add(C)
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        clock.advance(10)
        pool.receive([A, B])
    assert caplog.messages == []
    assert pool.status().generation == generation + 1  # of the add
    assert urls(pool) == [A, B, C]
    assert (source_of(pool).sets, source_of(pool).changes, source_of(pool).age) == (2, 1, 0)


# What is no set


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "its set is empty"),
        ([A, A], "http://a:1 more than once"),
        (["nonsense"], "backend 'nonsense' has no scheme"),
        ([3], "not 3"),
        (None, "not iterable"),
        (Trouble("timed out"), "timed out"),
    ],
)
def test_trouble_keeps_the_last_good_set(said: Any, words: str, caplog: pytest.LogCaptureFixture) -> None:
    pool, clock = make()
    pool.receive([A, B])
    clock.advance(7)
    with caplog.at_level(logging.INFO):
        pool.receive(said)
        pool.receive(said)
    assert urls(pool) == [A, B]
    assert len(caplog.messages) == 1, "one line a change, not one a poll"
    assert "Registry is in trouble, 2 backends stay: " in caplog.text
    status = source_of(pool)
    assert words in status.last_error
    assert (status.well, status.last_error_age, status.age, status.sets) == (False, 0, 7, 1)
    assert "in trouble" in repr(pool.supply)


def test_it_is_said_when_the_trouble_is_over(caplog: pytest.LogCaptureFixture) -> None:
    pool, clock = make()
    pool.receive([A])
    pool.receive(Trouble("timed out"))
    clock.advance(3)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        pool.receive([A])
    assert caplog.messages == ["default: Registry is well again"]
    assert source_of(pool).well
    assert (source_of(pool).last_error, source_of(pool).last_error_age) == ("timed out", 3)
    assert repr(pool.supply) == "<Supply from Registry, 2 sets>"


def test_nobody_is_an_answer_where_the_source_says_so() -> None:
    pool, _ = make(Exact())
    pool.receive([A])
    pool.receive([])
    assert urls(pool) == []
    with pytest.raises(NoBackendAvailable, match="the set of the exact registry is empty") as caught:
        pool.pick()
    assert not isinstance(caught.value, NoSetYet)
    pool.receive([B])
    assert pool.pick().backend.url == B


def test_before_anything_was_said_nothing_has_an_age() -> None:
    pool, _ = make()
    status = source_of(pool)
    assert (status.name, status.well, status.age, status.last_error, status.last_error_age) == (
        "Registry",
        True,
        None,
        "",
        None,
    )


# Draining, as declared


def drained(url: str) -> Backend:
    return Backend(url, draining=True)


def test_who_is_declared_to_drain_takes_no_new_picks_and_keeps_its_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool, _ = make(affinity=CookieAffinity(secret="s" * 32))
    pool.receive([A, B])
    with caplog.at_level(logging.INFO):
        pool.receive([drained(A), B])
    assert "['http://a:1'] are declared to be draining" in caplog.text
    assert of(pool, A).admin == "draining"
    assert {pool.pick().backend.url for _ in range(5)} == {B}
    assert pool.pick_tied(A) is not None


def test_it_drains_for_as_long_as_it_is_declared() -> None:
    pool, clock = make()
    pool.receive([drained(A), B])
    clock.advance(1e6)
    assert of(pool, A).admin == "draining"
    pool.receive([A, B])
    assert of(pool, A).admin == "active"


def test_an_operator_overrules_what_is_declared_until_it_changes() -> None:
    pool, _ = make()
    pool.receive([drained(A), B])
    pool.enable(A)
    pool.receive([drained(A), B, C])
    assert of(pool, A).admin == "active"
    pool.receive([A, B, C])
    assert of(pool, A).admin == "active"
    pool.receive([drained(A), B, C])
    assert of(pool, A).admin == "draining"


def test_what_is_declared_does_not_overrule_who_is_disabled() -> None:
    pool, _ = make()
    pool.receive([A, B])
    pool.disable(A)
    for backend in (drained(A), Backend(A)):
        pool.receive([backend, B])
        assert of(pool, A).admin == "disabled"


# The rest of the pool


def test_a_flip_of_a_pool_with_a_source_is_refused() -> None:
    pool, _ = make()
    pool.receive([A])
    with pytest.raises(RuntimeError, match="has a source, Registry, which says who belongs to it"):
        Swap(pool, [B])


def test_a_fleet_of_hundreds_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pool, _ = make()
    with caplog.at_level(logging.INFO):
        pool.receive([f"http://10.0.0.{number}" for number in range(200)])
    assert "'and 180 more'" in caplog.text
    assert len(caplog.text) < 2000


# Doubts


def test_a_pool_is_half_down_when_half_of_those_meant_to_serve_are() -> None:
    pool, _ = make()
    assert not pool.is_half_down()
    pool.receive([A, B, C, drained("http://d:1")])
    assert not pool.is_half_down()
    eject(pool, A)
    assert not pool.is_half_down()
    pool.report_probe(B, False)
    assert pool.is_half_down()


def test_a_source_that_does_not_care_is_not_asked_again() -> None:
    Registry().doubt()


def test_a_source_is_told_by_its_name() -> None:
    class Nowhere(Source):
        async def watch(self) -> AsyncIterator[Said]:
            yield ["http://a"]

    assert repr(Nowhere()) == "<Nowhere>"
