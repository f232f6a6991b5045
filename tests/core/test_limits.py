"""Limits: hard, with a queue in front, first come, first served."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lbclient import Facts, NoBackendAvailable, Pool
from lbclient.core.errors import PoolFull
from lbclient.core.waiting import Place, Queue
from tests.core.pools import A, B, C, make_pool, of


class Waiter:
    """Somebody in the queue, who notes being woken."""

    def __init__(self, pool: Pool) -> None:
        assert pool.queue is not None
        self.pool = pool
        self.woken = 0
        self.place = pool.queue.join(self.wake)

    def wake(self) -> None:
        self.woken += 1


def test_a_full_pool_says_that_somebody_may_come_free() -> None:
    pool, _ = make_pool(A, B, max_in_flight=1)
    tickets = [pool.pick(), pool.pick()]
    with pytest.raises(PoolFull, match="1 in flight, the limit"):
        pool.pick()
    tickets[0].release()
    assert pool.pick().backend is tickets[0].backend


def test_the_limit_of_the_pool_counts_all_backends() -> None:
    pool, _ = make_pool(A, B, C, max_requests=2)
    ticket = pool.pick()
    pool.pick()
    with pytest.raises(PoolFull, match="2 in flight in the pool, the limit"):
        pool.pick()
    ticket.release()
    ticket.release()
    pool.pick()
    with pytest.raises(PoolFull):
        pool.pick()


def test_where_nobody_would_come_free_it_is_not_the_limits_fault() -> None:
    pool, _ = make_pool(A, B, max_in_flight=1, fail_open=False)
    pool.report_probe(A, False)
    pool.disable(B)
    with pytest.raises(NoBackendAvailable) as caught:
        pool.pick()
    assert not isinstance(caught.value, PoolFull)
    unlimited, _ = make_pool(A)
    with pytest.raises(NoBackendAvailable) as caught:
        unlimited.pick(exclude=[A])
    assert not isinstance(caught.value, PoolFull)


def test_the_limit_holds_when_failing_open() -> None:
    pool, _ = make_pool(A, max_in_flight=1)
    pool.report_probe(A, False)
    pool.pick()
    with pytest.raises(PoolFull):
        pool.pick()


@pytest.mark.parametrize(
    "change",
    [
        lambda pool, ticket: ticket.release(),
        lambda pool, ticket: pool.add("http://new:1"),
        lambda pool, ticket: pool.enable(B),
    ],
    ids=["a request ends", "a backend is added", "a backend is enabled"],
)
def test_whoever_is_first_is_woken_when_there_may_be_room(change: Callable[..., None]) -> None:
    pool, _ = make_pool(A, B, max_in_flight=1)
    pool.disable(B)
    ticket = pool.pick()
    first, second = Waiter(pool), Waiter(pool)
    change(pool, ticket)
    assert (first.woken > 0, second.woken) == (True, 0)


def test_newcomers_do_not_overtake() -> None:
    pool, _ = make_pool(A, max_in_flight=1)
    ticket = pool.pick()
    first, second = Waiter(pool), Waiter(pool)
    ticket.release()
    with pytest.raises(PoolFull):
        pool.pick()
    with pytest.raises(PoolFull):
        pool.attempts(Facts()).first(second.place)
    mine = pool.attempts(Facts()).first(first.place)
    assert pool.queue is not None
    pool.queue.leave(first.place)
    assert second.woken == 1, "there may be more room"
    mine.release()
    assert second.woken == 2
    pool.pick(place=second.place)


def test_a_retry_need_not_queue() -> None:
    pool, _ = make_pool(A, B, max_in_flight=1)
    pool.pick(exclude=[B])
    Waiter(pool)
    assert pool.pick(exclude=[A]).backend.url == B


def test_who_gives_up_passes_the_call_on() -> None:
    pool, _ = make_pool(A, max_in_flight=1)
    ticket = pool.pick()
    first, second = Waiter(pool), Waiter(pool)
    ticket.release()
    assert pool.queue is not None
    pool.queue.leave(first.place)
    assert second.woken == 1


def test_only_so_many_may_wait() -> None:
    pool, _ = make_pool(A, max_in_flight=1, max_pending=2)
    pool.pick()
    Waiter(pool)
    Waiter(pool)
    assert repr(pool.queue) == "<Queue of pool 'default', 2 of 2 waiting>"
    with pytest.raises(NoBackendAvailable, match="2 requests wait already"):
        Waiter(pool)


def test_leaving_twice_is_leaving_once() -> None:
    queue = Queue("x", 1)
    place = queue.join(lambda: None)
    queue.leave(place)
    queue.leave(place)
    assert len(queue) == 0
    assert not queue.overtakes(None)
    assert not queue.overtakes(Place(lambda: None))


def test_time_that_changes_the_answer_is_told() -> None:
    pool, clock = make_pool(A, B)
    assert pool.changes_in() == float("inf")
    pool.begin_drain(A, grace=5)
    assert pool.changes_in() == 5
    clock.advance(9)
    assert pool.changes_in() == 0


@pytest.mark.parametrize(
    "arguments", [{"max_requests": 0}, {"max_requests": 1.5}, {"max_pending": -1}, {"max_in_flight": 0}]
)
def test_out_of_range_is_refused_in_words(arguments: dict[str, int]) -> None:
    with pytest.raises((ValueError, TypeError), match=r" is .*; write "):
        Pool([A], **arguments)  # type: ignore[arg-type]


# Finalizers run wherever memory is allocated, also in a thread that is in the middle of the pool's own work


def test_a_ticket_that_nobody_holds_any_more_ends_at_once_when_the_pool_is_at_rest() -> None:
    pool, _ = make_pool(A, max_in_flight=1)
    ticket = pool.pick()
    ticket.abandon()
    assert not ticket.open
    assert of(pool, A).in_flight == 0


@pytest.mark.parametrize("after", ["status", "pick", "end"])
def test_a_ticket_that_is_dropped_in_the_middle_of_the_pools_work_ends_a_moment_later(after: str) -> None:
    pool, _ = make_pool(A)
    dropped, other = pool.pick(), pool.pick()
    with pool._lock:
        dropped.abandon()  # would wait for itself
    assert dropped.open
    if after == "pick":
        pool.pick().release()
    elif after == "end":
        other.release()
    assert of(pool, A).in_flight == (0 if after == "end" else 1)
    assert not dropped.open


def test_a_ticket_that_is_dropped_while_the_queue_is_at_work_ends_a_moment_later() -> None:
    pool, _ = make_pool(A, max_in_flight=1)
    ticket = pool.pick()
    assert pool.queue is not None
    with pool.queue._lock:
        ticket.abandon()
    assert ticket.open
    assert of(pool, A).in_flight == 0  # a status looks
    assert not ticket.open
