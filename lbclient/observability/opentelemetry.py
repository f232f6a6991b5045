"""A request's record on an OpenTelemetry span: who served it, after which attempts.

    annotate(response.extensions["lbclient"])          # on the current span, whoever began it

    transport = AsyncTracedTransport(AsyncBalancedTransport([...]))     # a span for each request, sent on

Names of attributes are those of OpenTelemetry's semantic conventions for HTTP clients where there is one.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import httpx
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from lbclient import __version__
from lbclient.core.backend import Backend
from lbclient.core.explain import Record

_FAILURES = 400  # for a client; the conventions' words: 4xx and 5xx are errors of a client's span


def annotate(record: Record, span: Span | None = None) -> None:
    """Write a request's record on a span: its attributes, and an event for each attempt but a first that went well.

    Args:
        record: `response.extensions["lbclient"]`, or `exc.lbclient`.
        span: The current one when left out.
    """
    span = trace.get_current_span() if span is None else span
    if not span.is_recording():
        return
    attempts = record.attempts
    span.set_attribute("lbclient.pool", record.pool)
    span.set_attribute("lbclient.attempts", len(attempts))
    span.set_attribute("lbclient.sticky", record.sticky)
    if record.backend is not None:
        backend = Backend(record.backend)
        span.set_attribute("lbclient.backend", backend.url)
        span.set_attribute("server.address", backend.hostname)
        span.set_attribute("server.port", backend.port)
    if len(attempts) > 1:
        span.set_attribute("http.request.resend_count", len(attempts) - 1)
    for number, attempt in enumerate(attempts, 1):
        if len(attempts) > 1 or not attempt.outcome.startswith("2"):
            span.add_event(
                "lbclient.attempt",
                {
                    "lbclient.attempt.number": number,
                    "lbclient.backend": attempt.backend,
                    "lbclient.attempt.outcome": attempt.outcome,
                    "lbclient.attempt.seconds": attempt.elapsed,
                    "lbclient.attempt.reason": attempt.reason,
                },
            )


class AsyncTracedTransport(httpx.AsyncBaseTransport):
    """Begins a span for each request, sends its context on to the backend, and writes the record on it.

    The span ends with the headers of the response: a body that is never read would leave it open.

    Args:
        transport: The balanced transport; closed with this one.
        tracer_provider: The global one when left out.
    """

    def __init__(
        self, transport: httpx.AsyncBaseTransport, *, tracer_provider: TracerProvider | None = None
    ) -> None:
        self.transport = transport
        self._tracer = trace.get_tracer("lbclient", __version__, tracer_provider)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As the transport's."""
        with _span_of(self._tracer, request) as (span, traced):
            response = await self.transport.handle_async_request(traced)
            _answered(span, response)
        return response

    async def __aenter__(self) -> AsyncTracedTransport:
        await self.transport.__aenter__()
        return self

    async def aclose(self) -> None:
        """Close the transport."""
        await self.transport.aclose()


class TracedTransport(httpx.BaseTransport):
    """The same for `httpx.Client`.

    Args:
        transport: The balanced transport; closed with this one.
        tracer_provider: The global one when left out.
    """

    def __init__(
        self, transport: httpx.BaseTransport, *, tracer_provider: TracerProvider | None = None
    ) -> None:
        self.transport = transport
        self._tracer = trace.get_tracer("lbclient", __version__, tracer_provider)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As the transport's."""
        with _span_of(self._tracer, request) as (span, traced):
            response = self.transport.handle_request(traced)
            _answered(span, response)
        return response

    def __enter__(self) -> TracedTransport:
        self.transport.__enter__()
        return self

    def close(self) -> None:
        """Close the transport."""
        self.transport.close()


@contextmanager
def _span_of(tracer: Tracer, request: httpx.Request) -> Generator[tuple[Span, httpx.Request]]:
    """A span, and the request with the span's context in its headers. The caller's own is not touched."""
    attributes = {
        "http.request.method": request.method,
        "url.full": str(request.url.copy_with(username=None, password=None)),
    }
    with tracer.start_as_current_span(
        request.method,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        headers = httpx.Headers(request.headers)
        headers.update(carrier)
        traced = httpx.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        try:
            yield span, traced
        except Exception as exc:
            record = getattr(exc, "lbclient", None)
            if isinstance(record, Record):
                annotate(record, span)
            span.set_attribute("error.type", type(exc).__qualname__)
            span.set_status(Status(StatusCode.ERROR, str(exc)))
            raise


def _answered(span: Span, response: httpx.Response) -> None:
    record = response.extensions.get("lbclient")
    if isinstance(record, Record):
        annotate(record, span)
    span.set_attribute("http.response.status_code", response.status_code)
    if response.status_code >= _FAILURES:
        span.set_attribute("error.type", str(response.status_code))
        span.set_status(Status(StatusCode.ERROR))
