"""Which engine carries out the requests of a pool; `_sync/engines.py` is its counterpart for threads."""

from __future__ import annotations

import asyncio

from lbclient._async.engine import HttpcoreEngine
from lbclient._async.loops import running_loop
from lbclient._async.native import NativeEngine
from lbclient._async.native_asyncio import AsyncioEngine
from lbclient._async.native_sockets import SocketEngine
from lbclient.core.pool import Pool


def check_pool(pool: Pool, has_inner: bool) -> None:
    """Refuse what no engine can do: here there is nothing to refuse before the event loop is known."""


def engine_class(pool: Pool) -> type[NativeEngine | HttpcoreEngine]:
    """The fastest engine that can do what the pool asks for, in the running event loop."""
    if pool.connect.engine == "httpcore" or pool.connect.http2:
        return HttpcoreEngine
    return AsyncioEngine if isinstance(running_loop(), asyncio.AbstractEventLoop) else SocketEngine
