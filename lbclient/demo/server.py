"""One of the demo's servers: a raw ASGI app that takes its time, under uvicorn, in a process of its own.

It ends when its standard input does, so it cannot outlive the demo, whatever the demo dies of.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import uvicorn

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

SPREAD = 0.3  # of the latency, either way
STOP_WITHIN = 1.0


def make_app(name: str, latency: float) -> App:
    """Says hello after about `latency` seconds; `/health` answers at once."""

    async def app(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["path"] != "/health":
            await asyncio.sleep(latency * random.uniform(1 - SPREAD, 1 + SPREAD))
        body = f"hello from {name}\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def serve(name: str, latency: float, port: int) -> None:
    """Serve on loopback until standard input ends."""
    config = uvicorn.Config(
        make_app(name, latency),
        host="127.0.0.1",
        port=port,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    server.run()


def _end_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 1024):
        pass
    server.should_exit = True
    time.sleep(STOP_WITHIN)
    os._exit(1)  # pragma: no cover - it did not stop by itself


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
