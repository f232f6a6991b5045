"""Waiting until a pool knows its backends, and for the first probe result of everybody."""

from __future__ import annotations

import anyio

from lbclient._async.background import Wake
from lbclient.core.pool import Pool


async def wait_until_ready(pool: Pool, within: float | None) -> None:
    """Return when the pool knows its backends, and every one that is probed has its first result.

    Args:
        pool: Is being probed, and its source followed.
        within: Seconds; None for as long as it takes.

    Raises:
        TimeoutError: It took longer; names the source, or the backends without a result.
    """
    supply = pool.supply
    if pool.probe is None and supply is None:
        return
    changed = Wake()
    unsubscribe = pool.subscribe(changed.wake)
    try:
        with anyio.move_on_after(within):
            while (supply is not None and supply.missing) or _unknown(pool):
                await changed.wait()
    finally:
        unsubscribe()
    if supply is not None and supply.missing:
        raise TimeoutError(f"pool {pool.name!r}: {supply.why_nobody()}, within {within} s")
    unknown = _unknown(pool)
    if unknown:
        raise TimeoutError(f"pool {pool.name!r}: no probe result within {within} s from {', '.join(unknown)}")


def _unknown(pool: Pool) -> list[str]:
    if pool.probe is None:
        return []
    return [b.url for b in pool.status().backends if b.check == "unknown" and b.admin != "disabled"]
