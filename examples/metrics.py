"""What other systems see: pools as Prometheus metrics, and a request's record on an OpenTelemetry span."""

import asyncio

import httpx
from _servers import fleet
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from lbclient import AsyncBalancedTransport
from lbclient.observability.opentelemetry import AsyncTracedTransport
from lbclient.observability.prometheus import PoolCollector


async def main() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with fleet("alpha", "beta", "gamma") as servers:
        servers[0].status = 503
        balanced = AsyncBalancedTransport([server.url for server in servers], algorithm="round_robin")
        registry = CollectorRegistry()
        registry.register(PoolCollector(balanced, buckets=(0.01, 0.1, 1.0)))
        transport = AsyncTracedTransport(balanced, tracer_provider=provider)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            for _ in range(30):
                assert (await client.get("/42")).status_code == 200
            text = generate_latest(registry).decode()
    for line in text.splitlines():
        if line.startswith(("lbclient_pool", "lbclient_backend_state")) and not line.endswith(" 0.0"):
            print(line)
    retried = next(span for span in spans.get_finished_spans() if span.events)
    print(dict(retried.attributes or {}))
    for event in retried.events:
        print("  ", dict(event.attributes or {}))
    assert 'state="ejected"} 1.0' in text


asyncio.run(main())
