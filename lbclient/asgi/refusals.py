"""Answers of our own: what is wrong with a request, or what became of it on its way to a backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus

import httpx

from lbclient._async.transport import AsyncBalancedTransport
from lbclient.asgi.types import Receive, Scope, Send
from lbclient.core.errors import NoBackendAvailable
from lbclient.core.facts import Header
from lbclient.core.routing import NoRoute

SOONEST, LATEST = 1, 30  # seconds of a Retry-After
STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
"""The messages that carry a response's headers."""


class Refusal(Exception):
    """A request that gets an answer of ours.

    Args:
        status: Of the answer.
        reason: In words, for the client: says nothing of the backends.
        headers: More headers.
        close: The client's connection is not to be used again, as the rest of what it sent cannot be trusted.
    """

    def __init__(
        self, status: int, reason: str, headers: Sequence[Header] = (), *, close: bool = False
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = [*headers, (b"connection", b"close")] if close else list(headers)

    def __str__(self) -> str:
        return f"{self.status} {self.reason}"

    def body(self) -> bytes:
        """What is said besides the status."""
        return f"{self.status} {HTTPStatus(self.status).phrase}: {self.reason}\n".encode()

    async def answer(self, scope: Scope, send: Send) -> None:
        """Answer.

        Args:
            scope: ASGI's. A WebSocket is refused by an HTTP answer where the server can do that, or else by a bare 403.
            send: Likewise.
        """
        prefix = "http"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in (scope.get("extensions") or ()):
                await send({"type": "websocket.close", "code": 1008 if self.status < 500 else 1011})
                return
            prefix = "websocket.http"
        http1 = str(scope.get("http_version", "1.1")).startswith("1")
        body = self.body()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            # HTTP/2 has no such header (RFC 9113, 8.2.2)
            *((name, value) for name, value in self.headers if http1 or name != b"connection"),
        ]
        await send({"type": f"{prefix}.response.start", "status": self.status, "headers": headers})
        await send({"type": f"{prefix}.response.body", "body": body, "more_body": False})


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that nobody has looked at yet; of a WebSocket the beginning is read first."""
    if scope["type"] == "websocket":
        await receive()
    await refusal.answer(scope, send)


class ClientGone(Exception):
    """Nobody is there to be answered."""


def bad_request(reason: str) -> Refusal:
    """A request that two readers could read in two ways: nothing behind it on its connection can be trusted."""
    return Refusal(400, reason, close=True)


def refusal_of(exc: Exception, wait: float) -> Refusal | None:
    """What to tell the client of an exception that a balanced transport raised; None when that is a bug.

    Args:
        exc: The exception.
        wait: Seconds until trying again may help, when nobody was available.
    """
    if isinstance(exc, Refusal):
        return exc
    if isinstance(exc, (NoBackendAvailable, httpx.PoolTimeout)):
        seconds = min(max(SOONEST, math.ceil(min(wait, LATEST))), LATEST)
        return Refusal(503, "no backend is available", [(b"retry-after", b"%d" % seconds)])
    if isinstance(exc, NoRoute):
        return Refusal(404, "no route takes this request")
    if isinstance(exc, httpx.TimeoutException):
        return Refusal(504, "the backend took too long")
    if isinstance(exc, httpx.LocalProtocolError):
        return bad_request("this request cannot be passed on")
    if isinstance(exc, httpx.TransportError):
        return Refusal(502, "the backend could not be reached, or broke off")
    return None


def in_words(exc: Exception) -> str:
    """For the log: what happened, and to whom."""
    return "; ".join([str(exc) or type(exc).__name__, *getattr(exc, "__notes__", ())])


def retry_after(transport: AsyncBalancedTransport, exc: Exception) -> float:
    """Seconds until time may make a backend available, after an exception of the transport's."""
    record = getattr(exc, "lbclient", None)
    pool = None if record is None else transport.pools.get(record.pool)
    return float(SOONEST) if pool is None else pool.changes_in()
