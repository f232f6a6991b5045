"""Fixtures of the ASGI tests."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from lbclient.asgi.types import App
from tests.asgi.hosting import Host
from tests.servers import Connection, Kind, RawServer, Server, start


class Serve(Protocol):
    """The type of the `serve` fixture; the options are uvicorn's."""

    def __call__(self, app: App, **options: Any) -> Host: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves ASGI apps until the test ends."""
    hosts: list[Host] = []

    def serve_one(app: App, **options: Any) -> Host:
        hosts.append(Host(app, **options))
        return hosts[-1]

    yield serve_one
    for host in hosts:
        host.stop()


PART = b"x" * 65536


def _send(connection: Connection, size: int) -> None:
    """So many bytes, as fast as they are taken."""
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    for sent in range(0, size, len(PART)):
        connection.send(PART[: size - sent])
        SENT[connection.index] = sent + len(PART)


SENT: dict[int, int] = {}
"""By connection of the raw server: how much of a long answer was taken."""


def _mirror(connection: Connection) -> None:
    """Answers with what it reads, while it reads it."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.read()
        if not data:
            return
        head += data
    head, _, part = head.partition(b"\r\n\r\n")
    left = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % left)
    while left:
        connection.send(part)
        left -= len(part)
        if left and not (part := connection.read()):
            return


def answer_or_not(connection: Connection) -> None:
    """A backend that breaks off in the middle of /raw/broken, is silent for /raw/silent, and answers all else."""
    while not connection.socket.recv(21, socket.MSG_PEEK).startswith(b"POST /raw/mirror") and (
        request := connection.read_request()
    ):
        if b"/raw/broken" in request:
            connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
            return
        if b"/raw/silent" in request:
            connection.wait_for_client_close(20)
            return
        if b"/raw/down/" in request:
            _send(connection, int(request.split(b"/raw/down/")[1].split(b" ")[0]))
            continue
        if b"/raw/trailers" in request:
            connection.send(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
                b"3\r\nabc\r\n0\r\nX-Sum: 294\r\nSet-Cookie: no\r\n\r\n"
            )
            continue
        if b"/raw/hints" in request:
            connection.send(
                b"HTTP/1.1 102 Processing\r\n\r\n"
                b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
            )
            time.sleep(0.05)  # most often they come by themselves
            connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: </b.js>\r\n\r\n")
        connection.respond()
    else:
        _mirror(connection)


class Hosted:
    """A proxy in a process of its own: to a shared server, and to a raw one below /raw."""

    def __init__(self, kind: Kind, backend: Server) -> None:
        self.backend = backend
        self.raw = RawServer(answer_or_not)
        self.server = start(
            kind, app="tests.asgi.apps:proxy", env={"BACKENDS": backend.url, "RAW": self.raw.url}
        )
        self.port, self.url = self.server.port, self.server.url

    def close(self) -> None:
        self.server.close()
        self.raw.stop()


@pytest.fixture(scope="session")
def hosted() -> Iterator[Callable[[Kind], Hosted]]:
    """The proxy under a kind of server, kept for the whole session."""
    backend: list[Server] = []
    running: dict[Kind, Hosted] = {}

    def one(kind: Kind) -> Hosted:
        if not backend:
            backend.append(start("uvicorn", name="behind"))
        if kind not in running:
            running[kind] = Hosted(kind, backend[0])
        return running[kind]

    yield one
    for host in running.values():
        host.close()
    for server in backend:
        server.close()
