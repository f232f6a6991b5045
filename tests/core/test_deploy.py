"""Drains and flips decided: what is staged, when it is ready, what the guard concludes, and what is left in the end."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lbclient import Backend, CookieAffinity, Guard, Pool, TcpProbe
from lbclient.core.deploy import Leaving, Swap, Verdict
from tests.core.pools import A, B, C, fail, make_pool, of, shares, succeed

D = "http://d:1"


def pool_of(*backends: Any, probed: bool = True) -> tuple[Pool, Any]:
    return make_pool(*(backends or (A, B)), probe=TcpProbe() if probed else None)


def test_the_new_set_is_probed_and_not_picked_until_all_of_it_passes() -> None:
    pool, _ = pool_of()
    swap = Swap(pool, [C, D])
    swap.stage()
    assert shares(pool) == {A: 150, B: 150, C: 0, D: 0}
    assert swap.unready() == {C: "check unknown", D: "check unknown"}
    pool.report_probe(C, True)
    pool.report_probe(D, False)
    assert swap.unready() == {D: "check failing"}
    pool.report_probe(D, True)
    pool.report_probe(D, True)
    assert swap.unready() == {}


def test_a_new_backend_that_somebody_removes_meanwhile_is_not_ready() -> None:
    pool, _ = pool_of()
    swap = Swap(pool, [C, D])
    swap.stage()
    pool.report_probe(C, True)
    pool.remove(D)
    assert swap.unready() == {D: "it was removed meanwhile"}
    swap.unstage()
    assert shares(pool) == {A: 150, B: 150}


def test_an_old_backend_that_somebody_removes_meanwhile_does_not_stop_the_flip() -> None:
    pool, _ = pool_of(probed=False)
    swap = Swap(pool, [C])
    swap.stage()
    pool.remove(A)
    swap.flip(grace=10)
    assert shares(pool) == {B: 0, C: 300}
    swap.settle()
    assert shares(pool) == {C: 300}


def test_going_back_passes_over_those_who_left_meanwhile() -> None:
    pool, _ = pool_of(probed=False)
    swap = Swap(pool, [C, D], Guard())
    swap.stage()
    swap.flip(grace=10)
    pool.remove(A)
    pool.remove(C)
    swap.go_back()
    assert shares(pool) == {B: 300}


def test_with_nobody_to_go_back_to_the_new_set_is_kept() -> None:
    pool, _ = pool_of(probed=False)
    swap = Swap(pool, [C], Guard(min_requests=1))
    swap.stage()
    swap.flip(grace=10)
    pool.update([C])
    fail(pool, C)
    assert swap.verdict() is Verdict.KEEP
    swap.settle()
    assert shares(pool) == {C: 300}


def test_the_last_backend_of_a_pool_is_left_to_it() -> None:
    pool, _ = pool_of(probed=False)
    swap = Swap(pool, [C])
    swap.stage()
    swap.flip(grace=10)
    pool.update([A])
    swap.settle()
    assert [status.url for status in pool.status().backends] == [A]


def test_the_counts_of_one_who_returned_meanwhile_are_its_new_ones() -> None:
    pool, _ = pool_of(probed=False)
    succeed(pool, B, 5)
    swap = Swap(pool, [B, C], Guard(min_requests=1))
    swap.stage()
    swap.flip(grace=10)
    pool.remove(B)
    pool.add(B)
    assert swap.verdict() is Verdict.WAIT
    fail(pool, C)
    assert swap.verdict() is Verdict.GO_BACK
    assert swap.why_back() == "0.0% of 1 requests succeeded after the flip, 100.0% before it"


def test_without_a_probe_whom_nothing_speaks_against_is_ready() -> None:
    pool, _ = pool_of(probed=False)
    swap = Swap(pool, [C])
    swap.stage()
    assert swap.unready() == {}
    pool.report_probe(C, False)
    assert swap.unready() == {C: "check failing"}


def test_the_flip_is_one_snapshot_and_the_old_set_drains() -> None:
    pool, clock = pool_of()
    swap = Swap(pool, [B, C])
    swap.stage()
    before = pool.status().generation
    swap.flip(grace=10)
    assert pool.status().generation == before + 1
    assert shares(pool) == {A: 0, B: 150, C: 150}
    assert of(pool, A).admin == "draining"
    assert swap.verdict() is Verdict.KEEP
    assert (swap.added, swap.removed) == ((C,), (A,))
    clock.advance(11)
    swap.settle()
    assert [status.url for status in pool.status().backends] == [B, C]


def test_who_stays_is_declared_as_the_new_set_declares_it() -> None:
    pool, _ = pool_of()
    succeed(pool, B, 3)
    swap = Swap(pool, [Backend(B, weight=5)])
    swap.stage()
    swap.flip(0)
    swap.settle()
    assert [(status.url, status.weight, status.successes) for status in pool.status().backends] == [(B, 5, 3)]


def test_a_flip_that_does_not_happen_changes_nothing() -> None:
    pool, _ = pool_of()
    before = [status.url for status in pool.status().backends]
    swap = Swap(pool, [C, D])
    swap.stage()
    swap.unstage()
    assert [status.url for status in pool.status().backends] == before
    assert shares(pool) == {A: 150, B: 150}


def test_a_guard_goes_back_when_success_falls() -> None:
    pool, _ = pool_of(probed=False)
    succeed(pool, A, 100)
    swap = Swap(pool, [C, D], Guard(window=30, max_drop=0.05, min_requests=20))
    swap.stage()
    swap.flip(0)
    assert of(pool, A).admin == "standby"
    fail(pool, C, 2)
    succeed(pool, C, 17)
    assert swap.verdict() is Verdict.WAIT, "19 requests prove nothing"
    succeed(pool, D, 1)
    assert swap.verdict() is Verdict.GO_BACK
    assert swap.why_back() == "90.0% of 20 requests succeeded after the flip, 100.0% before it"
    swap.go_back()
    assert [status.url for status in pool.status().backends] == [A, B]
    assert shares(pool) == {A: 150, B: 150}


def test_a_guard_keeps_the_new_set_after_its_window() -> None:
    pool, clock = pool_of(probed=False)
    succeed(pool, A, 90)
    fail(pool, B, 2)
    swap = Swap(pool, [C], Guard(window=30, max_drop=0.05, min_requests=20))
    swap.stage()
    swap.flip(0)
    succeed(pool, C, 50)
    assert swap.verdict() is Verdict.WAIT
    clock.advance(30)
    assert swap.verdict() is Verdict.KEEP


def test_the_old_set_is_as_it_was_when_the_guard_goes_back() -> None:
    pool, _ = pool_of(A, B, C, probed=False)
    pool.disable(B)
    swap = Swap(pool, [D], Guard())
    swap.stage()
    swap.flip(0)
    swap.go_back()
    assert [status.admin for status in pool.status().backends] == ["active", "disabled", "active"]


@pytest.mark.parametrize(
    ("backends", "error", "message"),
    [
        ([], ValueError, "backends is empty; write the whole new set"),
        (A, TypeError, "write a list of URLs or Backends"),
        (None, TypeError, "write a list of URLs or Backends"),
        ([C, C], ValueError, "a URL more than once"),
        (["nonsense"], ValueError, "has no scheme"),
    ],
)
def test_what_is_no_set_is_refused(backends: Any, error: type[Exception], message: str) -> None:
    pool, _ = pool_of()
    with pytest.raises(error, match=message):
        Swap(pool, backends)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"max_drop": 2}, "max_drop is 2"),
        ({"min_requests": 0}, "min_requests is 0"),
    ],
)
def test_a_guard_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guard(**options)


# Whoever is leaving, while others change the set


def drained(pool: Pool, url: str) -> Leaving:
    leaving = Leaving(pool, url)
    pool.begin_drain(url)
    return leaving


def test_a_drain_waits_for_what_is_in_flight_and_then_disables() -> None:
    pool, _ = pool_of(A, B, probed=False)
    ticket = pool.pick(exclude=[B])
    leaving = drained(pool, A)
    busy = [leaving.is_busy]
    ticket.release()
    busy.append(leaving.is_busy)
    assert busy == [True, False]
    assert leaving.goes_on
    leaving.disable()
    assert of(pool, A).admin == "disabled"


def test_one_that_is_removed_while_it_drains_is_waited_for_and_goes() -> None:
    pool, _ = pool_of(A, B, probed=False)
    ticket = pool.pick(exclude=[B])
    leaving = drained(pool, A)
    pool.remove(A)
    assert leaving.is_busy
    heard: list[bool] = []
    pool.subscribe(lambda: heard.append(leaving.is_busy))
    ticket.release()
    assert heard == [False]
    assert leaving.goes_on
    leaving.disable()
    assert [status.url for status in pool.status().backends] == [B]


@pytest.mark.parametrize("in_flight", [True, False])
def test_one_that_is_removed_while_it_drains_and_added_anew_is_left_alone(in_flight: bool) -> None:
    pool, _ = pool_of(A, B, probed=False)
    if in_flight:
        pool.pick(exclude=[B])
    leaving = drained(pool, A)
    pool.remove(A)
    pool.add(A)
    assert not leaving.is_busy
    assert not leaving.goes_on
    leaving.disable()
    assert of(pool, A).admin == "active"


def test_one_that_is_enabled_again_is_left_alone() -> None:
    pool, _ = pool_of(A, B, probed=False)
    pool.pick(exclude=[B])
    leaving = drained(pool, A)
    pool.enable(A)
    assert not leaving.is_busy
    assert not leaving.goes_on


@pytest.mark.parametrize("stays", [True, False])
def test_a_drain_waits_for_clients_who_are_tied_unless_they_are_given_away(stays: bool) -> None:
    pool, _ = make_pool(A, B, affinity=CookieAffinity(sticky_while_draining=stays))
    pool.state(A).tied = True
    leaving = drained(pool, A)
    busy = [leaving.is_busy]
    pool.remove(A)  # and nobody can come back to it
    assert [*busy, leaving.is_busy] == [stays, False]


def test_no_pick_slips_through_a_drain_that_has_begun() -> None:
    pool, _ = make_pool(A, B)
    stop = threading.Event()

    def customer() -> None:
        while not stop.is_set():
            with pool.pick():
                pass

    threads = [threading.Thread(target=customer) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            changed = threading.Event()
            unsubscribe = pool.subscribe(changed.set)
            leaving = drained(pool, A)
            picks = of(pool, A).picks
            while leaving.is_busy:
                assert changed.wait(20), "whoever ends last says so"
                changed.clear()
            assert of(pool, A).picks == picks
            assert of(pool, A).in_flight == 0
            unsubscribe()
            pool.enable(A)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_guard_is_one() -> None:
    pool, _ = pool_of("http://a")
    with pytest.raises(TypeError, match=r"guard is 30; write Guard\(...\), or None"):
        Swap(pool, ["http://b"], 30)  # type: ignore[arg-type]
