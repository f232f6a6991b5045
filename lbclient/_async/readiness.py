"""Waiting for the first probe result of everybody."""

from __future__ import annotations

import anyio

from lbclient._async.background import Wake
from lbclient.core.pool import Pool


async def wait_until_ready(pool: Pool, within: float | None) -> None:
    """Return when every backend that is probed has its first result, at once in a pool without a probe.

    Args:
        pool: Is being probed.
        within: Seconds; None for as long as it takes.

    Raises:
        TimeoutError: It took longer; names the backends without a result.
    """
    if pool.probe is None:
        return
    changed = Wake()
    unsubscribe = pool.subscribe(changed.wake)
    try:
        with anyio.move_on_after(within):
            while _unknown(pool):
                await changed.wait()
    finally:
        unsubscribe()
    unknown = _unknown(pool)
    if unknown:
        raise TimeoutError(f"pool {pool.name!r}: no probe result within {within} s from {', '.join(unknown)}")


def _unknown(pool: Pool) -> list[str]:
    return [b.url for b in pool.status().backends if b.check == "unknown" and b.admin != "disabled"]
