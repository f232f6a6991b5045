"""One request of a client's connection, and the response to it: ASGI's two functions, in bytes.

uvicorn's protocol feeds it and calls it by uvicorn's names. What it does beyond uvicorn's own: a response of which
everything is there goes out at once, informational responses and trailers are passed on, HTTP/1.0 gets no chunks, and
whoever serves can be called back when the client leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableSet
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl

from lbclient.asgi.headers import tokens
from lbclient.asgi.types import App, Message, Scope
from lbclient.core.facts import Header

logger = logging.getLogger("lbclient.sidecar")

_NO_LENGTH = frozenset({204, 304})
_OVER: Scope = {}
_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_CONTROLS = bytes(c for c in range(0x20) if c not in b"\t\r\n") + b"\x7f"
_FAILED = (
    500,
    [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"21"),
        (b"connection", b"close"),
    ],
    b"Internal Server Error",
)


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


_STATUS_LINES = {status: _status_line(status) for status in range(100, 1000)}


class Cycle:
    """A request and its response.

    Args:
        scope: ASGI's.
        transport: The connection.
        flow: Its flow control.
        expects_continue: The client waits for a word before it sends a body.
        keep_alive: Another request may follow.
        on_response: To be called when the response is whole.
    """

    __slots__ = (
        "_chunked",
        "_flow",
        "_left",
        "_news",
        "_on_gone",
        "_on_response",
        "_takes_body",
        "_trailers",
        "_transport",
        "_waiter",
        "_waits_for_continue",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(
        self,
        scope: Scope,
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        expects_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        self.scope: Scope = scope
        self.keep_alive = keep_alive
        self.disconnected = self.response_started = self.response_complete = False
        self.body = bytearray()
        self.more_body = True
        self._transport = transport
        self._flow = flow
        self._waits_for_continue = expects_continue
        self._on_response = on_response
        self._on_gone: Callable[[], object] | None = None
        self._news = False
        self._waiter: asyncio.Future[None] | None = None
        self._takes_body: bool = False
        self._chunked: bool = False
        self._trailers: bool = False
        # Bytes of a body whose length was said; None when its end is the connection's.
        self._left: int | None = 0

    # What the connection tells

    @property
    def message_event(self) -> Cycle:
        """Whom uvicorn tells that something has come."""
        return self

    def set(self) -> None:
        """Something has come, or the client has left."""
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.disconnected and self._on_gone is not None:
            self._on_gone()
            self._on_gone = None

    def when_gone(self, function: Callable[[], object]) -> None:
        """See `WhenGone`."""
        if self.disconnected:
            function()
        else:
            self._on_gone = function

    async def run_asgi(self, app: App, tasks: MutableSet[asyncio.Task[None]]) -> None:
        """Have `app` serve the request; its task is one of `tasks` meanwhile."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        tasks.add(task)
        try:
            await app(self.scope, self.receive, self)
        except Exception:
            logger.exception("%s %s failed", self.scope["method"], self.scope["path"])
        finally:
            tasks.discard(task)
            self._on_gone = None
            whole = self.disconnected or self.response_complete
            if not whole and (self.response_started or not self.at_once(*_FAILED)):
                self._transport.close()
            # Rings, which only the garbage collector would undo:
            self._on_response = _nothing
            self.scope = _OVER

    # ASGI

    async def receive(self) -> Message:
        """See ASGI."""
        if self._waits_for_continue and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._waits_for_continue = False
        if not self.disconnected and not self.response_complete:
            self._flow.resume_reading()
            if not self._news:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def __call__(self, message: Message) -> None:
        """ASGI's `send`."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"expected 'http.response.start', got {kind!r}")
            self._trailers = bool(message.get("trailers", False))
            self._transport.write(self._head(message["status"], message.get("headers", ())))
        elif self.response_complete:
            raise RuntimeError(f"{kind!r} after the end of the response")
        elif kind == "http.response.trailers":
            if not message.get("more_trailers", False):
                self._transport.write(self._end(message.get("headers", ())))
                self._completed()
        elif kind == "http.response.body":
            more = message.get("more_body", False)
            data = self._framed(message.get("body", b""))
            if not more and not self._trailers:
                data += self._end(())
            if data:
                self._transport.write(data)
            if not more and not self._trailers:
                self._completed()
        else:
            raise RuntimeError(f"expected 'http.response.body', got {kind!r}")

    def at_once(self, status: int, headers: list[Header], body: bytes) -> bool:
        """See `AtOnce`."""
        if self._flow.write_paused or self.response_started:
            return False
        if not self.disconnected:
            head = self._head(status, headers)
            self._transport.write(head + self._framed(body) + self._end(()))
            self._completed()
        return True

    def inform(self, status: int, headers: list[Header]) -> None:
        """See `Inform`."""
        if not self.response_started and not self.disconnected and self.scope["http_version"] == "1.1":
            self._transport.write(_checked(_STATUS_LINES[status], headers))

    # The response in bytes

    def _head(self, status: int, headers: Any) -> bytes:
        length: bytes | None = None
        closes = False
        for name, value in headers:
            if name in _FRAMING:
                if name == b"content-length":
                    length = value
                elif name == b"connection":
                    closes = closes or b"close" in tokens([value])
                else:
                    raise RuntimeError("the framing of a response is the server's")
        head = _checked(_STATUS_LINES[status], headers)
        self.response_started = True
        self._waits_for_continue = False
        self._takes_body = self.scope["method"] != "HEAD" and status not in _NO_LENGTH
        if length is not None:
            self._left = int(length) if self._takes_body else 0
        elif self._takes_body:
            self._chunked = self.scope["http_version"] == "1.1"
            if self._chunked:
                head = head[:-2] + b"transfer-encoding: chunked\r\n\r\n"
            else:
                self._left = None
                self.keep_alive = False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            head = head[:-2] + b"connection: close\r\n\r\n"
        return head

    def _framed(self, body: bytes) -> bytes:
        if not self._takes_body:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                raise RuntimeError("a response that is longer than its Content-Length")
        return body

    def _end(self, trailers: Any) -> bytes:
        if self._chunked:
            return _checked(b"0\r\n", trailers)
        if self._left:
            raise RuntimeError("a response that is shorter than its Content-Length")
        return b""

    def _completed(self) -> None:
        self.response_complete = True
        self._on_gone = None
        self.set()
        if not self.keep_alive:
            self._transport.close()
        self._on_response()


def _checked(line: bytes, headers: Any) -> bytes:
    """A head, or what ends a body of chunks.

    Raises:
        RuntimeError: There is something in it that ends a line, or that readers may disagree about.
    """
    pieces = [line]
    for name, value in headers:
        pieces += (name, b": ", value, b"\r\n")
    pieces.append(b"\r\n")
    written = b"".join(pieces)
    ends = len(pieces) // 4 + 2
    if (
        written.count(b"\r") != ends
        or written.count(b"\n") != ends
        or len(written.translate(None, _CONTROLS)) != len(written)
    ):
        raise RuntimeError("an illegal character in a header of a response")
    return written


def _nothing() -> None:
    """What is left to be called of a connection that is served by another cycle."""
