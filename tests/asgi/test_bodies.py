"""Long bodies: streamed through bounded memory, at the pace of the slower side."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from lbclient.asgi import ReverseProxy
from tests.asgi.conftest import PART, SENT, Hosted, Serve
from tests.asgi.hosting import RawClient
from tests.conftest import MakeRawServer
from tests.servers import Connection, Kind

MB = 1_000_000
SIZE = 200 * MB
MOST_GROWTH = 30 * MB
IN_BUFFERS = 40 * MB  # the kernel's, of two connections, and ours; loopback's may grow to 6 MB each way


class Memory:
    """What a process has in memory, and the most since one began to look."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        (self._process / "clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def growth(self) -> int:
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        status = (self._process / "status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) * 1024


def test_200_megabytes_down(hosted: Callable[[Kind], Hosted]) -> None:
    host = hosted("uvicorn")
    httpx.get(f"{host.url}/raw/down/{MB}")
    memory = Memory(host.server.pid)
    size = 0
    with httpx.stream("GET", f"{host.url}/raw/down/{SIZE}") as response:
        for part in response.iter_raw():
            size += len(part)
    assert size == SIZE
    assert memory.growth() < MOST_GROWTH


@pytest.mark.parametrize("chunked", [False, True])
def test_200_megabytes_up(hosted: Callable[[Kind], Hosted], chunked: bool) -> None:
    host = hosted("uvicorn")
    digest = hashlib.sha256()

    def parts(size: int) -> Iterator[bytes]:
        for start in range(0, size, len(PART)):
            part = PART[: size - start]
            digest.update(part)
            yield part

    httpx.post(f"{host.url}/echo", content=parts(MB))
    digest = hashlib.sha256()
    memory = Memory(host.server.pid)
    headers = {} if chunked else {"content-length": str(SIZE)}
    echoed = httpx.post(f"{host.url}/echo", content=parts(SIZE), headers=headers, timeout=60).json()
    assert (echoed["length"], echoed["sha256"]) == (SIZE, digest.hexdigest())
    assert memory.growth() < MOST_GROWTH


def test_200_megabytes_both_ways_at_once(hosted: Callable[[Kind], Hosted]) -> None:
    """Through a backend that answers as it reads, and reads no more than its answer is taken."""
    host = hosted("uvicorn")
    memory = Memory(host.server.pid)
    with RawClient(host.port) as client:

        def up() -> None:
            client.say(b"POST /raw/mirror HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % SIZE)
            for start in range(0, SIZE, len(PART)):
                client.say(PART[: SIZE - start])

        sending = threading.Thread(target=up, daemon=True)
        sending.start()
        got = 0
        while got < SIZE and (data := client.socket.recv(1_000_000)):
            got += len(data)
        sending.join()
    assert SIZE <= got < SIZE + 1000, "and the head"
    assert memory.growth() < MOST_GROWTH


def test_a_client_that_does_not_read_slows_the_backend(hosted: Callable[[Kind], Hosted]) -> None:
    host = hosted("uvicorn")
    SENT.clear()
    with RawClient(host.port) as client:
        client.say(b"GET /raw/down/%d HTTP/1.1\r\nhost: h\r\n\r\n" % (10 * SIZE))
        taken = settled(lambda: sum(SENT.values()))
        assert 0 < taken < IN_BUFFERS


def test_a_backend_that_does_not_read_slows_the_client(serve: Serve, raw_server: MakeRawServer) -> None:
    def stall(connection: Connection) -> None:
        connection.stall()

    host = serve(ReverseProxy([raw_server(stall).url]), http="httptools")
    sent = 0
    with RawClient(host.port, timeout=1.0) as client:
        client.say(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % (10 * SIZE))
        with suppress(TimeoutError):
            while sent < 2 * IN_BUFFERS:
                sent += client.socket.send(PART)
    assert sent < IN_BUFFERS


def settled(look: Callable[[], int]) -> int:
    """A number, once it has stayed the same for a while."""
    before = look()
    while True:
        time.sleep(0.7)
        if before and look() == before:
            return before
        before = look()
