"""Pools on a clock that the test moves, and short words for what happens to them."""

from __future__ import annotations

import random
from typing import Any

from lbclient import Backend, BackendStatus, Pool
from lbclient.core.algorithms.fading import Estimate
from lbclient.testing import FakeClock

A, B, C = "http://a:1", "http://b:1", "http://c:1"


def make_pool(*backends: str | Backend, **options: Any) -> tuple[Pool, FakeClock]:
    clock = FakeClock()
    options = {"algorithm": "round_robin", "rng": random.Random(7), **options}
    return Pool(backends or (A, B, C), clock=clock, **options), clock


def of(pool: Pool, url: str) -> BackendStatus:
    return next(status for status in pool.status().backends if status.url == url)


def others(pool: Pool, url: str) -> list[str]:
    return [status.url for status in pool.status().backends if status.url != url]


def fail(pool: Pool, url: str, times: int = 1, status: int = 500) -> None:
    """`times` requests to `url` that end with this status."""
    for _ in range(times):
        pool.pick(exclude=others(pool, url)).succeeded(0.01, status)


def succeed(pool: Pool, url: str, times: int = 1) -> None:
    fail(pool, url, times, status=200)


def eject(pool: Pool, url: str) -> None:
    fail(pool, url, 5)
    assert of(pool, url).ejected


def estimate_of(pool: Pool, url: str) -> Estimate:
    """What `Adaptive` knows of a backend."""
    estimate = pool.state(url).memory["adaptive"]
    assert isinstance(estimate, Estimate)
    return estimate


def shares(pool: Pool, picks: int = 300) -> dict[str, int]:
    """Who gets how many of so many requests that end at once, and well."""
    counts = dict.fromkeys((status.url for status in pool.status().backends), 0)
    for _ in range(picks):
        ticket = pool.pick()
        counts[ticket.backend.url] += 1
        ticket.succeeded(0.01)
    return counts
