"""Which engine carries out the requests of a pool. Written by hand: the native one belongs to asyncio."""

from __future__ import annotations

from lbclient._sync.engine import HttpcoreEngine
from lbclient.core.pool import Pool


def check_pool(pool: Pool, has_inner: bool) -> None:
    """Refuse what no engine can do.

    Raises:
        ValueError: The pool wants the native engine, or copies of requests that cannot be cancelled.
    """
    if pool.connect.engine == "native":
        raise ValueError(
            f"pool {pool.name!r} has engine='native', which runs on asyncio only; write 'auto' or 'httpcore'"
        )
    if has_inner and pool.hedging is not None:
        raise ValueError(
            f"pool {pool.name!r} has hedge= and the transport inner=: a request inside a sync transport of yours "
            "cannot be cancelled when its copy is faster; leave one out, or use AsyncBalancedTransport"
        )


def engine_class(pool: Pool) -> type[HttpcoreEngine]:
    """The engine."""
    return HttpcoreEngine
