"""Pools as Prometheus metrics: what a scrape shows is what the pool says of itself."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lbclient import AsyncBalancedTransport, Hedge, HttpProbe, Pool, Route, Router
from lbclient.core.source import Said, Source, Trouble
from lbclient.observability.prometheus import BUCKETS, STATES, PoolCollector, Transport
from lbclient.testing import FakeClock
from tests.core.pools import A, B, C, eject, fail, make_pool, succeed

LABELS = ("pool", "backend", "state", "le")
Samples = dict[tuple[str, ...], float]


def scrape(collector: PoolCollector) -> dict[str, Samples]:
    """Name of a sample -> the values of its labels -> value, by way of the text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(collector)
    found: dict[str, Samples] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.documentation
        for sample in family.samples:
            samples = found.setdefault(sample.name, {})
            labels = tuple(sample.labels[name] for name in LABELS if name in sample.labels)
            assert labels not in samples, f"{sample} twice"
            samples[labels] = sample.value
    return found


def test_counts_and_gauges_are_those_of_the_status() -> None:
    pool, _ = make_pool(A, B, C)
    collector = PoolCollector(pool)
    succeed(pool, A, 3)
    fail(pool, B, 2)
    held = pool.pick(exclude=[A, B])
    pool.set_weight(A, 2.5)
    seen = scrape(collector)
    assert seen["lbclient_backend_picks_total"] == {("default", A): 3, ("default", B): 2, ("default", C): 1}
    assert seen["lbclient_backend_successes_total"]["default", A] == 3
    assert seen["lbclient_backend_failures_total"]["default", B] == 2
    assert seen["lbclient_backend_in_flight"]["default", C] == 1
    assert seen["lbclient_backend_weight"]["default", A] == 2.5
    assert seen["lbclient_backend_latency_average_seconds"] == {("default", A): 0.01}
    assert seen["lbclient_pool_backends"] == {("default",): 3}
    assert seen["lbclient_pool_available_backends"] == {("default",): 3}
    held.release()


def test_a_source_is_well_or_not() -> None:
    class Registry(Source):
        async def watch(self) -> AsyncIterator[Said]:
            yield ()

    clock = FakeClock()
    pool = Pool(Registry(), clock=clock)
    collector = PoolCollector(pool, Pool([A], name="listed"))
    seen = scrape(collector)
    assert seen["lbclient_pool_source_well"] == {("default",): 1}
    assert "lbclient_pool_source_age_seconds" not in seen
    pool.receive([A])
    clock.advance(7)
    pool.receive(Trouble("down"))
    seen = scrape(collector)
    assert seen["lbclient_pool_source_well"] == {("default",): 0}
    assert seen["lbclient_pool_source_age_seconds"] == {("default",): 7}
    assert seen["lbclient_pool_source_changes_total"] == {("default",): 1}


def test_a_backend_is_in_one_state() -> None:
    pool, _ = make_pool(A, B, C, "http://d:1", "http://e:1", probe=HttpProbe())
    pool.add("http://f:1", standby=True)
    eject(pool, A)
    pool.disable(B)
    pool.begin_drain(C)
    pool.report_probe("http://d:1", False)
    seen = scrape(PoolCollector(pool))["lbclient_backend_state"]
    states = {backend: state for (_, backend, state), value in seen.items() if value}
    assert states == {
        A: "ejected",
        B: "disabled",
        C: "draining",
        "http://d:1": "failing",
        "http://e:1": "available",
        "http://f:1": "standby",
    }
    assert len(seen) == 6 * len(STATES)


def test_ejections_retries_hedges_and_panic_are_seen() -> None:
    pool, _ = make_pool(A, B, hedge=Hedge(delay=1.0))
    collector = PoolCollector(pool)
    eject(pool, A)
    pool.telemetry.retried()
    pool.telemetry.hedged()
    pool.disable(B)
    seen = scrape(collector)
    assert seen["lbclient_backend_ejections_total"] == {("default", A): 1, ("default", B): 0}
    assert seen["lbclient_pool_retries_total"] == {("default",): 1}
    assert seen["lbclient_pool_hedges_total"] == {("default",): 1}
    assert seen["lbclient_pool_panic"] == {("default",): 1}
    assert seen["lbclient_pool_degraded"] == {("default",): 1}


