"""One HTTP request passed on and its response passed back, both streamed, for as long as the client is there.

The exchange ends in one of four ways: the response is whole; it breaks off, which the client sees because we raise
and the server cuts its connection; it never began, which gets an answer of ours; or the client leaves, which cancels
what is under way at the backend at once, however silent that is.
"""

from __future__ import annotations

import asyncio
import logging

import httpx

from lbclient._async.loops import running_loop
from lbclient._async.transport import AsyncBalancedTransport
from lbclient.asgi.attendance import unless_the_client_leaves, while_the_client_is_there
from lbclient.asgi.framing import NO_BODY, Framing, check_head, check_method, framing_of
from lbclient.asgi.inbound import Inbound, parts_of, trailers_of
from lbclient.asgi.incoming import Incoming, too_large
from lbclient.asgi.informational import EARLY_HINT, answer_to
from lbclient.asgi.refusals import ClientGone, in_words, refusal_of, retry_after
from lbclient.asgi.settings import Settings
from lbclient.asgi.types import Message, Receive, Scope, Send
from lbclient.context import CLIENT, on_behalf_of
from lbclient.core.facts import Header

logger = logging.getLogger("lbclient.asgi")

_NOTHING = httpx.ByteStream(b"")


async def exchange(
    transport: AsyncBalancedTransport,
    settings: Settings,
    strip_root_path: bool,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Carry an HTTP request out.

    Raises:
        Exception: The response broke off after its beginning had been sent; the server has to cut the connection.
    """
    started = False

    async def sending(message: Message) -> None:
        nonlocal started
        started = started or message["type"] != EARLY_HINT
        try:
            await send(message)
        except OSError as exc:  # how ASGI 2.4 says that nobody is there
            raise ClientGone from exc

    try:
        check_method(scope["method"])
        check_head(scope)
        framing = framing_of(scope)
        if scope["method"] == "OPTIONS" and scope.get("raw_path") == b"*":
            # It asks about us (RFC 9110, 9.3.7).
            await sending({"type": "http.response.start", "status": 204, "headers": []})
            await sending({"type": "http.response.body", "body": b"", "more_body": False})
            return
        inbound = Inbound(scope, settings, strip_root_path)
        if settings.max_body is not None and (framing.length or 0) > settings.max_body:
            raise too_large(settings.max_body)
        incoming = Incoming(receive, framing, settings.max_body, settings.body_timeout)
        context = CLIENT.get()  # we tell the client's address and its cookies ourselves
        relay = _Relay(transport, inbound, incoming, framing, sending)
        fast = framing == NO_BODY and isinstance(running_loop(), asyncio.AbstractEventLoop)
        attended = unless_the_client_leaves if fast else while_the_client_is_there
        if context is None:
            await attended(incoming, relay)
        else:
            with on_behalf_of(context.deadline_only()):
                await attended(incoming, relay)
    except ClientGone:
        return
    except Exception as exc:
        _record(scope, exc)
        refusal = refusal_of(exc, retry_after(transport, exc))
        if refusal is None or started:
            raise
        if refusal.status >= 500:
            logger.warning("%s %s: %s: %s", scope["method"], scope["path"], refusal, in_words(exc))
        try:
            await refusal.answer(scope, send)
        except OSError:
            return


class _Relay:
    """The way there and back."""

    def __init__(
        self,
        transport: AsyncBalancedTransport,
        inbound: Inbound,
        incoming: Incoming,
        framing: Framing,
        send: Send,
    ) -> None:
        self._transport = transport
        self._inbound = inbound
        self._incoming = incoming
        self._framing = framing
        self._send = send

    async def __call__(self) -> None:
        inbound = self._inbound
        method: str = inbound.scope["method"]
        headers, stream = await self._body()
        request = inbound.request(method, headers, inbound.headers(), stream)
        response = await answer_to(request, self._transport, inbound.scope, self._send)
        try:
            inbound.scope.setdefault("state", {})["lbclient"] = response.extensions["lbclient"]
            self._incoming.want()
            await self._answer(method, response)
        finally:
            await response.aclose()

    async def _body(self) -> tuple[list[Header], httpx.AsyncByteStream]:
        """How the body is framed, and the body."""
        framing = self._framing
        if framing.unknown and await self._incoming.is_empty():
            return [], _NOTHING
        if framing.length is None:
            return [(b"transfer-encoding", b"chunked")], self._incoming
        if framing.length:
            return [(b"content-length", b"%d" % framing.length)], self._incoming
        given = any(name == b"content-length" for name, _ in self._inbound.scope["headers"])
        return [(b"content-length", b"0")] if given else [], _NOTHING

    async def _answer(self, method: str, response: httpx.Response) -> None:
        headers = self._inbound.response_headers(response)
        left = _length(headers, method, response.status_code)
        send = self._send
        extensions = self._inbound.scope.get("extensions") or ()
        start: Message = {"type": "http.response.start", "status": response.status_code, "headers": headers}
        carries_trailers = left is None and "http.response.trailers" in extensions
        await send({**start, "trailers": True} if carries_trailers else start)
        last = b""
        # The last part goes with the end, which is one message less; but not while the client may still be sending.
        hold = left is not None and self._framing == NO_BODY
        if left != 0:
            async with parts_of(response) as parts:
                async for part in parts:
                    if left is not None:
                        left -= len(part)
                        if hold and left <= 0:
                            last = (
                                part  # and on: the body's end has to be read, for its connection to be kept
                            )
                            continue
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        trailers = trailers_of(response) if carries_trailers else []
        await response.aclose()  # before the client can ask for more
        self._incoming.answered()
        await send({"type": "http.response.body", "body": last, "more_body": False})
        if carries_trailers:
            await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})


def _length(headers: list[Header], method: str, status: int) -> int | None:
    """Bytes of a response's body; None when only its end will tell (RFC 9112, 6.3)."""
    if method == "HEAD" or status in (204, 304):
        return 0
    return next((int(value) for name, value in headers if name == b"content-length"), None)


def _record(scope: Scope, exc: Exception) -> None:
    record = getattr(exc, "lbclient", None)
    if record is not None:
        scope.setdefault("state", {})["lbclient"] = record
