"""uvicorn's HTTP/1.1 with what it leaves to the proxy in front of it, which here is itself.

That is: limits for heads, informational responses, and a word about requests that it refuses before any app sees them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, TypeAlias
from urllib.parse import unquote

from httptools import parse_url
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lbclient.asgi.attendance import GONE
from lbclient.asgi.headers import tokens
from lbclient.asgi.inbound import TRAILERS
from lbclient.asgi.informational import INFORM
from lbclient.asgi.types import Scope
from lbclient.sidecar.cycle import Cycle

LARGEST_HEAD_BYTES = 64 * 1024
HEAD_WITHIN = 30.0  # seconds, from the first byte of a request (or from connecting) to the end of its head
MOST_AHEAD = 4  # requests that wait for their turn while we go on reading, and so hear of the client
HEAR_OUT = 0.5  # seconds: closed at once, a connection is reset, and the client may not see the answer

_ASGI = {"version": "3.0", "spec_version": "2.3"}

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
        self._serve: Any = options["config"].loaded_app
        self.url = b""
        self._head_bytes: int | None = 0  # None: no head is being read
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._takes_trailers = False
        self._idle_since = inf
        self._served: Cycle | None = None
        self._ahead: deque[tuple[Cycle, Any]] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head_is_over()
        served = self._served
        if served is not None and not served.response_complete:  # uvicorn tells the one that was sent last
            served.disconnected = True
            served.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._refused:
            return
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is None:
            return
        if self._head_timer is None:
            self._await_head()
        if self._head_bytes > LARGEST_HEAD_BYTES and not self.transport.is_closing():
            self._refused = True
            self._tell(431, _TOO_LARGE.partition(b"\r\n\r\n")[2])
            self.transport.write(_TOO_LARGE)
            self.loop.call_later(HEAR_OUT, self.transport.close)

    def on_message_begin(self) -> None:
        """See httptools."""
        self.url = b""
        self.headers = []
        self.scope = None  # type: ignore[assignment]  # until its head is there
        self.expect_100_continue = self._takes_trailers = False
        if self._head_bytes is None:  # not the first one
            self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools, which tells by it also of what follows a body: no app may take that for headers."""
        if self._head_bytes is None:
            return
        name = name.lower()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"te":
            self._takes_trailers = self._takes_trailers or b"trailers" in tokens([value])
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """See httptools."""
        limit = self.limit_concurrency
        busy = limit is not None and max(len(self.connections), len(self.tasks)) >= limit
        if busy:
            self._tell(503, b"Service Unavailable")  # as `service_unavailable` answers
        self._head_is_over()
        parser = self.parser
        assert parser is not None
        url = parse_url(self.url)
        path = url.path.decode("ascii")
        version = parser.get_http_version()
        extensions: dict[str, Any] = {}
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "root_path": self.root_path,
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": {},
            "extensions": extensions,
        }
        self.scope = scope  # type: ignore[assignment]  # uvicorn's type knows no extensions
        if parser.should_upgrade() and self._should_upgrade():
            return
        before = self.cycle
        self.cycle = cycle = Cycle(  # type: ignore[assignment]  # in place of uvicorn's
            scope,
            self.transport,
            self.flow,
            expects_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        extensions[INFORM], extensions[GONE] = cycle.inform, cycle.when_gone
        if self._takes_trailers and version == "1.1":
            extensions[TRAILERS] = {}
        app = service_unavailable if busy else self._serve
        if before is None or before.response_complete:
            self._begin(cycle, app)
        else:  # it was sent without waiting for the answer to the one before
            if len(self._ahead) >= MOST_AHEAD:
                self.flow.pause_reading()
            self._ahead.append((cycle, app))

    def _begin(self, cycle: Cycle, app: Any) -> None:
        self._served = cycle
        self.loop.create_task(cycle.run_asgi(app, self.tasks))

    def on_response_complete(self) -> None:
        """The next request may come, or begin."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._ahead:
            self._begin(*self._ahead.popleft())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_when(self._idle_since)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = inf

    def _look_when(self, idle_since: float) -> None:
        """One timer a connection that moves on, not one a request: 1 us less."""
        due = idle_since + self.timeout_keep_alive
        self.timeout_keep_alive_task = self.loop.call_at(due, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close what has been idle for so long."""
        self.timeout_keep_alive_task = None
        if self.loop.time() >= self._idle_since + self.timeout_keep_alive:
            super().timeout_keep_alive_handler()
        elif self._idle_since < inf:
            self._look_when(self._idle_since)

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

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_WITHIN, self._head_took_too_long)

    def _head_is_over(self) -> None:
        self._head_bytes = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
