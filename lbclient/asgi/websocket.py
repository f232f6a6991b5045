"""A WebSocket passed on: the backend is asked first, and what it says to the handshake is what the client hears.

Two ways run beside each other, each waiting for the slower end of its own. The one from the client also hears when that
leaves, at whatever moment. The backend counts it as in flight until both are over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import cast

import anyio
import httpcore
import httpx
from wsproto.utilities import generate_accept_token, generate_nonce

from lbclient._async.errors import as_httpx
from lbclient._async.transport import AsyncBalancedTransport
from lbclient.asgi.backend_socket import BROKE_OFF, BackendSocket
from lbclient.asgi.framing import check_head
from lbclient.asgi.headers import RequestFields
from lbclient.asgi.inbound import Inbound, parts_of
from lbclient.asgi.recipient import Recipient
from lbclient.asgi.refusals import ClientGone, in_words, refusal_of, retry_after
from lbclient.asgi.settings import Settings
from lbclient.asgi.types import Receive, Scope, Send
from lbclient.asgi.ways import Ways, settle
from lbclient.context import CLIENT, on_behalf_of
from lbclient.core.errors import DrainTimeout
from lbclient.core.facts import Header

logger = logging.getLogger("lbclient.asgi")

CLOSE_WITHIN = 1.0  # seconds that a backend may take to answer the end of a WebSocket
NORMAL, GONE_BADLY, INTERNAL, RESTART, NO_STATUS = 1000, 1006, 1011, 1012, 1005  # RFC 6455, 7.4

# Between us and the backend: a handshake of its own. (Servers differ in which of these they leave in the scope.)
_OF_ONE_HANDSHAKE = frozenset(
    {
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    }
)


async def relay(
    transport: AsyncBalancedTransport,
    settings: Settings,
    strip_root_path: bool,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Carry a WebSocket out."""
    await receive()  # "websocket.connect"
    recipient = Recipient(send)
    relaying: _Relay | None = None
    try:
        fields = RequestFields(scope["headers"])
        check_head(scope, fields)
        relaying = _Relay(transport, Inbound(scope, fields, settings, strip_root_path), receive, recipient)
        context = CLIENT.get()
        with on_behalf_of(None if context is None else context.deadline_only()):
            await relaying.run()
    except ClientGone:
        return
    except Exception as exc:
        mapped = as_httpx(exc)
        refusal = refusal_of(mapped, retry_after(transport, mapped))
        accepted = relaying is not None and relaying.accepted
        if refusal is None or (recipient.answered and not accepted):
            raise
        logger.warning("WebSocket %s: %s: %s", scope["path"], refusal, in_words(mapped))
        try:
            if accepted:
                await send({"type": "websocket.close", **_closing(mapped)})
            else:
                await refusal.answer(scope, send)
        except OSError:
            return


