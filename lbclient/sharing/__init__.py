"""What the processes of one machine tell each other about the backends of a pool (`Pool(shared="name")`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from lbclient.core.pool import Pool


async def in_turn(pool: Pool, probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Probe, in the one process of this machine whose turn it is; in a pool that is not shared, in every one.

    Args:
        pool: The pool.
        probe: Probes it until cancelled.
    """
    if pool.shared is None:
        await probe()
    else:
        from lbclient.sharing.following import follow  # its lock is a POSIX system's

        await follow(pool, pool.shared, probe)
