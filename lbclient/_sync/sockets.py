"""The network for blocking code: httpcore's interface over sockets that another thread may close.

Closing a socket does not wake the thread that reads from it, and its number may soon be that of another file. So who
closes a socket that is in use shuts it down, which wakes everybody, and who leaves it last closes it.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import httpcore

from lbclient._sync.blocking import block
from lbclient.core.connect import SocketOption

_T = TypeVar("_T")

RAW_FAILURES: Final = (ssl.SSLError,)
"""What writing raises besides httpcore's exceptions."""


def network() -> Network:
    """What connects."""
    return Network()


def drop(stream: httpcore.NetworkStream) -> None:
    """Close the socket at once, for this process only: no shutdown, which a parent would feel, and no lock."""
    sock = stream.get_extra_info("socket")
    sock.close()


def lock() -> threading.Lock:
    """What HTTP/2 connections take turns with."""
    return threading.Lock()


def holds_bytes(stream: httpcore.NetworkStream) -> bool:
    """Whether bytes wait between the socket and the reader, where the kernel cannot tell of them."""
    sock = stream.get_extra_info("socket")
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


class Network:
    """See `httpcore.NetworkBackend`; the timeout of a connect is that of all addresses together."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        """See `httpcore.NetworkBackend`."""
        stream = Stream()

        def connect(left: float | None) -> None:
            deadline = None if left is None else time.monotonic() + left
            failure: OSError | None = None
            for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no connection within {timeout} s") from failure
                sock = socket.socket(family, kind, protocol)
                try:
                    if local_address is not None:
                        sock.bind((local_address, 0))
                    for option in socket_options or ():
                        sock.setsockopt(*option)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    stream.hold(sock)
                    sock.settimeout(left)
                    sock.connect(address)
                    return
                except TimeoutError:
                    sock.close()
                    raise
                except OSError as exc:
                    sock.close()
                    failure = exc
                except BaseException:
                    sock.close()
                    raise
            raise failure or OSError(f"{host} has no address")

        with _connecting():
            stream.use(connect, timeout)
        return stream

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SocketOption] | None = None
    ) -> httpcore.NetworkStream:
        """See `httpcore.NetworkBackend`."""
        stream = Stream()

        def connect(left: float | None) -> None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                for option in socket_options or ():
                    sock.setsockopt(*option)
                stream.hold(sock)
                sock.settimeout(left)
                sock.connect(path)
            except BaseException:
                sock.close()
                raise

        with _connecting():
            stream.use(connect, timeout)
        return stream


class Stream(httpcore.NetworkStream):
    """A socket in use by one thread, which any other may close."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False
        self._timeout: float | None = -1.0

    def hold(self, sock: socket.socket) -> None:
        """Use this one from now on."""
        with self._lock:
            if self._closed:
                raise OSError("the connection was closed while it was made")
            self._sock = sock

    def use(self, call: Callable[[float | None], _T], timeout: float | None) -> _T:
        """Have `call` block on the socket; see `block`.

        Raises:
            OSError: It was closed before.
        """
        with self._lock:
            if self._closed:
                raise OSError("the connection was closed")
            self._users += 1
        try:
            return block(call, timeout, self.interrupt)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            self._close_unless_in_use()

    def _close_unless_in_use(self) -> None:
        if self._closed and not self._users and self._sock is not None:
            self._sock.close()

    def interrupt(self) -> None:
        """Wake whoever uses it: nothing more will come, and nothing can be sent. From any thread."""
        with self._lock:
            self._shut_down()

    def _shut_down(self) -> None:
        if self._users and self._sock is not None:
            with suppress(OSError):  # it was not connected yet
                # Not SSLSocket's own, which forgets its TLS: what came next would be taken for plain text.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """See `httpcore.NetworkStream`. From any thread."""
        with self._lock:
            self._closed = True  # first: who is woken finds out why
            self._shut_down()
            self._close_unless_in_use()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See `httpcore.NetworkStream`."""
        try:
            data = self.use(lambda left: self._ready(left).recv(max_bytes), timeout)
            if not data and self._closed:
                raise OSError("the connection was closed by us")
            return data
        except TimeoutError as exc:
            raise httpcore.ReadTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See `httpcore.NetworkStream`."""
        rest = memoryview(buffer)
        try:
            while rest:
                rest = rest[self._send(rest, timeout) :]
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    def _send(self, data: memoryview, timeout: float | None) -> int:
        return self.use(lambda left: self._ready(left).send(data), timeout)

    def _ready(self, timeout: float | None) -> socket.socket:
        sock = self._sock
        assert sock is not None
        if timeout != self._timeout:  # each setting is a system call
            sock.settimeout(timeout)
            self._timeout = timeout
        return sock

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """See `httpcore.NetworkStream`.

        Raises:
            RuntimeError: There is TLS already.
        """
        sock = self._sock
        assert sock is not None
        if isinstance(sock, ssl.SSLSocket):
            raise RuntimeError("TLS inside TLS is for the async transport; the sync one cannot do it")
        secure = Stream()
        with _connecting():
            wrapped = ssl_context.wrap_socket(
                sock, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            try:
                secure.hold(wrapped)
                self._sock = wrapped  # whoever closes this stream closes the socket

                def shake_hands(left: float | None) -> None:
                    wrapped.settimeout(left)
                    wrapped.do_handshake()

                secure.use(shake_hands, timeout)
            except BaseException:
                wrapped.close()
                raise
        return secure

    def get_extra_info(self, info: str) -> Any:
        """See `httpcore.NetworkStream`."""
        sock = self._sock
        assert sock is not None
        if info == "socket":
            return sock
        if info == "ssl_object":
            return sock if isinstance(sock, ssl.SSLSocket) else None
        if info == "client_addr":
            return sock.getsockname()
        if info == "server_addr":
            return sock.getpeername()
        if info == "is_readable":
            return holds_bytes(self) or _is_readable(sock)
        return None


def _is_readable(sock: socket.socket) -> bool:
    number = sock.fileno()
    if number < 0:
        return True  # closed: who reads finds out at once
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _connecting() -> Generator[None, None, None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpcore.ConnectTimeout(str(exc)) from exc
    except OSError as exc:
        raise httpcore.ConnectError(str(exc)) from exc
