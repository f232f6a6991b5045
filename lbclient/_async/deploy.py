"""Drains and flips carried out: waiting for what the core decides, and closing what is left in the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import anyio

from lbclient._async.background import Wake
from lbclient.core.checks import check_number
from lbclient.core.deploy import DrainReport, Guard, Leaving, Swap, SwapReport, Verdict
from lbclient.core.members import BackendLike
from lbclient.core.pool import Pool

LOOKS = 20  # at the requests since a flip, in the guard's window


class Connected(Protocol):
    """A pool and its connections, of whatever layer."""

    @property
    def pool(self) -> Pool:
        """The pool."""
        ...  # pragma: no cover - a protocol

    async def cut(self, url: str, reason: str) -> int:
        """Close a backend's connections, also those in use; how many that cut off."""
        ...  # pragma: no cover - a protocol


async def drain(io: Connected, url: str, grace: float) -> DrainReport:
    """See `AsyncBalancedTransport.drain`."""
    check_number("grace", grace, at_least=0)
    pool = io.pool
    leaving = Leaving(pool, url)
    state = leaving.state
    changed = Wake()
    unsubscribe = pool.subscribe(changed.wake)
    started = anyio.current_time()
    try:
        pool.begin_drain(url, grace)
        at_start = state.in_flight
        with anyio.move_on_after(grace):
            while leaving.is_busy:
                await changed.wait()
        closed = 0
        drained = not state.in_flight
        if leaving.goes_on:
            leaving.disable()  # first: a tied client who came while we close would be left behind
            # the idle ones too: whoever stops the server now finds nobody connected
            closed = await io.cut(
                state.url, f"{state.url} was drained, and its grace period of {grace} s has ended"
            )
    finally:
        unsubscribe()
    return DrainReport(state.url, drained, anyio.current_time() - started, at_start, closed)


async def swap(
    io: Connected,
    backends: Iterable[BackendLike],
    when_healthy_within: float,
    grace: float,
    guard: Guard | None,
) -> SwapReport:
    """See `AsyncBalancedTransport.swap`."""
    check_number("when_healthy_within", when_healthy_within, at_least=0)
    check_number("grace", grace, at_least=0)
    plan = Swap(io.pool, backends, guard)
    changed = Wake()
    unsubscribe = io.pool.subscribe(changed.wake)
    flipped = False
    try:
        plan.stage()
        with anyio.move_on_after(when_healthy_within):
            while plan.unready():
                await changed.wait()
        unready = plan.unready()
        if unready:
            reasons = ", ".join(f"{url} ({why})" for url, why in unready.items())
            reason = f"not healthy within {when_healthy_within} s: {reasons}"
            return SwapReport(False, False, reason, plan.added, plan.removed)
        plan.flip(grace)
        flipped = True
    finally:
        unsubscribe()
        if not flipped:
            plan.unstage()
    while guard is not None and (verdict := plan.verdict()) is not Verdict.KEEP:
        if verdict is Verdict.GO_BACK:
            reason = plan.why_back()
            plan.go_back()
            return SwapReport(False, True, reason, plan.added, plan.removed)
        await anyio.sleep(guard.window / LOOKS)
    reports: dict[str, DrainReport] = {}

    async def drain_one(url: str) -> None:
        if url in {backend.url for backend in io.pool.declared}:  # or somebody has removed it since the flip
            reports[url] = await drain(io, url, grace)

    async with anyio.create_task_group() as group:
        for url in plan.removed:
            group.start_soon(drain_one, url)
    plan.settle()
    drains = tuple(reports[url] for url in plan.removed if url in reports)
    return SwapReport(True, False, "", plan.added, plan.removed, drains)
