"""Policies of a pool as a configuration file describes them: probes, ejections, retries, copies."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field
from tenacity.stop import stop_after_attempt
from tenacity.wait import wait_random_exponential

from lbclient.core.budget import RetryBudget
from lbclient.core.health import PassiveHealth
from lbclient.core.hedging import Hedge
from lbclient.core.probes import HttpProbe, TcpProbe
from lbclient.core.retry import Retry
from lbclient.sidecar.section import Built, Count, Off, Port, Seconds, Share, Status


class ProbeSection(Built):
    """How backends are probed."""

    kind: Literal["http", "tcp"] = "http"
    """What is asked: an HTTP request, or a TCP connection only."""
    interval: Seconds = 15.0
    """From the start of one probe to the start of the next."""
    timeout: Seconds = 5.0
    """For the whole probe; at most the interval."""
    healthy_threshold: Count = 2
    """Passed probes in a row that bring a failing backend back."""
    unhealthy_threshold: Count = 3
    """Failed probes in a row that take a passing backend out."""
    port: Port | None = None
    """The port to ask at instead of the backend's."""
    jitter: Share = 0.1
    """The share of the interval by which the next probe may come earlier or later."""
    path: str = "/"
    """http: what to ask for; starts with "/"."""
    method: str = "GET"
    """http: the request's method."""
    expect: str | int | list[Status] = "200"
    """http: the statuses that pass: "200", "200,202", "200-299", or a list of numbers."""
    headers: dict[str, str] | None = None
    """http: additional request headers."""
    host: str | None = None
    """http: the Host header, by default the backend's."""
    body: str | None = None
    """http: text that the response's body must contain as well; /text/ is a regular expression."""
    interval_unhealthy: Seconds | None = None
    """http: the interval while a backend is failing."""
    scheme: Literal["http", "https"] | None = None
    """http: spoken whatever the backend's URL says."""

    def build(self) -> HttpProbe | TcpProbe:
        """The probe."""
        options = self.given("kind")
        if self.kind == "tcp":
            foreign = sorted(set(options) - {field.name for field in fields(TcpProbe)})
            if foreign:
                raise ValueError(f"kind is 'tcp', which has no {', '.join(foreign)}; leave it out")
            return TcpProbe(**options)
        body = options.get("body")
        if isinstance(body, str) and len(body) > 2 and body[0] == body[-1] == "/":
            try:
                options["body"] = re.compile(body[1:-1])
            except re.error as exc:
                raise ValueError(f"body is {body!r}, which is no regular expression: {exc}") from exc
        return HttpProbe(**options)


class PassiveSection(Built):
    """When live requests take a backend out."""

    consecutive_failures: Count = 5
    """Failures in a row that eject."""
    failure_ratio: Share = 0.5
    """The share of failures in the window above which a backend is ejected."""
    min_requests: Count = 20
    """Requests in the window below which the ratio says nothing."""
    window: Seconds = 10.0
    """What the ratio looks at."""
    base_ejection: Seconds = 30.0
    """How long the first ejection lasts; the k-th in a row k times as long."""
    max_ejection: Seconds = 300.0
    """The longest ejection."""
    max_ejected: Share = 0.5
    """The share of the pool that the ratio may eject at a time."""
    failure_statuses: list[Status] | None = None
    """Statuses that are failures; by default all 5xx but 501 and 505."""
    retry_after: bool = True
    """Whether a 429 or 503 with Retry-After holds a backend back that long."""

    def build(self) -> PassiveHealth:
        """The policy."""
        return PassiveHealth(**self.given())


class BudgetSection(Built):
    """How much retries may add to the load of a pool."""

    ratio: Annotated[float, Field(ge=0)] = 0.2
    """Retries per request."""
    min_per_second: Annotated[float, Field(ge=0)] = 10.0
    """Retries a second that are allowed whatever the load."""
    window: Seconds = 10.0
    """Over which both are counted."""

    def build(self) -> RetryBudget:
        """The budget."""
        return RetryBudget(**self.given())


class RetrySection(Built):
    """When a request is sent again."""

    attempts: Count = 3
    """Attempts in all."""
    backoff: Seconds = 0.025
    """Before a backend is tried a second time: at most this, doubled each time, drawn at random."""
    max_backoff: Seconds = 0.25
    """The longest of those waits."""
    statuses: list[Status] = [502, 503, 504]
    """Responses that are asked for again elsewhere."""
    methods: list[str] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]
    """The methods that may be repeated."""
    budget: Annotated[BudgetSection | None, Off] = BudgetSection()
    """What repeating may add to the load; off for no limit."""
    max_retry_after: Seconds = 5.0
    """How much of a Retry-After is waited for when nobody else is left to ask."""
    max_buffer: Annotated[int, Field(ge=0)] = 0
    """Bytes of a streamed body that are kept for another attempt."""

    def build(self) -> Retry:
        """The policy."""
        options = self.given("attempts", "backoff", "max_backoff", "budget")
        if "attempts" in self.model_fields_set:
            options["stop"] = stop_after_attempt(self.attempts)
        if {"backoff", "max_backoff"} & self.model_fields_set:
            options["wait"] = wait_random_exponential(multiplier=self.backoff, max=self.max_backoff)
        if "budget" in self.model_fields_set:
            options["budget"] = None if self.budget is None else self.budget.build()
        return Retry(**options)


class HedgeSection(Built):
    """When a slow request is copied to another backend."""

    delay: Annotated[str | float, Field(union_mode="left_to_right")] = "p95"
    """A percentile of the latencies ("p50" to "p99.9"), or seconds."""
    budget: Share = 0.02
    """Copies per request."""
    methods: list[str] = ["GET", "HEAD"]
    """The methods that may be copied."""

    def build(self) -> Hedge:
        """The policy."""
        return Hedge(**self.given())
