"""uvicorn's HTTP/1.1 with what it leaves to the proxy in front of it, which here is itself.

That is: limits for heads, informational responses, and a word about requests that it refuses before any app sees them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lbclient.asgi.informational import INFORM
from lbclient.asgi.types import Scope
from lbclient.core.facts import Header

LARGEST_HEAD_BYTES = 64 * 1024
HEAD_WITHIN = 30.0  # seconds, from the first byte of a request (or from connecting) to the end of its head
HEAR_OUT = 0.5  # seconds: closed at once, a connection is reset, and the client may not see the answer

Refused: TypeAlias = Callable[[Scope, int, int], None]
"""Told of a request that no app has seen, by what is known of it, status (0 for no answer), and bytes of the body."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 18\r\n\r\nhead is too large\n"
)


class Protocol(HttpToolsProtocol):
    """One connection of a client's.

    Args:
        refused: Told of requests that are refused here.
        options: uvicorn's.

    A head that does not end within `LARGEST_HEAD_BYTES` is answered with 431, and one that does not within
    `HEAD_WITHIN` seconds ends the connection. Informational responses are sent to whom HTTP/1.1 allows that.
    """

    def __init__(self, *, refused: Refused, **options: Any) -> None:
        super().__init__(**options)
        self._tell_refused = refused
        self.url = b""
        self._head_bytes: int | None = 0  # None: no head is being read
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_WITHIN, self._head_took_too_long)

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
            self._tell(431, _TOO_LARGE.partition(b"\r\n\r\n")[2])
            self.transport.write(_TOO_LARGE)
            self.loop.call_later(HEAR_OUT, self.transport.close)

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        if self._head_bytes is None:  # not the first one
            self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_WITHIN, self._head_took_too_long)
        scope: Scope = self.scope  # type: ignore[assignment]  # uvicorn's type knows no extensions
        scope["extensions"] = {INFORM: partial(self._inform, scope)}

    def _inform(self, scope: Any, status: int, headers: list[Header]) -> None:
        cycle = self.cycle
        ready = cycle.scope is scope and not cycle.response_started and not cycle.disconnected
        # `ready` also says that it is no request that was sent without waiting for answers.
        if ready and scope["http_version"] == "1.1":
            lines = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n"]
            self.transport.write(b"".join(lines))

    def on_headers_complete(self) -> None:
        """See httptools."""
        limit = self.limit_concurrency
        if limit is not None and max(len(self.connections), len(self.tasks)) >= limit:
            self._tell(503, b"Service Unavailable")  # as `super` answers
        self._head_is_over()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """See uvicorn's: the connection is wsproto's from now on, which looks at the handshake at once."""
        super().handle_websocket_upgrade()
        if self.transport.is_closing():  # it is none
            of_another_version = any(
                name == b"sec-websocket-version" and value != b"13" for name, value in self.headers
            )
            status = 426 if of_another_version and self.scope["method"] == "GET" else 400
            self._tell_of(self.url, status, b"")

    def send_400_response(self, msg: str) -> None:
        """See uvicorn's."""
        self._tell(400, msg.encode("ascii"))
        super().send_400_response(msg)

    def _head_took_too_long(self) -> None:
        if self._head_bytes and not self._refused:
            self._tell(0, b"")
        self.transport.close()

    def _tell(self, status: int, body: bytes) -> None:
        """Of as much of a request as could be read."""
        over = self._head_bytes is None and (self.cycle is None or self.cycle.response_complete)
        self._tell_of(b"" if over else self.url, status, body)  # or else that of the request before

    def _tell_of(self, url: bytes, status: int, body: bytes) -> None:
        version = "1.1" if self.scope is None else self.scope["http_version"]
        parser = self.parser
        assert parser is not None
        scope: Scope = {
            "type": "http",
            "http_version": version,
            "method": parser.get_method().decode("ascii") if url else "-",
            "client": self.client,
            "scheme": self.scheme,
            "raw_path": url or b"-",
            "path": "-",
            "query_string": b"",
            "headers": self.headers or [],
        }
        self._tell_refused(scope, status, len(body))

    def _head_is_over(self) -> None:
        self._head_bytes = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
