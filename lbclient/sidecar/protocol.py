"""uvicorn's HTTP/1.1 with what it leaves to the proxy in front of it, which here is itself: limits for heads."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD_BYTES = 64 * 1024
HEAD_WITHIN = 30.0  # seconds, from the first byte of a request (or from connecting) to the end of its head
HEAR_OUT = 0.5  # seconds: closed at once, a connection is reset, and the client may not see the answer

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 18\r\n\r\nhead is too large\n"
)


class Protocol(HttpToolsProtocol):
    """One connection of a client's.

    A head that does not end within `LARGEST_HEAD_BYTES` is answered with 431, and one that does not within
    `HEAD_WITHIN` seconds ends the connection.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes: int | None = 0  # None: no head is being read
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_WITHIN, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head_is_over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._refused:
            return
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        too_large = self._head_bytes is not None and self._head_bytes > LARGEST_HEAD_BYTES
        if too_large and not self.transport.is_closing():
            self._refused = True
            self.transport.write(_TOO_LARGE)
            self.loop.call_later(HEAR_OUT, self.transport.close)

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        if self._head_bytes is None:  # not the first one
            self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_WITHIN, self.transport.close)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._head_is_over()
        super().on_headers_complete()

    def _head_is_over(self) -> None:
        self._head_bytes = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
