"""The backend's side of a WebSocket: frames by wsproto over the connection that a handshake has switched."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator

import anyio
import httpcore
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

ONE_READ = 64 * 1024  # bytes
ONE_WRITE = 64 * 1024  # bytes; the write timeout is for each
_KNOWN = frozenset(CloseReason)
BROKE_OFF = CloseReason.ABNORMAL_CLOSURE


class BackendSocket:
    """An open WebSocket to a backend.

    Nothing that reads ever waits for something to be written: two ends that both wait for the other one to read would
    wait for ever. So what has to be answered (pings, the closing handshake) is left to `answer`, which runs beside.

    Args:
        stream: The connection.
        most: Bytes that a message may have.
        write_timeout: Seconds in which the backend has to read something.

    Attributes:
        code: How it ended: what the backend said, or 1006 when it said nothing; None while it is open.
        reason: In its words.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, most: int, write_timeout: float | None) -> None:
        self._stream = stream
        self._frames = Connection(ConnectionType.CLIENT)
        self._most = most
        self._write_timeout = write_timeout
        self._writing = anyio.Lock()
        # Of many pings the last ones are enough (RFC 6455, 5.5.3).
        self._answers: deque[Event] = deque(maxlen=8)
        self._to_answer = anyio.Event()
        self._heard = anyio.Event()
        self.code: int | None = None
        self.reason = ""

    async def messages(self) -> AsyncGenerator[str | bytes]:
        """What the backend says, message by message, until it is over; `code` and `reason` then tell why.

        Raises:
            httpcore.NetworkError: The connection broke, or was cut.
        """
        text: list[str] = []
        binary: list[bytes | bytearray] = []
        size = 0
        while self.code is None:
            data = await self._stream.read(ONE_READ)
            self._heard.set()
            self._frames.receive_data(data or None)
            for event in self._frames.events():
                if isinstance(event, (TextMessage, BytesMessage)):
                    size += len(event.data)
                    if size > self._most:
                        self.code, self.reason = CloseReason.MESSAGE_TOO_BIG, f"more than {self._most} bytes"
                        self._answer(CloseConnection(code=self.code, reason=self.reason))
                        return
                    if isinstance(event, TextMessage):
                        text.append(event.data)
                    else:
                        binary.append(event.data)
                    if event.message_finished:
                        yield "".join(text) if isinstance(event, TextMessage) else b"".join(binary)
                        text, binary, size = [], [], 0
                elif isinstance(event, Ping):
                    self._answer(event.response())
                elif isinstance(event, CloseConnection):
                    self._closed(event)

    async def answer(self) -> None:
        """Answer what has to be answered, until cancelled."""
        while True:
            await self._to_answer.wait()
            self._to_answer = anyio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Say what is left to be answered."""
        while self._answers:
            await self._say(self._answers.popleft())

    async def keep_alive(self, interval: float, timeout: float) -> None:
        """Ping whenever nothing came for a while.

        Args:
            interval: Seconds of silence.
            timeout: Seconds that the backend may take to say anything then.

        Raises:
            httpcore.ReadTimeout: It said nothing.
        """
        while True:
            self._heard = anyio.Event()
            with anyio.move_on_after(interval):
                await self._heard.wait()
                continue
            await self._say(Ping())
            with anyio.move_on_after(timeout):
                await self._heard.wait()
                continue
            raise httpcore.ReadTimeout(f"the backend did not answer a ping within {timeout:.3g} s")

    async def send(self, message: str | bytes) -> None:
        """Say something; returns when the backend has room for more."""
        await self._say(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        known = CloseReason(code) if code in _KNOWN else code  # wsproto tells 1005 by its identity
        await self._say(CloseConnection(code=known, reason=reason or None))

    def _answer(self, event: Event) -> None:
        self._answers.append(event)
        self._to_answer.set()

    def _closed(self, event: CloseConnection) -> None:
        if event.code == BROKE_OFF:
            self.code = BROKE_OFF
        elif self._frames.state is ConnectionState.OPEN:  # wsproto's word for frames that are none
            self.code, self.reason = BROKE_OFF, event.reason or ""
            self._answer(event)
        else:
            self.code, self.reason = int(event.code), event.reason or ""
            self._answer(event.response())

    async def _say(self, event: Event) -> None:
        async with self._writing:
            try:
                data = self._frames.send(event)
            except LocalProtocolError:  # it was closed meanwhile
                return
            for start in range(0, len(data), ONE_WRITE):
                await self._stream.write(data[start : start + ONE_WRITE], self._write_timeout)
