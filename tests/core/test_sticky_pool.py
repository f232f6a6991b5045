"""Sticky sessions through a pool: whom a tie leads to, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from lbclient import Backend, CookieAffinity, Facts, KeyAffinity, Pool, Record
from lbclient.core.outcome import Ending, Outcome
from tests.core.pools import A, B, C, eject, make_pool, of, shares

SECRET = "a secret of 16 bytes or more"


class Client:
    """Keeps the cookie it is given, as a client's jar does."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.cookie: bytes | None = None
        self.set = 0

    def ask(self) -> tuple[str, bool]:
        headers = [] if self.cookie is None else [(b"Cookie", self.cookie)]
        plan = self.pool.attempts(Facts(headers=headers), now=1e9)
        ticket = plan.first()
        plan.observe(ticket, Outcome(status=200))
        ticket.succeeded(0.01)
        new = plan.answer([])
        if new is not None:
            self.cookie = new[1].partition(b";")[0]
            self.set += 1
        return ticket.backend.url, plan.is_tied(ticket)


def sticky_pool(**options: Any) -> tuple[Pool, Any]:
    return make_pool(affinity=CookieAffinity(secret=SECRET, **options))


def test_a_client_stays_and_is_told_once() -> None:
    pool, _ = sticky_pool()
    clients = [Client(pool) for _ in range(30)]
    homes = [client.ask()[0] for client in clients]
    assert set(homes) == {A, B, C}
    for client, home in zip(clients, homes, strict=True):
        assert [client.ask() for _ in range(5)] == [(home, True)] * 5
        assert client.set == 1


def test_a_client_survives_a_rebuild_of_the_pool() -> None:
    pool, _ = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    client.pool, _ = sticky_pool()
    assert client.ask() == (home, True)


@pytest.mark.parametrize("how", ["eject", "remove", "disable", "fail"])
def test_one_whose_backend_cannot_serve_moves_once_and_is_told(how: str) -> None:
    pool, _ = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    if how == "eject":
        eject(pool, home)
    elif how == "fail":
        pool.report_probe(home, False)
    else:
        getattr(pool, how)(home)
    moved, sticky = client.ask()
    assert moved != home
    assert not sticky
    assert client.set == 2
    assert [client.ask() for _ in range(3)] == [(moved, True)] * 3


def test_a_draining_backend_keeps_its_clients_and_takes_no_new_ones_until_the_grace_ends() -> None:
    pool, clock = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    pool.begin_drain(home, grace=10)
    assert client.ask() == (home, True)
    assert home not in {Client(pool).ask()[0] for _ in range(10)}
    assert pool.ties()[home] == 0
    clock.advance(11)
    assert client.ask()[0] != home
    assert home not in pool.ties()


def test_a_draining_backend_gives_its_clients_away_where_that_is_wanted_or_it_is_unfit() -> None:
    pool, _ = sticky_pool(sticky_while_draining=False)
    client = Client(pool)
    home, _ = client.ask()
    pool.begin_drain(home)
    assert client.ask()[0] != home
    pool, _ = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    pool.begin_drain(home)
    pool.report_probe(home, False)
    assert client.ask()[0] != home


def test_sticky_picks_take_no_turn_of_the_others() -> None:
    pool, _ = sticky_pool()
    client = Client(pool)
    client.ask()
    seen = []
    for _ in range(6):
        client.ask()
        ticket = pool.pick()
        seen.append(ticket.backend.url)
        ticket.succeeded(0.01)
    assert seen[:3] == seen[3:]
    assert set(seen) == {A, B, C}


def test_a_full_backend_is_no_home() -> None:
    pool, _ = make_pool(affinity=KeyAffinity("header:x-user"), max_in_flight=1)
    facts = Facts(headers=[(b"x-user", b"7")])
    first = pool.attempts(facts)
    home = first.first()
    assert first.is_tied(home)
    second = pool.attempts(facts)
    other = second.first()
    assert other.backend != home.backend
    assert not second.is_tied(other)
    assert pool.pick_tied(home.backend.url) is None
    assert pool.pick_tied("http://x") is None


