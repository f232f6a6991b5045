"""Pools as Prometheus metrics.

    REGISTRY.register(PoolCollector(transport))

Everything but the histogram is read off `pool.status()` when it is scraped, so requests pay nothing for it. The
histogram of latencies costs each answer a search in a list of bounds and three additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from threading import Lock
from typing import Protocol, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lbclient.core.checks import check_number
from lbclient.core.pool import Pool
from lbclient.core.status import BackendStatus, PoolStatus

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds."""

STATES = ("available", "ejected", "failing", "draining", "disabled", "standby")


class Transport(Protocol):
    """As much of a balanced transport, of whichever flavour, as there is to measure."""

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools by name."""
        ...  # pragma: no cover - a protocol

    def connections(self) -> dict[str, tuple[int, int]]:
        """(open, idle) by backend URL."""
        ...  # pragma: no cover - a protocol


Measured: TypeAlias = Pool | Transport


class PoolCollector(Collector):
    """The metrics of pools, for a registry of prometheus_client's.

    Which pools a transport has is asked at every scrape, so pools that come and go are followed; the latencies of one
    that comes are counted from then on.

    Args:
        measured: Pools, and transports for all of their pools with their connections.
        buckets: Upper bounds of the histogram of latencies, in seconds, ascending; empty for no histogram.
        prefix: What the names of all metrics begin with.

    Raises:
        ValueError, TypeError: The bounds do not ascend, or there is nothing to measure.
    """

    def __init__(
        self, *measured: Measured, buckets: Sequence[float] = BUCKETS, prefix: str = "lbclient"
    ) -> None:
        if not measured:
            raise TypeError("there is nothing to measure; write PoolCollector(transport)")
        for bound in buckets:
            check_number("a bound in buckets", bound, above=0)
        if list(buckets) != sorted(set(buckets)):
            raise ValueError(f"buckets is {buckets!r}; write bounds that ascend, like {BUCKETS[:3]}")
        self._measured = measured
        self._buckets = tuple(buckets)
        self._prefix = prefix
        self._latencies: dict[Pool, _Latencies] = {}
        self.follow()

    def follow(self) -> None:
        """Count the latencies of pools that are new; those that are gone are forgotten."""
        pools = set(self._pools())
        for pool in self._latencies.keys() - pools:
            self._latencies.pop(pool).stop()
        if self._buckets:
            for pool in pools - self._latencies.keys():
                self._latencies[pool] = _Latencies(pool, self._buckets)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect: the names are all ours, by their prefix."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        self.follow()
        statuses = [pool.status() for pool in self._pools()]
        yield from _pool_metrics(self._prefix, statuses)
        yield from _backend_metrics(self._prefix, statuses)
        yield self._connections()
        if self._buckets:
            yield self._histogram(statuses)

    def _pools(self) -> list[Pool]:
        found: dict[str, Pool] = {}
        for each in self._measured:
            for pool in [each] if isinstance(each, Pool) else each.pools.values():
                if found.setdefault(pool.name, pool) is not pool:
                    raise ValueError(
                        f"two pools are named {pool.name!r}; give each Pool(...) a name= of its own, or measure them "
                        "with a registry each"
                    )
        return list(found.values())

    def _connections(self) -> Metric:
        metric = GaugeMetricFamily(
            f"{self._prefix}_backend_connections", "Connections to the backend.", labels=["backend", "state"]
        )
        total: dict[str, tuple[int, int]] = {}
        for each in self._measured:
            for url, (opened, idle) in ({} if isinstance(each, Pool) else each.connections()).items():
                before = total.get(url, (0, 0))
                total[url] = (before[0] + opened, before[1] + idle)
        for url, (opened, idle) in total.items():
            metric.add_metric([url, "idle"], idle)
            metric.add_metric([url, "active"], opened - idle)
        return metric

    def _histogram(self, statuses: list[PoolStatus]) -> Metric:
        metric = HistogramMetricFamily(
            f"{self._prefix}_backend_latency_seconds",
            "Time from sending a request to the headers of the response, by attempt.",
            labels=["pool", "backend"],
        )
        members = {status.name: {each.url for each in status.backends} for status in statuses}
        bounds = [*map(str, self._buckets), "+Inf"]
        for pool, latencies in self._latencies.items():
            for url, (counts, seconds) in latencies.by_backend(members[pool.name]).items():
                cumulated = zip(bounds, accumulate(counts), strict=True)
                metric.add_metric([pool.name, url], list(cumulated), sum_value=seconds)
        return metric


class _Latencies:
    """The histograms of one pool's backends."""

    __slots__ = ("_bounds", "_counts", "_lock", "_seconds", "stop")

    def __init__(self, pool: Pool, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._lock = Lock()
        self.stop = pool.telemetry.listen(self._add)

    def _add(self, url: str, latency: float, status: int) -> None:
        slot = bisect_left(self._bounds, latency)
        with self._lock:  # += is no atomic operation
            counts = self._counts.get(url)
            if counts is None:
                counts = self._counts[url] = [0] * (len(self._bounds) + 1)
                self._seconds[url] = 0.0
            counts[slot] += 1
            self._seconds[url] += latency

    def by_backend(self, members: set[str]) -> dict[str, tuple[list[int], float]]:
        """Counts and sum of each backend; those of backends that have left are forgotten."""
        with self._lock:
            for url in self._counts.keys() - members:
                del self._counts[url], self._seconds[url]
            return {url: (list(counts), self._seconds[url]) for url, counts in self._counts.items()}


def _pool_metrics(prefix: str, statuses: list[PoolStatus]) -> Iterator[Metric]:
    available = GaugeMetricFamily(
        f"{prefix}_pool_available_backends", "Backends that may be picked.", labels=["pool"]
    )
    size = GaugeMetricFamily(f"{prefix}_pool_backends", "Backends.", labels=["pool"])
    degraded = GaugeMetricFamily(
        f"{prefix}_pool_degraded",
        "1 while the first priority does not carry all of the load.",
        labels=["pool"],
    )
    panic = GaugeMetricFamily(f"{prefix}_pool_panic", "1 while picks ignore health.", labels=["pool"])
    retries = CounterMetricFamily(
        f"{prefix}_pool_retries", "Attempts after the first, one at a time.", labels=["pool"]
    )
    hedges = CounterMetricFamily(f"{prefix}_pool_hedges", "Copies of slow requests.", labels=["pool"])
    well = GaugeMetricFamily(
        f"{prefix}_pool_source_well", "1 while the source of its backends says sets.", labels=["pool"]
    )
    age = GaugeMetricFamily(
        f"{prefix}_pool_source_age_seconds", "Since the source said a set.", labels=["pool"], unit="seconds"
    )
    changes = CounterMetricFamily(
        f"{prefix}_pool_source_changes", "Sets that were another one than before.", labels=["pool"]
    )
    for status in statuses:
        labels = [status.name]
        available.add_metric(labels, sum(backend.available for backend in status.backends))
        size.add_metric(labels, len(status.backends))
        degraded.add_metric(labels, status.degraded)
        panic.add_metric(labels, status.panic)
        retries.add_metric(labels, status.retries)
        hedges.add_metric(labels, status.hedges)
        if status.source is not None:
            well.add_metric(labels, status.source.well)
            changes.add_metric(labels, status.source.changes)
            if status.source.age is not None:
                age.add_metric(labels, status.source.age)
    yield from (available, size, degraded, panic, retries, hedges, well, age, changes)


_GAUGES = (
    ("weight", "Its declared share next to the others."),
    ("in_flight", "Requests that have not ended, bodies included."),
)
_COUNTERS = (
    ("picks", "Attempts that were sent to it."),
    ("successes", "Attempts that ended well."),
    ("failures", "Attempts that failed, by its fault."),
    ("ejections", "How often live requests took it out."),
)


def _backend_metrics(prefix: str, statuses: list[PoolStatus]) -> Iterator[Metric]:
    both = ["pool", "backend"]
    state = GaugeMetricFamily(
        f"{prefix}_backend_state", "1 for the state that it is in, 0 for the others.", labels=[*both, "state"]
    )
    average = GaugeMetricFamily(
        f"{prefix}_backend_latency_average_seconds",
        "Moving average of the time to the headers of the response.",
        labels=both,
    )
    gauges = {
        name: GaugeMetricFamily(f"{prefix}_backend_{name}", words, labels=both) for name, words in _GAUGES
    }
    counters = {
        name: CounterMetricFamily(f"{prefix}_backend_{name}", words, labels=both) for name, words in _COUNTERS
    }
    for status in statuses:
        for backend in status.backends:
            labels = [status.name, backend.url]
            current = state_of(backend)
            for name in STATES:
                state.add_metric([*labels, name], name == current)
            if backend.latency is not None:
                average.add_metric(labels, backend.latency)
            for family in (gauges, counters):
                for name, metric in family.items():
                    metric.add_metric(labels, getattr(backend, name))
    yield from (state, *gauges.values(), *counters.values(), average)


def state_of(backend: BackendStatus) -> str:
    """One word of `STATES`: what an operator said goes before what probes say, and that before ejections."""
    if backend.admin != "active":
        return backend.admin
    if backend.check == "failing":
        return "failing"
    return "ejected" if backend.ejected else "available"
