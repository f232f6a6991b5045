"""Which engine carries out the requests of a pool; `_sync/engines.py` is its counterpart for threads."""

from __future__ import annotations

import asyncio

from lbclient._async.engine import HttpcoreEngine
from lbclient._async.loops import running_loop
from lbclient._async.native import NativeEngine
from lbclient.core.pool import Pool


def check_pool(pool: Pool, has_inner: bool) -> None:
    """Refuse what no engine can do: here there is nothing to refuse before the event loop is known."""


def engine_class(pool: Pool) -> type[NativeEngine | HttpcoreEngine]:
    """The fastest engine that can do what the pool asks for, in the running event loop.

    Raises:
        RuntimeError: None can.
    """
    wanted = pool.connect.engine
    on_asyncio = isinstance(running_loop(), asyncio.AbstractEventLoop)
    if wanted == "native" and not on_asyncio:
        raise RuntimeError(
            f"pool {pool.name!r} has engine='native', which runs on asyncio only; write 'auto' or 'httpcore'"
        )
    if wanted == "httpcore" or pool.connect.http2 or not on_asyncio:
        return HttpcoreEngine
    return NativeEngine