def test_latencies_fall_into_buckets() -> None:
    pool, _ = make_pool(A, B)
    collector = PoolCollector(pool, buckets=(0.01, 0.1, 1.0))
    for latency in (0.005, 0.01, 0.02, 0.5, 7.0):
        pool.pick(exclude=[B]).succeeded(latency)
    pool.pick(exclude=[A]).succeeded(0.05, 503)
    seen = scrape(collector)
    buckets = seen["lbclient_backend_latency_seconds_bucket"]
    assert [buckets["default", A, bound] for bound in ("0.01", "0.1", "1.0", "+Inf")] == [2, 3, 4, 5]
    assert seen["lbclient_backend_latency_seconds_count"] == {("default", A): 5, ("default", B): 1}
    assert math.isclose(seen["lbclient_backend_latency_seconds_sum"]["default", A], 7.535)


def test_without_buckets_there_is_no_histogram_and_nobody_listens() -> None:
    pool, _ = make_pool(A)
    collector = PoolCollector(pool, buckets=())
    succeed(pool, A)
    assert not any("latency_seconds" in name for name in scrape(collector))
    assert pool.telemetry.listeners == ()


def test_backends_that_have_left_are_not_shown() -> None:
    pool, _ = make_pool(A, B)
    collector = PoolCollector(pool)
    succeed(pool, A)
    succeed(pool, B)
    pool.remove(A)
    seen = scrape(collector)
    assert {key[1] for samples in seen.values() for key in samples if len(key) > 1} == {B}


class Changing:
    """A transport whose pools change."""

    def __init__(self, *pools: Pool) -> None:
        self.pools = {pool.name: pool for pool in pools}

    def connections(self) -> dict[str, tuple[int, int]]:
        return {A: (3, 2)}


def test_pools_that_come_and_go_are_followed() -> None:
    first, _ = make_pool(A, name="first")
    second, _ = make_pool(A, name="second")
    transport: Transport = (changing := Changing(first))
    collector = PoolCollector(transport)
    changing.pools = {"second": second}
    collector.follow()
    succeed(first, A)
    succeed(second, A)
    seen = scrape(collector)
    assert seen["lbclient_backend_latency_seconds_count"] == {("second", A): 1}
    assert seen["lbclient_backend_connections"] == {(A, "active"): 1, (A, "idle"): 2}
    assert first.telemetry.listeners == ()


async def test_a_transport_is_measured_with_its_connections() -> None:
    pools = [Pool([url], name=name) for url, name in ((A, "left"), (B, "right"))]
    transport = AsyncBalancedTransport(
        Router([Route(path="/left", to=pools[0])], default=pools[1]),
        inner=lambda _: httpx.MockTransport(lambda _: httpx.Response(200)),
    )
    collector = PoolCollector(transport, pools[0])  # named twice, measured once
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        await client.get("/left")
        await client.get("/right")
        seen = scrape(collector)
    assert seen["lbclient_backend_picks_total"] == {("left", A): 1, ("right", B): 1}
    assert set(seen["lbclient_backend_connections"]) == {
        (url, state) for url in (A, B) for state in ("idle", "active")
    }


def test_the_prefix_can_be_chosen() -> None:
    pool, _ = make_pool(A)
    assert all(name.startswith("orders_") for name in scrape(PoolCollector(pool, prefix="orders")))


def test_every_bound_of_the_default_is_there() -> None:
    pool, _ = make_pool(A)
    collector = PoolCollector(pool)
    succeed(pool, A)
    bounds = {key[-1] for key in scrape(collector)["lbclient_backend_latency_seconds_bucket"]}
    assert bounds == {*map(str, BUCKETS), "+Inf"}


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((), {}, "nothing to measure"),
        ((Pool([A]),), {"buckets": (1.0, 0.1)}, "write bounds that ascend"),
        ((Pool([A]),), {"buckets": (0.0,)}, "above 0"),
        ((Pool([A]), Pool([B])), {}, "two pools are named 'default'"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: Any, options: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        PoolCollector(*arguments, **options)
