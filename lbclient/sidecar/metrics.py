"""The sidecar's own metrics, beside those of its pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from lbclient import __version__
from lbclient.observability.prometheus import PoolCollector
from lbclient.sidecar.requests import Served

if TYPE_CHECKING:
    from lbclient.sidecar.sidecar import Sidecar


class SidecarCollector(Collector):
    """Requests, connections and reloads.

    Args:
        sidecar: Whose.
    """

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._requests: Counter[tuple[str, int]] = Counter()

    def add(self, served: Served) -> None:
        """Count a request."""
        pool = "" if served.record is None else served.record.pool
        self._requests[pool, served.status] += 1

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        sidecar = self._sidecar
        yield InfoMetricFamily("lbclient_sidecar", "Which version runs.", value={"version": __version__})
        requests = CounterMetricFamily(
            "lbclient_sidecar_requests", "Requests that are over.", labels=["pool", "status"]
        )
        for (pool, status), times in self._requests.items():
            requests.add_metric([pool, str(status)], times)
        yield requests
        yield GaugeMetricFamily(
            "lbclient_sidecar_active_requests", "Requests that are under way.", value=sidecar.traffic.active
        )
        connections = GaugeMetricFamily(
            "lbclient_sidecar_connections", "Connections of clients.", labels=["listener"]
        )
        for listener in sidecar.listeners:
            connections.add_metric([str(listener.address)], listener.connections)
        yield connections
        yield CounterMetricFamily(
            "lbclient_sidecar_reloads", "Configurations taken after the first.", value=sidecar.reloads
        )
        yield GaugeMetricFamily(
            "lbclient_sidecar_configuration_refused",
            "1 while the file cannot be served, and an older configuration is.",
            value=bool(sidecar.trouble),
        )
        yield GaugeMetricFamily(
            "lbclient_sidecar_configuration_loaded_timestamp_seconds",
            "When the configuration that is served was read.",
            value=sidecar.loaded_at,
        )


def registry_of(sidecar: Sidecar) -> tuple[CollectorRegistry, SidecarCollector, PoolCollector]:
    """All metrics of a sidecar and its process, and the two collectors that want to hear of requests and pools."""
    registry = CollectorRegistry()
    own, pools = SidecarCollector(sidecar), PoolCollector(sidecar.traffic)
    registry.register(own)
    registry.register(pools)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry, own, pools
