"""A raw TCP server in threads, for what no well-behaved server does: resets, silence, stray bytes.

Threads and the standard library only, so that it serves tests on asyncio and on trio alike, and keeps
misbehaving while the test's event loop is busy. A *handler* is called with each accepted connection in a
thread of its own; when it returns, the connection is closed with a FIN. Handlers for the usual mischief are
functions below:

    with RawServer([reset_on_accept, respond(body=b"ok")]) as server:    # the first connection, all others
        httpx.get(server.url)
"""

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from tests.servers.ports import free_port

Handler = Callable[["Connection"], None]

CLOSED_WITHIN = 5.0


class Connection:
    """One accepted connection, as its handler sees it."""

    def __init__(self, server: "RawServer", sock: socket.socket, index: int) -> None:
        self.server = server
        self.socket = sock
        self.index = index
        """0 for the first connection this server accepted."""
        self.received = bytearray()
        """Every byte read so far."""
        self.requests: list[bytes] = []
        """Every request `read_request` read, head and body as they came."""
        self.closed = threading.Event()
        self._unread = bytearray()

    def __repr__(self) -> str:
        state = "closed" if self.closed.is_set() else "open"
        return f"<Connection {self.index} {state}, {len(self.received)} bytes, {len(self.requests)} requests>"

    def read(self, size: int = 65536) -> bytes:
        """What has come, waiting for at least one byte; b"" when the client has closed."""
        if self._unread:
            data = bytes(self._unread[:size])
            del self._unread[:size]
            return data
        data = self.socket.recv(size)
        self.received += data
        return data

    def read_request(self) -> bytes | None:
        """One request with its body (Content-Length or chunked); None when the client closed instead."""
        buffer = bytearray()
        if not self._fill(buffer, lambda: b"\r\n\r\n" in buffer):
            return None
        end = buffer.index(b"\r\n\r\n") + 4
        head = bytes(buffer[:end]).lower()
        if b"\r\ntransfer-encoding: chunked" in head:
            if not self._fill(buffer, lambda: buffer.find(b"0\r\n\r\n", end) >= 0):
                return None
            end = buffer.index(b"0\r\n\r\n", end) + 5
        elif b"\r\ncontent-length:" in head:
            end += int(head.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
            if not self._fill(buffer, lambda: len(buffer) >= end):
                return None
        self._unread[:0] = buffer[end:]
        request = bytes(buffer[:end])
        self.requests.append(request)
        return request

    def _fill(self, buffer: bytearray, complete: Callable[[], bool]) -> bool:
        while not complete():
            data = self.read()
            if not data:
                return False
            buffer += data
        return True

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def respond(
        self,
        status: int = 200,
        body: bytes = b"ok",
        headers: Sequence[tuple[str, str]] = (),
        *,
        length: bool = True,
    ) -> None:
        """Send a whole response; `length=False` leaves Content-Length out, so that only a FIN ends it."""
        lines = [f"HTTP/1.1 {status} Test", *(f"{name}: {value}" for name, value in headers)]
        if length:
            lines.append(f"content-length: {len(body)}")
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def fin(self) -> None:
        """Close in the ordinary way. Unread bytes are read first, or the kernel would send a RST instead."""
        with contextlib.suppress(OSError):
            self.socket.settimeout(0.0)
            while self.socket.recv(65536):
                pass
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._close()

    def reset(self) -> None:
        """Close with a RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def wait_until_readable(self) -> None:
        """Until something has come or the client has closed; nothing is read."""
        self.socket.recv(1, socket.MSG_PEEK)

    def stall(self, seconds: float | None = None) -> None:
        """Neither read nor send, for some time or until the server is closed."""
        self.server.closing.wait(seconds)

    def wait_for_client_close(self, seconds: float = CLOSED_WITHIN) -> bool:
        """Read and forget until the client closes; False when it has not within `seconds`."""
        self.socket.settimeout(seconds)
        try:
            while self.read():
                pass
        except TimeoutError:
            return False
        except OSError:  # a RST is a close too
            pass
        return True

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()
        self.closed.set()


class RawServer:
    """Listens on a loopback port and hands every connection to a handler.

    Args:
        script: a handler for every connection, or a sequence: one for each connection in turn, the last one
            for all that follow. `respond()` when left out.
        port: 0 takes a free one.
        tls: speak TLS with this context; a failed handshake is recorded in `errors`.
        accept: False leaves connections in the kernel's backlog: the client is connected, nobody answers.
        backlog: see listen(2).
    """

    def __init__(
        self,
        script: Handler | Sequence[Handler] | None = None,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        accept: bool = True,
        backlog: int = 128,
        host: str = "127.0.0.1",
    ) -> None:
        if script is None:
            script = respond()
        self.script: list[Handler] = [script] if callable(script) else list(script)
        self.host = host
        self.port = port or free_port(host)
        self.closing = threading.Event()
        self.connections: list[Connection] = []
        """Every accepted connection, in order."""
        self.errors: list[BaseException] = []
        """What handlers raised because the client went away, and failed handshakes."""
        self._bugs: list[BaseException] = []
        self._tls = tls
        self._accept = accept
        self._backlog = backlog
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self.start()

    def __repr__(self) -> str:
        state = "up" if self._listener else "down"
        return f"<RawServer {self.host}:{self.port} {state}, {self.accepted} accepted, {self.open} open>"

    @property
    def url(self) -> str:
        """The origin; with TLS its host is `localhost`."""
        return f"https://localhost:{self.port}" if self._tls else f"http://{self.host}:{self.port}"

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far."""
        return len(self.connections)

    @property
    def open(self) -> int:
        """How many of them this side still holds open."""
        return sum(not connection.closed.is_set() for connection in self.connections)

    @property
    def requests(self) -> list[bytes]:
        """Every request of every connection, connection by connection."""
        return [request for connection in self.connections for request in connection.requests]

    @property
    def received(self) -> bytes:
        """Every byte of every connection, connection by connection."""
        return b"".join(bytes(connection.received) for connection in self.connections)

    def start(self) -> None:
        """Listen; again on the same port after `stop()`."""
        if self._listener is not None:
            raise RuntimeError(f"{self!r} is already listening")
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
            listener.listen(self._backlog)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self.closing.clear()
        if self._accept:
            self._acceptor = threading.Thread(target=self._accept_all, args=(listener,), daemon=True)
            self._acceptor.start()

    def stop(self) -> None:
        """Refuse new connections, reset the open ones, end all threads. Raises what a handler got wrong."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self.closing.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        if self._acceptor is not None:
            self._acceptor.join(CLOSED_WITHIN)
            self._acceptor = None
        listener.close()
        for connection in self.connections:
            if not connection.closed.is_set():
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection.socket, socket.SHUT_RD)  # wakes recv()
        for thread in self._threads:
            thread.join(CLOSED_WITHIN)
        for connection in self.connections:
            if not connection.closed.is_set():
                connection.reset()
        self._threads.clear()
        if self._bugs:
            bugs, self._bugs = self._bugs, []
            raise bugs[0]

    close = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def wait_until(self, condition: Callable[["RawServer"], bool], within: float = CLOSED_WITHIN) -> bool:
        """Poll until `condition(server)` holds; False when it does not in time. Blocks the calling thread."""
        deadline = time.monotonic() + within
        while not condition(self):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def _accept_all(self, listener: socket.socket) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, sock, len(self.connections))
            handler = self.script[min(connection.index, len(self.script) - 1)]
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, handler), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection, handler: Handler) -> None:
        try:
            if self._tls is not None:
                connection.socket.settimeout(CLOSED_WITHIN)
                connection.socket = self._tls.wrap_socket(connection.socket, server_side=True)
                connection.socket.settimeout(None)
            handler(connection)
        except OSError as error:  # the client went away, or stop() closed the socket
            self.errors.append(error)
        except BaseException as error:  # noqa: BLE001  # a wrong handler must fail its test, in stop()
            self._bugs.append(error)
        finally:
            if not connection.closed.is_set():
                connection.fin()


# Handlers, and functions that make them


def respond(
    status: int = 200,
    body: bytes = b"ok",
    headers: Sequence[tuple[str, str]] = (),
    *,
    close: bool = False,
    delay: float = 0.0,
) -> Handler:
    """Answer every request of the connection; `close` ends it with a FIN after the first answer."""

    def handler(connection: Connection) -> None:
        while connection.read_request() is not None:
            if delay and connection.server.closing.wait(delay):
                return
            connection.respond(status, body, headers)
            if close:
                return

    return handler


def reply(*answers: bytes, then: Handler | None = None) -> Handler:
    """Send these raw bytes, one item for each request; then `then`, or a FIN."""

    def handler(connection: Connection) -> None:
        for answer in answers:
            if connection.read_request() is None:
                return
            connection.send(answer)
        if then is not None:
            then(connection)

    return handler


def greet(data: bytes, then: Handler | None = None) -> Handler:
    """Send these bytes before any request came; then `then`, or a FIN."""

    def handler(connection: Connection) -> None:
        connection.send(data)
        if then is not None:
            then(connection)

    return handler


def after_request(then: Handler) -> Handler:
    """Read one request, then go on with `then`: `after_request(reset)`, `after_request(fin)`."""

    def handler(connection: Connection) -> None:
        if connection.read_request() is not None:
            then(connection)

    return handler


def after_bytes(count: int, then: Handler) -> Handler:
    """Read at least so many bytes, then go on with `then`: a reset while the body is still being sent."""

    def handler(connection: Connection) -> None:
        while len(connection.received) < count:
            if not connection.read():
                return
        then(connection)

    return handler


def keep_then_close(requests: int = 1) -> Handler:
    """Answer so many requests, then close in the moment when the next one arrives, unread: the keep-alive race."""

    def handler(connection: Connection) -> None:
        for _ in range(requests):
            if connection.read_request() is None:
                return
            connection.respond()
        connection.wait_until_readable()
        connection.reset()  # what the kernel makes of a close with bytes unread

    return handler


def refuse_body(status: int = 413) -> Handler:
    """Read the head, answer that the body is too large, and close while it is still being sent."""

    def handler(connection: Connection) -> None:
        while b"\r\n\r\n" not in connection.received:
            if not connection.read():
                return
        connection.respond(status, headers=[("connection", "close")])
        connection.reset()

    return handler


def after(seconds: float, then: Handler) -> Handler:
    """Wait without reading, then go on with `then`."""

    def handler(connection: Connection) -> None:
        if not connection.server.closing.wait(seconds):
            then(connection)

    return handler


def reset(connection: Connection) -> None:
    """RST at once."""
    connection.reset()


def fin(connection: Connection) -> None:
    """FIN at once."""
    connection.fin()


def stall(connection: Connection) -> None:
    """Neither read nor answer, until the server stops. Use `after_request(stall)` to read first."""
    connection.stall()


def read_forever(connection: Connection) -> None:
    """Read everything, answer nothing, until the client closes."""
    while connection.read():
        pass


def no_tls_any_more(connection: Connection) -> None:
    """Read a request inside TLS, and answer with bytes that are none."""
    if connection.read_request() is not None:
        with socket.socket(fileno=os.dup(connection.socket.fileno())) as below:
            below.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        connection.wait_for_client_close()


reset_on_accept = reset
fin_on_accept = fin
reset_before_headers = after_request(reset)
fin_before_headers = after_request(fin)
reset_within_headers = reply(
    b"HTTP/1.1 200 OK\r\ncontent-le", then=lambda connection: _pause_then(reset)(connection)
)
fin_within_headers = reply(b"HTTP/1.1 200 OK\r\ncontent-le")
no_http = reply(b"\x15\x03\x01 this is no HTTP\r\n\r\n")
fin_without_length = reply(b"HTTP/1.1 200 OK\r\n\r\nhalf ")
never_answer = after_request(read_forever)
_HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf "


def _pause_then(then: Handler) -> Handler:
    return after(0.05, then)  # a RST overtakes bytes the client has not read: let them arrive


reset_mid_body = reply(_HALF, then=_pause_then(reset))
fin_mid_body = reply(_HALF, then=_pause_then(fin))


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose backlog is full: SYNs are dropped, so connecting times out instead of being refused."""
    fillers: list[socket.socket] = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        try:
            for _ in range(8):
                filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                fillers.append(filler)
                filler.settimeout(0.1)
                try:
                    filler.connect(("127.0.0.1", port))
                except TimeoutError:
                    break
            else:
                raise RuntimeError("this kernel keeps accepting connections beyond the backlog")
            yield port
        finally:
            for filler in fillers:
                filler.close()
