"""One HTTP request passed on and its response passed back, both streamed, for as long as the client is there.

The exchange ends in one of four ways: the response is whole; it breaks off, which the client sees because we raise
and the server cuts its connection; it never began, which gets an answer of ours; or the client leaves, which cancels
what is under way at the backend at once, however silent that is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, TypeAlias

import anyio
import httpx

from lbclient._async.engine import Answer
from lbclient._async.loops import running_loop
from lbclient._async.transport import AsyncBalancedTransport
from lbclient.asgi.attendance import (
    GONE,
    TaskScope,
    unless_the_client_leaves,
    until_the_server_says,
    while_the_client_is_there,
)
from lbclient.asgi.framing import NO_BODY, Framing, check_head, check_method, framing_of
from lbclient.asgi.headers import RequestFields
from lbclient.asgi.inbound import TRAILERS, Inbound, Returned, parts_of, trailers_of
from lbclient.asgi.incoming import Incoming, too_large
from lbclient.asgi.informational import answer_to
from lbclient.asgi.outgoing import close, whole_body
from lbclient.asgi.recipient import Recipient
from lbclient.asgi.refusals import ClientGone, in_words, refusal_of, retry_after
from lbclient.asgi.settings import Settings
from lbclient.asgi.types import Message, Receive, Scope, Send
from lbclient.asgi.ways import Way
from lbclient.context import CLIENT, on_behalf_of
from lbclient.core.facts import Header

logger = logging.getLogger("lbclient.asgi")

Framed: TypeAlias = tuple[list[Header], httpx.AsyncByteStream]
"""How a request's body is framed, and the body."""

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
    client = Recipient(send)
    try:
        check_method(scope["method"])
        fields = RequestFields(scope["headers"])
        check_head(scope, fields)
        framing = framing_of(scope, fields)
        if scope["method"] == "OPTIONS" and scope.get("raw_path") == b"*":
            await client.whole(204, [], b"")  # it asks about us (RFC 9110, 9.3.7)
            return
        inbound = Inbound(scope, fields, settings, strip_root_path)
        if settings.max_body is not None and (framing.length or 0) > settings.max_body:
            raise too_large(settings.max_body)
        incoming = Incoming(receive, framing, settings.max_body, settings.body_timeout)
        relay = _Relay(transport, inbound, incoming, framing, client)
        context = CLIENT.get()  # we tell the client's address and its cookies ourselves
        if context is None:
            await _attended(scope, framing, incoming, relay, transport.gives_back_at_once)
        else:
            with on_behalf_of(context.deadline_only()):
                await _attended(scope, framing, incoming, relay, transport.gives_back_at_once)
    except ClientGone:
        return
    except Exception as exc:
        _record(scope, exc)
        refusal = refusal_of(exc, retry_after(transport, exc))
        if refusal is None or client.answered:
            raise
        if refusal.status >= 500:
            logger.warning("%s %s: %s: %s", scope["method"], scope["path"], refusal, in_words(exc))
        try:
            await refusal.answer(scope, send)
        except OSError:
            return


def _attended(
    scope: Scope, framing: Framing, incoming: Incoming, relay: Way, never_waits: bool
) -> Awaitable[None]:
    """Carry an exchange out by the cheapest way of hearing that the client leaves."""
    if framing == NO_BODY:
        extensions: Mapping[str, Any] = scope.get("extensions") or {}
        told = GONE in extensions
        if told or isinstance(running_loop(), asyncio.AbstractEventLoop):
            cancels = TaskScope() if never_waits else anyio.CancelScope()
            if told:
                return until_the_server_says(extensions[GONE], incoming, relay, cancels)
            return unless_the_client_leaves(incoming, relay, cancels)
    return while_the_client_is_there(incoming, relay)


class _Relay:
    """The way there and back."""

    __slots__ = ("_client", "_framing", "_inbound", "_incoming", "_transport")

    def __init__(
        self,
        transport: AsyncBalancedTransport,
        inbound: Inbound,
        incoming: Incoming,
        framing: Framing,
        client: Recipient,
    ) -> None:
        self._transport = transport
        self._inbound = inbound
        self._incoming = incoming
        self._framing = framing
        self._client = client

    async def __call__(self) -> None:
        inbound = self._inbound
        scope = inbound.scope
        headers, stream = await self._body() if self._framing.unknown else self._known_body()
        request = inbound.request(scope["method"], headers, inbound.headers(), stream)
        extensions: Mapping[str, Any] = scope.get("extensions") or {}
        answer = await answer_to(request, self._transport, extensions, self._client)
        try:
            scope.setdefault("state", {})["lbclient"] = answer.extensions["lbclient"]
            self._incoming.want()
            returned = self._returned(answer)
            takes_trailers = returned.length is None and TRAILERS in extensions
            body = whole_body(answer)
            if (
                body is None
                or returned.length not in (None, len(body))
                or (takes_trailers and trailers_of(answer.extensions))
            ):
                await self._stream(answer, returned, body, takes_trailers)
                return
        except BaseException:
            await close(answer)
            raise
        await close(answer)  # before the client can ask for more
        self._incoming.answered()
        if not self._client.at_once(answer.status, returned.headers, body):
            await self._client.whole(answer.status, returned.headers, body)

    async def _body(self) -> Framed:
        """How a body is framed whose client did not say; and the body."""
        if await self._incoming.is_empty():
            return [], _NOTHING
        return self._known_body()

    def _known_body(self) -> Framed:
        length = self._framing.length
        if length is None:
            return [(b"transfer-encoding", b"chunked")], self._incoming
        if length:
            return [(b"content-length", b"%d" % length)], self._incoming
        return [(b"content-length", b"0")] if self._inbound.fields.lengths else [], _NOTHING

    def _returned(self, answer: Answer) -> Returned:
        returned = self._inbound.returned(answer.headers, answer.extensions)
        if answer.status in (204, 304) or self._inbound.scope["method"] == "HEAD":
            returned.length = 0
        return returned

    async def _stream(
        self, answer: Answer, returned: Returned, body: bytes | None, takes_trailers: bool
    ) -> None:
        """Pass a response on while it comes.

        Args:
            answer: It.
            returned: Its head, as it goes back.
            body: What has been taken of it, if all of it was there.
            takes_trailers: The client gets them.
        """
        send, headers, left = self._client, returned.headers, returned.length
        start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
        if takes_trailers:
            headers.extend((b"trailer", value) for value in returned.trailer)
            start["trailers"] = True
        try:
            await send(start)
            last = body or b""
            # The last part goes with the end, which is one message less; but not while the client may still be sending.
            hold = left is not None and self._framing == NO_BODY
            if body is None and left != 0:
                async with parts_of(answer.stream) as parts:
                    async for part in parts:
                        if left is not None:
                            left -= len(part)
                            if hold and left <= 0:
                                last = part  # and on: the end has to be read, for the connection to be kept
                                continue
                        await send({"type": "http.response.body", "body": part, "more_body": True})
            trailers = trailers_of(answer.extensions) if takes_trailers else []
        finally:
            await close(answer)  # before the client can ask for more
        self._incoming.answered()
        await send({"type": "http.response.body", "body": last, "more_body": False})
        if takes_trailers:
            await send({"type": TRAILERS, "headers": trailers, "more_trailers": False})


def _record(scope: Scope, exc: Exception) -> None:
    record = getattr(exc, "lbclient", None)
    if record is not None:
        scope.setdefault("state", {})["lbclient"] = record
