"""A request's record on a span."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from lbclient import AsyncBalancedTransport, NoBackendAvailable, Retry
from lbclient.observability.opentelemetry import AsyncTracedTransport, TracedTransport, annotate

A, B = "http://a:81", "http://b:82"


class Spans:
    """Where spans go."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def finished(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    yield found
    found.provider.shutdown()


def balanced(seen: list[httpx.Request], *statuses: int, retry: Retry | None = None) -> AsyncBalancedTransport:
    """Backends that answer with these statuses, one after the other; 0: nobody takes the connection."""
    left = list(statuses)

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        status = left.pop(0)
        if not status:
            raise httpx.ConnectError("refused")
        return httpx.Response(status)

    return AsyncBalancedTransport(
        [A, B],
        algorithm="first",
        inner=lambda _: httpx.MockTransport(answer),
        retry=retry if retry is not None else Retry(),
    )


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_request_is_a_span_and_its_context_is_sent_on(spans: Spans) -> None:
    seen: list[httpx.Request] = []
    transport = AsyncTracedTransport(balanced(seen, 200), tracer_provider=spans.provider)
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.get("http://shop/42")
    assert "traceparent" not in response.request.headers
    (span,) = spans.finished
    context = span.get_span_context()
    assert context is not None
    assert seen[0].headers["traceparent"].split("-")[1:3] == [
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
    ]
    assert span.name == "GET"
    assert attributes(span) == {
        "http.request.method": "GET",
        "url.full": "http://shop/42",
        "http.response.status_code": 200,
        "lbclient.pool": "default",
        "lbclient.backend": A,
        "lbclient.attempts": 1,
        "lbclient.sticky": False,
        "server.address": "a",
        "server.port": 81,
    }
    assert span.events == ()


async def test_every_attempt_of_a_request_that_was_repeated_is_an_event(spans: Spans) -> None:
    transport = AsyncTracedTransport(balanced([], 0, 200), tracer_provider=spans.provider)
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://shop/42")
    (span,) = spans.finished
    assert attributes(span)["http.request.resend_count"] == 1
    assert attributes(span)["lbclient.backend"] == B
    assert [dict(event.attributes or {})["lbclient.backend"] for event in span.events] == [A, B]
    assert span.status.status_code is StatusCode.UNSET


async def test_a_status_that_says_no_is_an_error(spans: Spans) -> None:
    transport = AsyncTracedTransport(balanced([], 404), tracer_provider=spans.provider)
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://shop/42")
    (span,) = spans.finished
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "404"


async def test_an_exception_is_an_error_with_its_record(spans: Spans) -> None:
    transport = AsyncTracedTransport(balanced([], 0, 0, 0), tracer_provider=spans.provider)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://user:secret@shop/42")
    (span,) = spans.finished
    assert attributes(span)["error.type"] == "ConnectError"
    assert attributes(span)["lbclient.attempts"] == 3
    assert "secret" not in str(attributes(span))
    assert len(span.events) == 3


async def test_nobody_available_is_an_error_without_a_backend(spans: Spans) -> None:
    inner = balanced([])
    (pool,) = inner.pools.values()
    pool.disable(A)
    pool.disable(B)
    transport = AsyncTracedTransport(inner, tracer_provider=spans.provider)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(NoBackendAvailable):
            await client.get("http://shop/42")
    (span,) = spans.finished
    assert attributes(span)["error.type"] == "NoBackendAvailable"
    assert "lbclient.backend" not in attributes(span)


async def test_what_lbclient_does_not_know_of_is_a_span_without_a_record(spans: Spans) -> None:
    def fails(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broken")

    transport = AsyncTracedTransport(httpx.MockTransport(fails), tracer_provider=spans.provider)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ReadError):
            await client.get("http://shop/42")
    assert attributes(spans.finished[0])["error.type"] == "ReadError"


def test_the_same_for_a_sync_client(spans: Spans) -> None:
    inner = httpx.MockTransport(lambda request: httpx.Response(204, headers=request.headers))
    with httpx.Client(transport=TracedTransport(inner, tracer_provider=spans.provider)) as client:
        response = client.get("http://shop/42")
    assert "traceparent" in response.headers
    assert attributes(spans.finished[0])["http.response.status_code"] == 204


async def test_the_current_span_can_be_annotated(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("test")
    async with httpx.AsyncClient(transport=balanced([], 200)) as client:
        with tracer.start_as_current_span("mine"):
            response = await client.get("http://shop/42")
            annotate(response.extensions["lbclient"])
    assert attributes(spans.finished[0])["lbclient.backend"] == A


async def test_nothing_is_written_on_a_span_that_does_not_record() -> None:
    async with httpx.AsyncClient(transport=balanced([], 200)) as client:
        response = await client.get("http://shop/42")
    span = trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)
    annotate(response.extensions["lbclient"], span)
    assert not span.is_recording()
