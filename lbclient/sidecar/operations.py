"""What operators do to a running sidecar; what takes a while goes on in the background, and is told of."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field

from lbclient import l4
from lbclient._async.transport import AsyncBalancedTransport
from lbclient.core.deploy import DrainReport, Guard, SwapReport
from lbclient.core.pool import Pool
from lbclient.l4.fleet import fleet_of
from lbclient.sidecar.pools import BackendSection
from lbclient.sidecar.section import Built, Count, Seconds, Section, Share
from lbclient.sidecar.traffic import Traffic

KEPT = 20


class OneBackend(Section):
    """Which backend."""

    url: str
    """How it is known."""


class Drain(OneBackend):
    """Take a backend out without a broken request."""

    grace: Seconds = 300.0
    """After this what is left is cut off."""
    wait: bool = False
    """Whether to answer when it is over."""


class Weight(OneBackend):
    """Another share for a backend."""

    weight: Annotated[float, Field(ge=0)]
    """0 takes no new picks."""


class GuardSection(Built):
    """When to go back to the old set after a flip."""

    window: Seconds = 30.0
    """How long to watch."""
    max_drop: Share = 0.05
    """By how much the share of requests that succeed may fall."""
    min_requests: Count = 50
    """Requests below which nothing is concluded."""

    def build(self) -> Guard:
        """The guard."""
        return Guard(**self.given())


class Flip(Section):
    """Another set of backends at once (blue/green)."""

    backends: Annotated[list[BackendSection], Field(min_length=1)]
    """The whole new set."""
    when_healthy_within: Seconds = 60.0
    """How long the new ones have to pass their probes."""
    grace: Seconds = 300.0
    """How long the old ones have to drain."""
    guard: GuardSection | None = None
    """When to go back."""
    wait: bool = False
    """Whether to answer when it is over."""


class Weights(Section):
    """Other shares for the pools of a split."""

    weights: dict[str, Annotated[float, Field(ge=0)]]
    """By name; a pool that is left out is off."""


class Unknown(LookupError):
    """There is no pool or split of that name."""


@dataclass
class Operation:
    """Something that goes on in the background.

    Attributes:
        number: From 1.
        what: In words.
        started_at: Seconds since 1970.
        state: Whether it is over, and how.
        report: What it came to.
    """

    number: int
    what: str
    started_at: float
    state: Literal["running", "done", "failed"] = "running"
    report: dict[str, Any] = field(default_factory=dict[str, Any])

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class Operations:
    """What can be done, and what is being done.

    Args:
        traffic: To what.
        told: Called whenever something begins or ends.
    """

    def __init__(self, traffic: Traffic, told: Callable[[], None]) -> None:
        self._traffic = traffic
        self._told = told
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.newest: deque[Operation] = deque(maxlen=KEPT)

    async def drain(self, pool: str, asked: Drain) -> Operation:
        """Drain a backend."""
        found = self._pool(pool)
        found.state(asked.url)  # an unknown one is an error at once
        return await self._begin(
            f"drain {asked.url} of pool {pool}", self._drained(found, asked.url, asked.grace), asked.wait
        )

    async def swap(self, pool: str, asked: Flip) -> Operation:
        """Flip a pool to another set of backends."""
        found = self._pool(pool)
        return await self._begin(f"swap pool {pool}", self._swapped(found, asked), asked.wait)

    async def _drained(self, pool: Pool, url: str, grace: float) -> DrainReport:
        transport = self._transport_of(pool)
        if transport is None:
            return await l4.drain(pool, url, grace=grace)
        report = await transport.drain(url, grace=grace, pool=pool.name)
        return await _cut_too(pool, report)

    async def _swapped(self, pool: Pool, asked: Flip) -> SwapReport:
        backends = [backend.build() for backend in asked.backends]
        guard = None if asked.guard is None else asked.guard.build()
        within, grace = asked.when_healthy_within, asked.grace
        transport = self._transport_of(pool)
        if transport is None:
            return await l4.swap(pool, backends, when_healthy_within=within, grace=grace, guard=guard)
        report = await transport.swap(
            backends, pool=pool.name, when_healthy_within=within, grace=grace, guard=guard
        )
        return replace(report, drains=tuple([await _cut_too(pool, one) for one in report.drains]))

    def enable(self, pool: str, asked: OneBackend) -> None:
        """Make a backend pickable again."""
        self._pool(pool).enable(asked.url)

    def disable(self, pool: str, asked: OneBackend) -> None:
        """Take a backend out at once; what is in flight may finish."""
        self._pool(pool).disable(asked.url)

    def weigh(self, pool: str, asked: Weight) -> None:
        """Give a backend another share."""
        self._pool(pool).set_weight(asked.url, asked.weight)

    def split(self, name: str, asked: Weights) -> None:
        """Give the pools of a split other shares, all at once."""
        split = self._traffic.generation.splits.get(name)
        if split is None:
            raise Unknown(
                f"split is {name!r}; the splits are {', '.join(self._traffic.generation.splits) or 'none'}"
            )
        by_name = {pool.name: pool for pool in split.pools}
        for pool in asked.weights:
            if pool not in by_name:
                raise Unknown(f"pool is {pool!r}; the pools of split {name!r} are {', '.join(by_name)}")
        split.set({by_name[pool]: weight for pool, weight in asked.weights.items()})

    def _pool(self, name: str) -> Pool:
        pool = self._traffic.pools.get(name)
        if pool is None:
            raise Unknown(f"pool is {name!r}; the pools are {', '.join(self._traffic.pools)}")
        return pool

    def _transport_of(self, pool: Pool) -> AsyncBalancedTransport | None:
        """The transport, if the pool serves HTTP."""
        transport = self._traffic.transport
        return transport if transport is not None and pool in transport.pools.values() else None

    async def _begin(
        self, what: str, work: Coroutine[Any, Any, DrainReport | SwapReport], wait: bool
    ) -> Operation:
        operation = Operation(next(self._numbers), what, time.time())
        task = asyncio.create_task(self._carry_out(operation, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # what is refused is refused in its first step, and nothing has been begun then
        await (asyncio.wait([task]) if wait else asyncio.sleep(0))
        if not wait:
            await asyncio.sleep(0)
        if task.done() and task.exception() is not None:
            task.result()
        self.newest.append(operation)
        self._told()
        return operation

    async def _carry_out(self, operation: Operation, work: Awaitable[DrainReport | SwapReport]) -> None:
        try:
            report = await work
        except Exception as exc:
            operation.state, operation.report = "failed", {"error": str(exc)}
            if operation not in self.newest:
                raise  # to whoever has asked
        else:
            operation.state, operation.report = "done", asdict(report)
        finally:
            self._told()

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _cut_too(pool: Pool, report: DrainReport) -> DrainReport:
    """What a drain of requests has left of connections at layer 4; it has waited for them as well."""
    reason = f"{report.url} was drained, and its grace period has ended"
    return replace(report, closed=report.closed + await fleet_of(pool).cut(report.url, reason))
