"""Backends that answer after a while, and count who connects: `python -m benchmarks.delayed SECONDS PORT...`.

Any number of requests at a time; what limits the client is how it handles its connections. `/connections` says how many
were accepted so far, by all of them together.
"""

from __future__ import annotations

import asyncio
import sys


class Delayed(asyncio.Protocol):
    """One connection."""

    accepted = 0

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        Delayed.accepted += 1

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for request in requests:
            if b"/connections" in request:
                self._answer(str(Delayed.accepted).encode())
            else:
                asyncio.get_running_loop().call_later(self._delay, self._answer, b"ok")

    def _answer(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def serve(delay: float, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Delayed(delay), "127.0.0.1", port, backlog=4096) for port in ports
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
