"""How many backends of a large pool a client looks at, and which."""

import random
from collections import Counter
from typing import Any

import pytest

from lbclient import Backend, Pool
from lbclient.testing import FakeClock


def large(size: int, seed: int = 1, **options: Any) -> tuple[Pool, FakeClock]:
    clock = FakeClock()
    backends = [Backend(f"http://10.0.{n >> 8}.{n & 255}:80") for n in range(size)]
    return Pool(backends, clock=clock, rng=random.Random(seed), **options), clock


def send(
    pool: Pool, clock: FakeClock, requests: int, rate: float, bad: frozenset[str] = frozenset()
) -> Counter[str]:
    """At a steady rate; each is answered before the next."""
    picked: Counter[str] = Counter()
    for _ in range(requests):
        ticket = pool.pick()
        url = ticket.backend.url
        picked[url] += 1
        clock.advance(1 / rate)
        ticket.succeeded(0.001, 500 if url in bad else 200)
    return picked


def test_up_to_sixty_four_are_all_looked_at() -> None:
    pool, clock = large(64)
    assert len(send(pool, clock, 1000, 10)) == 64


def test_of_more_a_client_keeps_to_sixty_four_of_its_own() -> None:
    pool, clock = large(1000)
    first = set(send(pool, clock, 1000, 10))
    assert len(first) == 64
    assert set(send(pool, clock, 1000, 10)) == first
    other, clock = large(1000, seed=2)
    assert len(first & set(send(other, clock, 1000, 10))) < 20


def test_a_backend_that_leaves_changes_nothing_else() -> None:
    pool, clock = large(200)
    before = set(send(pool, clock, 1000, 10))
    pool.remove(min(before))
    pool.remove(min(before - {min(before)}))
    assert pool.status().generation >= 2


def test_a_busy_client_spreads_over_all() -> None:
    pool, clock = large(1000)
    send(pool, clock, 5000, 5000)  # its rate shows
    assert len(send(pool, clock, 10_000, 5000)) > 950


def test_the_slices_of_peers_lie_evenly_and_cover_everybody() -> None:
    used: Counter[str] = Counter()
    for index in range(10):
        pool, clock = large(60, peer=(index, 10), seed=index)
        slice_ = send(pool, clock, 300, 5)
        assert len(slice_) == 12
        used.update(slice_.keys())
    assert len(used) == 60
    assert set(used.values()) == {2}


def test_peers_of_a_small_pool_look_at_all_of_it() -> None:
    pool, clock = large(12, peer=(1, 100))
    assert len(send(pool, clock, 200, 5)) == 12


def test_a_busy_peer_looks_at_more() -> None:
    pool, clock = large(60, peer=(1, 10))
    send(pool, clock, 200, 100)
    assert len(send(pool, clock, 2000, 100)) in range(24, 27)


@pytest.mark.parametrize("options", [{}, {"peer": (0, 4)}])
def test_when_a_slice_fails_the_client_looks_beyond_it(options: dict[str, Any]) -> None:
    pool, clock = large(300, **options)
    mine = frozenset(send(pool, clock, 600, 40))
    send(pool, clock, 200, 40, bad=mine)
    after = send(pool, clock, 300, 40, bad=mine)
    assert sum(count for url, count in after.items() if url not in mine) > 150


def test_a_pick_that_has_to_step_around_all_of_its_aperture_finds_somebody() -> None:
    pool, clock = large(200)
    mine = set(send(pool, clock, 1000, 10))
    assert pool.pick(exclude=mine).backend.url not in mine
    everybody = {backend.url for backend in pool.status().backends}
    for last in sorted(everybody)[:5]:
        assert pool.pick(exclude=everybody - {last}).backend.url == last
