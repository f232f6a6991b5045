"""Servers and clients of plain TCP and UDP for the tests of layer 4: threads, and the standard library only."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.servers.raw import Connection, Handler, RawServer

PATIENCE = 20.0


def tcp(server: RawServer) -> str:
    """The URL of a raw server as a backend of layer 4."""
    return f"tcp://{server.host}:{server.port}"


def named(name: bytes) -> Handler:
    """Says its name, then sends back what it gets, until the client says that it is done."""

    def handler(connection: Connection) -> None:
        connection.send(name + b"\n")
        while data := connection.read():
            connection.send(data)

    return handler


def echo(connection: Connection) -> None:
    """Sends back what it gets, until the client says that it is done."""
    while data := connection.read():
        connection.send(data)


def digest_at_the_end(connection: Connection) -> None:
    """Reads until the client says that it is done, and only then answers: with what it got, hashed."""
    hashed = hashlib.sha256()
    while data := connection.read(1 << 20):
        hashed.update(data)
        connection.received.clear()
    connection.send(hashed.hexdigest().encode())


def dial(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A client's connection."""
    return socket.create_connection((host, port), timeout=PATIENCE)


def read_all(client: socket.socket) -> bytes:
    """Everything, to the end of the stream."""
    parts: list[bytes] = []
    while part := client.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def read_line(client: socket.socket) -> bytes:
    """One line, without its end; what there was if the stream ended before."""
    line = bytearray()
    while (byte := client.recv(1)) and byte != b"\n":
        line += byte
    return bytes(line)


def whose(port: int) -> bytes:
    """The name of the server that a new connection reaches."""
    with dial(port) as client:
        return read_line(client)


class UDPServer:
    """Answers each datagram with what `answer` makes of it; None is no answer."""

    def __init__(self, answer: Callable[[bytes], bytes | None], port: int = 0) -> None:
        self._answer = answer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.seen: list[tuple[bytes, tuple[str, int]]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"udp://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                data, source = self._socket.recvfrom(65535)
            except OSError:
                return
            if data == b"\0stop" and source[1] == self.port:
                return
            self.seen.append((data, source))
            answer = self._answer(data)
            if answer is not None:
                with suppress(OSError):
                    self._socket.sendto(answer, source)

    def stop(self) -> None:
        with suppress(OSError):
            self._socket.sendto(b"\0stop", ("127.0.0.1", self.port))  # wakes recvfrom()
        self._thread.join(PATIENCE)
        self._socket.close()


@contextmanager
def udp_servers(*answers: Callable[[bytes], bytes | None]) -> Iterator[list[UDPServer]]:
    """So many servers, until the block ends."""
    servers = [UDPServer(answer) for answer in answers]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


def naming(name: bytes) -> Callable[[bytes], bytes]:
    """An answer that begins with the server's name."""
    return lambda data: name + b":" + data


@contextmanager
def udp_client(port: int) -> Iterator[socket.socket]:
    """A client of one server, with a source address of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        yield client


def client_hello(
    server_name: str | None = "a.lbclient.test", alpn: tuple[str, ...] = (), **versions: ssl.TLSVersion
) -> bytes:
    """What OpenSSL says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for attribute, version in versions.items():
        setattr(context, attribute, version)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()
