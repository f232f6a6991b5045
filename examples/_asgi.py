"""An ASGI app on a free port, for the examples: uvicorn in a task of this event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def serving(app: Callable[[Any, Any, Any], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL at which `app` is served in here."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Whom to believe is lbclient's to judge (trusted=); Date and Server are the backend's.
    config = uvicorn.Config(
        app, log_level="warning", proxy_headers=False, server_header=False, date_header=False, ws="wsproto"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task
