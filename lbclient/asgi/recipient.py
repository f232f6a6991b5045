"""Whom an answer is for: ASGI's `send`, which may find that nobody is there any more."""

from __future__ import annotations

from lbclient.asgi.informational import EARLY_HINT
from lbclient.asgi.refusals import ClientGone
from lbclient.asgi.types import AtOnce, Message, Send
from lbclient.core.facts import Header


class Recipient:
    """ASGI's `send` of one request or WebSocket.

    Args:
        send: The server's.

    Attributes:
        answered: The answer has begun: no other one can take its place.
    """

    __slots__ = ("_send", "answered")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.answered = False

    async def __call__(self, message: Message) -> None:
        """Send a message.

        Raises:
            ClientGone: Nobody is there.
        """
        self.answered = self.answered or message["type"] != EARLY_HINT
        try:
            await self._send(message)
        except OSError as exc:  # how ASGI 2.4 says that nobody is there
            raise ClientGone from exc

    def at_once(self, status: int, headers: list[Header], body: bytes) -> bool:
        """Send a response of which everything is there, if the server can do that; whether it could."""
        at_once: AtOnce | None = getattr(self._send, "at_once", None)
        self.answered = at_once is not None and at_once(status, headers, body)
        return self.answered

    async def whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """The same by messages."""
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": False})
