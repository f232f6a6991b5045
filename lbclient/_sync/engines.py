"""Which engine carries out the requests of a pool. Written by hand: one of the native ones belongs to asyncio."""

from __future__ import annotations

from lbclient._sync.engine import HttpcoreEngine
from lbclient._sync.native import NativeEngine
from lbclient._sync.native_sockets import SocketEngine
from lbclient.core.pool import Pool


def check_pool(pool: Pool, has_inner: bool) -> None:
    """Refuse what no engine can do.

    Raises:
        ValueError: The pool wants copies of requests that cannot be cancelled.
    """
    if has_inner and pool.hedging is not None:
        raise ValueError(
            f"pool {pool.name!r} has hedge= and the transport inner=: a request inside a sync transport of yours "
            "cannot be cancelled when its copy is faster; leave one out, or use AsyncBalancedTransport"
        )


def engine_class(pool: Pool) -> type[NativeEngine | HttpcoreEngine]:
    """The fastest engine that can do what the pool asks for."""
    return HttpcoreEngine if pool.connect.engine == "httpcore" or pool.connect.http2 else SocketEngine