class _Relay:
    def __init__(
        self, transport: AsyncBalancedTransport, inbound: Inbound, receive: Receive, send: Recipient
    ) -> None:
        self._transport = transport
        self._inbound = inbound
        self._settings = inbound.settings
        self._receive = receive
        self._send = send
        self._open = anyio.Event()
        self._over = anyio.Event()
        self._socket: BackendSocket | None = None
        self._gone = False
        self._ways = Ways()
        self.accepted = False

    async def run(self) -> None:
        """Until it is over.

        Raises:
            ClientGone: The client left.
            Exception: The backend cannot be reached, or broke off.
        """
        failed = await self._ways.run(self._with_backend, self._from_client)
        settle(self._gone, failed)

    # From the client

    async def _from_client(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._gone = True
                await self._leave(message.get("code") or NO_STATUS, message.get("reason") or "")
                return
            await self._open.wait()
            assert self._socket is not None
            text = message.get("text")
            await self._socket.send(text if text is not None else message.get("bytes") or b"")

    async def _leave(self, code: int, reason: str) -> None:
        """Tell the backend, and give it time to answer. For a client that vanished nothing is said."""
        if self._socket is not None and code != GONE_BADLY:
            with anyio.move_on_after(CLOSE_WITHIN):
                await self._socket.close(code, reason)
                await self._over.wait()
        self._ways.end()

    # From the backend

    async def _with_backend(self) -> None:
        inbound = self._inbound
        key = generate_nonce()
        offered: list[str] = list(inbound.scope.get("subprotocols") or ())
        headers = _without_handshake(inbound.headers())
        request = inbound.request("GET", _handshake(key, offered), headers, _NOTHING)
        response = await self._transport.handle_async_request(request)
        try:
            inbound.scope.setdefault("state", {})["lbclient"] = response.extensions["lbclient"]
            if response.status_code != 101:
                await self._pass_refusal_on(response)
                return
            subprotocol = _checked(response.headers, key, offered)
            stream: httpcore.AsyncNetworkStream = response.extensions["network_stream"]
            settings = self._settings
            socket = BackendSocket(stream, settings.max_message, settings.timeouts["write"])
            headers = _without_handshake(inbound.returned(response.headers.raw, response.extensions).headers)
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
            self.accepted = True
            self._socket = socket
            self._open.set()
            self._ways.begin(socket.answer)
            if settings.ping_interval is not None:
                self._ways.begin(self._keep_alive)
            await self._from_backend(socket)
        finally:
            await response.aclose()

    async def _keep_alive(self) -> None:
        assert self._socket is not None
        assert self._settings.ping_interval is not None
        await self._socket.keep_alive(self._settings.ping_interval, self._settings.ping_timeout)

    async def _from_backend(self, socket: BackendSocket) -> None:
        try:
            async with aclosing(socket.messages()) as messages:
                async for message in messages:
                    if self._gone:
                        continue
                    kind = "text" if isinstance(message, str) else "bytes"
                    await self._send({"type": "websocket.send", kind: message})
            with anyio.move_on_after(CLOSE_WITHIN):
                await socket.flush()
        finally:
            self._over.set()
        if self._gone:
            return
        if socket.code == BROKE_OFF:
            raise httpx.RemoteProtocolError("the backend closed the connection without closing the WebSocket")
        code = NORMAL if socket.code in (NO_STATUS, None) else socket.code
        await self._send({"type": "websocket.close", "code": code, "reason": socket.reason})

    async def _pass_refusal_on(self, response: httpx.Response) -> None:
        """What a backend says that wants no WebSocket: as the HTTP answer it was, where the server can do that."""
        if "websocket.http.response" not in (self._inbound.scope.get("extensions") or ()):
            await self._send({"type": "websocket.close", "code": 1008})
            return
        start = "websocket.http.response.start"
        body = "websocket.http.response.body"
        headers = self._inbound.returned(response.headers.raw, response.extensions).headers
        await self._send({"type": start, "status": response.status_code, "headers": headers})
        async with parts_of(cast("httpx.AsyncByteStream", response.stream)) as parts:
            async for part in parts:
                await self._send({"type": body, "body": part, "more_body": True})
        await self._send({"type": body, "body": b"", "more_body": False})


def _handshake(key: bytes, subprotocols: list[str]) -> list[Header]:
    offered = ", ".join(subprotocols).encode("latin-1")
    return [
        *([(b"sec-websocket-protocol", offered)] if offered else []),
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", key),
    ]


def _without_handshake(headers: list[Header]) -> list[Header]:
    return [header for header in headers if header[0] not in _OF_ONE_HANDSHAKE]


def _checked(headers: Mapping[str, str], key: bytes, offered: Iterable[str]) -> str | None:
    """The subprotocol that a backend has chosen, once its handshake has been looked at (RFC 6455, 4.1).

    Raises:
        httpx.RemoteProtocolError: It is none.
    """
    subprotocol = headers.get("sec-websocket-protocol")
    wrong = None
    if headers.get("upgrade", "").lower() != "websocket":
        wrong = "101 for something else than a WebSocket"
    elif headers.get("sec-websocket-accept", "") != generate_accept_token(key).decode("ascii"):
        wrong = "a wrong Sec-WebSocket-Accept"
    elif "sec-websocket-extensions" in headers:
        wrong = "an extension that was not offered"
    elif subprotocol is not None and subprotocol not in offered:
        wrong = f"the subprotocol {subprotocol!r}, which was not offered"
    if wrong is not None:
        raise httpx.RemoteProtocolError(f"the backend answered the handshake with {wrong}")
    return subprotocol


def _closing(exc: Exception) -> dict[str, object]:
    """How to close a WebSocket whose backend broke off."""
    if isinstance(exc, DrainTimeout):
        return {"code": RESTART, "reason": "the backend is being replaced"}
    return {"code": INTERNAL, "reason": "the backend broke off"}


_NOTHING = httpx.ByteStream(b"")
