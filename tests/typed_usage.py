"""The public names as programs use them. Not run: mypy --strict and pyright read it; an error breaks the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from random import Random
from typing import assert_type

import httpx
import httpx2

import lbclient.httpx2
from lbclient import (
    AppCookieAffinity,
    AsyncBalancedTransport,
    Attempt,
    Backend,
    BackendStatus,
    BalancedTransport,
    Connect,
    CookieAffinity,
    DrainReport,
    Facts,
    Guard,
    Hedge,
    HttpProbe,
    KeyAffinity,
    NoBackendAvailable,
    PassiveHealth,
    Pool,
    PoolStatus,
    Record,
    Retry,
    RetryBudget,
    Route,
    Router,
    Split,
    SwapReport,
    TcpProbe,
    Ticket,
)
from lbclient.algorithms import LeastConnections, RingHash
from lbclient.core.algorithms.picker import Picker
from lbclient.core.backend import BackendState
from lbclient.discovery import Dns, Filter, Source, SourceStatus, Subset


def pools() -> tuple[Pool, Pool]:
    api = Pool(
        [
            "http://10.0.0.5:8080",
            Backend("http://10.0.0.6:8080", weight=0.5, zone="a", metadata={"rack": "7"}),
        ],
        name="api",
        algorithm=LeastConnections(),
        probe=HttpProbe("/health", interval=15, timeout=5, expect="200-299", headers={"x-probe": "1"}),
        passive=PassiveHealth(consecutive_failures=3),
        affinity=CookieAffinity(max_age=3600, secret="s" * 32),
        retry=Retry(budget=RetryBudget(ratio=0.1)),
        hedge=Hedge(delay="p95"),
        connect=Connect(http2=True, max_connections=10),
        rng=Random(7),
    )
    static = Pool(("http://10.0.0.7:80",), name="static", algorithm=RingHash(key="path"), probe=TcpProbe())
    Pool(["http://a"], affinity=AppCookieAffinity("JSESSIONID"), passive=None, retry=None, algorithm="maglev")
    Pool(["http://a"], affinity=KeyAffinity("client_ip"))
    return api, static


def key_of_a_request(facts: Facts) -> str | bytes | None:
    tenant = facts.options.get("tenant")
    return tenant if isinstance(tenant, str) else None


def routed(api: Pool, static: Pool) -> Router:
    split = Split({api: 95, static: 5}, sticky=True)
    split.set({api: 50, static: 50})
    return Router([Route(path="/static/*", to=static), Route(methods=["GET"], to=split)], default=api)


async def asynchronous(api: Pool, router: Router) -> None:
    transport = AsyncBalancedTransport(router)
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        response = await client.get("/42", extensions={"lbclient": {"key": "tenant-7", "deadline": 2.0}})
        record = response.extensions["lbclient"]
        assert isinstance(record, Record)
        assert_type(record.backend, str | None)
        assert_type(record.attempts, tuple[Attempt, ...])
        assert_type(record.explain(), str)
        assert_type(await transport.drain("http://10.0.0.5:8080", pool="api", grace=30), DrainReport)
        assert_type(
            await transport.swap(["http://b"], pool="api", when_healthy_within=60, guard=Guard()), SwapReport
        )
        await transport.wait_until_ready(timeout=5)
    assert_type(transport.pools, Mapping[str, Pool])
    assert_type(transport.connections(), dict[str, tuple[int, int]])


def synchronous(api: Pool) -> None:
    transport = BalancedTransport(api)
    with httpx.Client(transport=transport) as client:
        client.get("http://orders/42")
        assert_type(transport.drain("http://10.0.0.5:8080"), DrainReport)
        transport.wait_until_ready()
    BalancedTransport(["http://a"], inner=lambda backend: httpx.HTTPTransport(retries=1), algorithm="random")
    AsyncBalancedTransport(["http://a"], inner=lambda backend: httpx.AsyncHTTPTransport())


async def for_httpx2(api: Pool) -> None:
    async with httpx2.AsyncClient(transport=lbclient.httpx2.AsyncBalancedTransport(api)) as client:
        await client.get("http://orders/42")
    with httpx2.Client(transport=lbclient.httpx2.BalancedTransport(["http://a"])) as sync_client:
        sync_client.get("http://orders/42")


def by_itself(api: Pool) -> None:
    try:
        ticket = api.pick("tenant-7", exclude=["http://b"])
    except NoBackendAvailable:
        return
    assert_type(ticket, Ticket)
    assert_type(ticket.backend, Backend)
    ticket.succeeded(latency=0.1)
    with api.pick() as other:
        other.failed("timeout")
    status = api.status()
    assert_type(status, PoolStatus)
    assert_type(status.backends, tuple[BackendStatus, ...])
    assert_type(status.backends[0].latency, float | None)
    api.add("http://c")
    api.update([Backend("http://c"), "http://d"])
    api.set_weight("http://c", 2)
    api.report_probe("http://c", True)


class AlwaysTheLast:
    """An algorithm of one's own."""

    def build(self, backends: Sequence[BackendState], rng: Random) -> Picker:
        return _Last(backends)


class _Last:
    def __init__(self, backends: Sequence[BackendState]) -> None:
        self._backends = backends

    def pick(self, key: bytes | None) -> BackendState:
        return self._backends[-1]


Pool(["http://a", "http://b"], algorithm=AlwaysTheLast())


class Inventory(Source):
    """A source of one's own."""

    async def watch(self) -> AsyncIterator[list[Backend]]:
        yield [Backend("http://a")]


sourced = Pool(Subset(Filter(Inventory(), zone="a"), 5, client=7), initial=["http://a"])
assert_type(sourced.status().source, SourceStatus | None)
AsyncBalancedTransport(Dns("shop.example", 8080), algorithm="round_robin")
