"""The client's side of an exchange: its body as it comes, and word at once when it leaves.

ASGI has one channel for both, so one task listens to it for as long as the exchange lasts. It reads ahead of whoever
sends the body on, but not far: a backend that reads slowly slows the client. That a client has left stands behind what
it has sent, so when a backend reads nothing for a while, more is read of the client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable

import anyio
import httpx

from lbclient.asgi.framing import Framing
from lbclient.asgi.refusals import Refusal
from lbclient.asgi.types import Receive

READ_AHEAD = 64 * 1024  # bytes
LOOK_AFTER = 0.5  # seconds in which a backend reads nothing, for a client that has left
NEAR = 4 * 1024 * 1024  # bytes that are looked through for it
FAR = 16 * 1024 * 1024  # more than two systems mostly keep between them; for MOST_FAR clients at a time
MOST_FAR = 4

_far: set[Incoming] = set()


class Incoming(httpx.AsyncByteStream):
    """The body of a request, to be sent on while it comes.

    Args:
        receive: ASGI's.
        framing: What the headers say of it.
        most: Bytes that it may have; None for any number.
        silence: Seconds that the client may be silent in it; None for any time.

    Attributes:
        gone: The client has left.
    """

    def __init__(self, receive: Receive, framing: Framing, most: int | None, silence: float | None) -> None:
        self._receive = receive
        self._most = most
        self._silence = silence
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._most_ahead = READ_AHEAD
        self._size = 0
        self._ended = False
        # Events are made where somebody waits: most requests have no body.
        self._something: anyio.Event | None = None
        self._room: anyio.Event | None = None
        self._wanted = anyio.Event() if framing.expects_continue else None
        self._answered = False
        self.gone = False

    async def listen(self, leave: Callable[[], None]) -> None:
        """Hear what the client sends, and call `leave` when it has left.

        A server says "100 Continue" when it is asked for the body. So a client that waits for that is not listened to
        before somebody wants what it has.
        """
        if self._wanted is not None:
            await self._wanted.wait()
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self.left(leave)
                    return
                self._take(message.get("body", b""), message.get("more_body", False))
                await self._until_there_is_room()
        finally:
            _far.discard(self)

    async def _until_there_is_room(self) -> None:
        if self._ended:  # nothing more can come than the word that it has left
            _far.discard(self)
            return
        while self._held >= self._most_ahead:
            self._room = room = anyio.Event()
            with anyio.move_on_after(LOOK_AFTER if self._most_ahead == READ_AHEAD else None):
                await room.wait()
            if room.is_set():
                self._most_ahead = READ_AHEAD
                _far.discard(self)
            elif len(_far) < MOST_FAR:
                self._most_ahead = FAR
                _far.add(self)
            else:
                self._most_ahead = NEAR

    def left(self, leave: Callable[[], object]) -> None:
        """The client has left: call `leave`, unless it has got all that it came for."""
        if not self._answered:
            self.gone = True
            leave()

    def want(self) -> None:
        """Listen from now on."""
        if self._wanted is not None:
            self._wanted.set()

    def answered(self) -> None:
        """The last of the response is about to be sent: some servers then say that the client has left."""
        self._answered = True

    async def is_empty(self) -> bool:
        """Whether there is no body, which takes until its beginning has come."""
        while not self._parts and not self._ended:
            await self._wait()
        return not self._parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.want()
        while True:
            if self._most is not None and self._size > self._most:
                raise too_large(self._most)
            if self._parts:
                parts = self._parts
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()
                self._held = 0
                if self._room is not None:
                    self._room.set()
                yield data
            elif self._ended:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._something = something = anyio.Event()
        with anyio.move_on_after(self._silence):
            await something.wait()
            return
        raise Refusal(408, "the body did not come in time", close=True)

    def _take(self, data: bytes, more: bool) -> None:
        self._size += len(data)
        if data:
            self._parts.append(data)
            self._held += len(data)
        self._ended = not more
        if self._something is not None:
            self._something.set()


def too_large(most: int) -> Refusal:
    """A body of more than `most` bytes."""
    return Refusal(413, f"a body may have {most} bytes", close=True)
