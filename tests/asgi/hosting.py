"""ASGI apps behind uvicorn in a thread of the test's own process, and a client that says just what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import h11
import uvicorn

from lbclient.asgi.types import App, Scope
from lbclient.sidecar.protocol import Protocol

READY_WITHIN = 10.0


class Host:
    """uvicorn in a thread.

    Args:
        app: What to serve.
        options: uvicorn's; and its `http` may be "sidecar", for the protocol of the sidecar's listeners.
    """

    def __init__(self, app: App, **options: Any) -> None:
        if options.get("http") == "sidecar":
            options["http"] = partial(Protocol, refused=_nobody)
        chosen: dict[str, Any] = {
            "log_level": "critical",
            "ws": "wsproto",
            "timeout_graceful_shutdown": 2,
            "proxy_headers": False,  # it would believe everybody on loopback
        } | options
        self._app = app
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(app, **chosen))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        deadline = threading.Event()
        for _ in range(int(READY_WITHIN / 0.01)):
            if self._server.started or not self._thread.is_alive():
                break
            deadline.wait(0.01)
        assert self._server.started

    def _run(self) -> None:
        with contextlib.suppress(SystemExit):
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        close = getattr(self._app, "aclose", None)  # of an app that gets no lifespan events
        if close is not None:
            await close()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(READY_WITHIN)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _nobody(scope: Scope, status: int, sent: int) -> None:
    """Whom nobody has to be told of."""


class Reply(NamedTuple):
    """A response as it came over the wire."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def value(self, name: bytes) -> bytes:
        (value,) = self.values(name)
        return value


class RawClient:
    """One connection to a server, over which any bytes can be said."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self, method: bytes = b"GET") -> Reply:
        """The next response; `whole` is False when the connection ended in the middle of it."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"x")]))
        reader.send(h11.EndOfMessage())
        head: h11.Response | None = None
        body = b""
        while True:
            try:
                event = reader.next_event()
            except h11.RemoteProtocolError:
                break
            if event is h11.NEED_DATA:
                data = self._read()
                if not data and head is None:
                    raise EOFError("the server closed without a response")
                reader.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return Reply(head.status_code, list(head.headers), body, True)
        assert head is not None
        return Reply(head.status_code, list(head.headers), body, False)

    def _read(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""

    def ask(self, data: bytes) -> Reply:
        """Say it, and hear the answer."""
        self.say(data)
        return self.hear(data.split(b" ", 1)[0])


def ask(port: int, data: bytes) -> Reply:
    """One request over a connection of its own."""
    with RawClient(port) as client:
        return client.ask(data)