def test_a_client_whose_backend_is_full_moves_and_is_told() -> None:
    pool, _ = make_pool(affinity=CookieAffinity(secret=SECRET), max_in_flight=1)
    client = Client(pool)
    home, _ = client.ask()
    busy = pool.pick_tied(home)
    assert busy is not None
    moved, sticky = client.ask()
    assert (moved != home, sticky, client.set) == (True, False, 2)
    busy.release()
    assert client.ask() == (moved, True)


def test_a_tied_request_can_be_the_trial() -> None:
    pool, clock = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    eject(pool, home)
    clock.advance(40)
    assert client.ask() == (home, True)
    assert of(pool, home).why == "available"


def test_an_attempt_after_a_failure_is_not_sticky() -> None:
    pool, _ = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    assert client.cookie is not None
    plan = pool.attempts(Facts(headers=[(b"Cookie", client.cookie)]), now=1e9)
    ticket = plan.first()
    assert plan.is_tied(ticket)
    plan.observe(ticket, Outcome(Ending.UNREACHABLE, unsent=True))
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    assert step.ticket.backend.url != home
    assert not plan.is_tied(step.ticket)


def test_whom_clients_may_be_tied_to_is_one_object_until_it_changes() -> None:
    pool, _ = sticky_pool()
    before = pool.ties()
    shares(pool)
    assert pool.ties() is before
    pool.report_probe(A, True)
    assert pool.ties() is before
    pool.set_weight(A, 3)
    assert pool.ties() == {A: 3, B: 1, C: 1}
    pool.set_weight(A, 0)
    assert pool.ties() == {A: 0, B: 1, C: 1}, "it keeps the clients it has"


def test_without_an_affinity_nothing_is_sticky() -> None:
    pool, _ = make_pool()
    plan = pool.attempts(Facts())
    ticket = plan.first()
    plan.observe(ticket, Outcome(status=200))
    assert (plan.is_tied(ticket), plan.answer([])) == (False, None)


@pytest.mark.parametrize("affinity", ["cookie", CookieAffinity, 7])
def test_what_is_no_affinity_is_refused(affinity: Any) -> None:
    with pytest.raises(TypeError, match=r"write CookieAffinity\(...\) or another affinity, or None"):
        make_pool(affinity=affinity)


def test_a_priority_that_is_not_needed_has_no_clients_and_a_zone_keeps_those_it_has() -> None:
    pool, _ = make_pool(A, Backend(B, priority=1))
    assert pool.ties() == {A: 1}
    pool.report_probe(A, False)
    assert pool.ties() == {B: 1}
    pool, _ = make_pool(Backend(A, zone="a"), Backend(B, zone="b"), zone="a")
    assert pool.ties() == {A: 1, B: 0}


def test_in_a_panic_clients_stay_where_they_are() -> None:
    pool, _ = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    for url in (A, B, C):
        pool.report_probe(url, False)
    assert client.ask() == (home, True)


@pytest.mark.parametrize("how", ["pick", "pick_tied", "ties"])
def test_what_time_has_changed_is_noticed_and_told_by_whoever_comes_next(how: str) -> None:
    pool, clock = make_pool(A, B, affinity=CookieAffinity(secret=SECRET), panic_threshold=1.0)
    eject(pool, A)
    heard: list[bool] = []
    pool.subscribe(lambda: heard.append(pool.status().panic))
    clock.advance(40)
    if how == "pick":
        pool.pick()
    elif how == "pick_tied":
        assert pool.pick_tied(B) is not None
    else:
        assert pool.ties() == {A: 1, B: 1}
    assert heard == [False]


def test_the_record_of_a_tied_request_says_so() -> None:
    pool, _ = sticky_pool()
    client = Client(pool)
    home, _ = client.ask()
    assert client.cookie is not None
    plan = pool.attempts(Facts(headers=[(b"Cookie", client.cookie)]), now=1e9)
    plan.observe(plan.first(), Outcome(status=200))
    record = Record(plan)
    assert record.sticky
    assert record.backend == home
    assert record.attempts[0].reason == "the client is tied to it"
