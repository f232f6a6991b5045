"""Which bodies go to the next backend after a reset, whole, and which do not go at all: never one that has shrunk."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Retry
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import Handler, free_port
from tests.servers.raw import after_bytes, reset, reset_before_headers

CONTENT = os.urandom(200_000)
RESETS = {"before any answer": reset_before_headers, "in its middle": after_bytes(50_000, reset)}
LOST = (httpx.ReadError, httpx.RemoteProtocolError)

# httpx's generator over a body that was cut short is left to the garbage collector, which trio tells of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def client(urls: list[str], **retry: Any) -> httpx.AsyncClient:
    transport = AsyncBalancedTransport(urls, algorithm="first", retry=Retry(**retry))
    return httpx.AsyncClient(transport=transport, base_url="http://fleet")


async def parts() -> AsyncIterator[bytes]:
    for start in range(0, len(CONTENT), 10_000):
        yield CONTENT[start : start + 10_000]


class Pipe(io.RawIOBase):
    """A file that cannot be read twice."""

    def __init__(self) -> None:
        self._left = io.BytesIO(CONTENT)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._left.readinto(buffer)


def assert_whole(response: httpx.Response, content: bytes = CONTENT) -> None:
    echo = response.json()
    assert (echo["length"], echo["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture(params=RESETS)
def resetting(request: pytest.FixtureRequest) -> Handler:
    return RESETS[request.param]


async def test_bytes_go_to_the_next_backend(
    raw_server: MakeRawServer, servers: SharedServers, resetting: Handler
) -> None:
    bad, (good,) = raw_server(resetting), servers(count=1)
    async with client([bad.url, good.url]) as http:
        response = await http.put("/echo", content=CONTENT)
    assert_whole(response)
    assert len(response.extensions["lbclient"].attempts) == 2
    assert (bad.accepted, good.count()) == (1, 1)


@pytest.mark.parametrize("kind", ["bytes", "BytesIO", "file"])
async def test_a_form_goes_to_the_next_backend(
    raw_server: MakeRawServer, servers: SharedServers, resetting: Handler, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    bad, (good,) = raw_server(resetting), servers(count=1)
    with (tmp_path / "f").open("rb") as opened:
        files: dict[str, Any] = {"bytes": CONTENT, "BytesIO": io.BytesIO(CONTENT), "file": opened}
        async with client([bad.url, good.url]) as http:
            request = http.build_request("PUT", "/echo", files={"f": files[kind]}, data={"a": "1"})
            response = await http.send(request)
    assert response.json()["length"] == int(request.headers["content-length"]) > len(CONTENT)


async def file_content(path: Path) -> dict[str, Any]:
    return {"content": await anyio.open_file(path, "rb"), "headers": {"content-length": str(len(CONTENT))}}


async def generator(path: Path) -> dict[str, Any]:
    return {"content": parts()}


async def pipe_in_a_form(path: Path) -> dict[str, Any]:
    return {"files": {"f": Pipe()}}


ONCE = {"generator": generator, "file": file_content, "pipe in a form": pipe_in_a_form}
Once = Callable[[Path], Any]


@pytest.fixture(params=ONCE)
def once(request: pytest.FixtureRequest) -> Once:
    return ONCE[request.param]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "content").write_bytes(CONTENT)
    return tmp_path / "content"


async def test_what_can_be_read_once_is_not_sent_again_once_it_was_read(
    raw_server: MakeRawServer, servers: SharedServers, resetting: Handler, once: Once, path: Path
) -> None:
    bad, (good,) = raw_server(resetting), servers(count=1)
    async with client([bad.url, good.url]) as http:
        with pytest.raises(LOST) as caught:
            await http.put("/echo", **await once(path))
    assert len(caught.value.lbclient.attempts) == 1  # type: ignore[attr-defined]
    assert good.count() == 0, "neither whole nor empty"


async def test_what_can_be_read_once_goes_elsewhere_while_nothing_was_read(
    servers: SharedServers, once: Once, path: Path
) -> None:
    (good,) = servers(count=1)
    async with client([f"http://127.0.0.1:{free_port()}", good.url]) as http:
        response = await http.post("/echo", **await once(path))
    assert len(response.extensions["lbclient"].attempts) == 2
    assert response.json()["length"] >= len(CONTENT)


@pytest.mark.parametrize("kind", ["generator", "file"])
async def test_what_was_kept_of_it_is_sent_again(
    raw_server: MakeRawServer, servers: SharedServers, resetting: Handler, kind: str, path: Path
) -> None:
    bad, (good,) = raw_server(resetting), servers(count=1)
    async with client([bad.url, good.url], max_buffer=len(CONTENT)) as http:
        assert_whole(await http.put("/echo", **await ONCE[kind](path)))


async def test_a_body_larger_than_what_is_kept_is_not_sent_again(
    raw_server: MakeRawServer, servers: SharedServers
) -> None:
    bad, (good,) = raw_server(reset_before_headers), servers(count=1)
    async with client([bad.url, good.url], max_buffer=len(CONTENT) - 1) as http:
        with pytest.raises(LOST):
            await http.put("/echo", content=parts())
    assert good.count() == 0


async def test_the_rest_of_a_body_is_read_on_from_where_it_broke(
    raw_server: MakeRawServer, servers: SharedServers
) -> None:
    """The first backend resets before the generator has come to its end: nothing of it is missing at the second."""
    bad, (good,) = raw_server(after_bytes(100, reset)), servers(count=1)

    async def slow() -> AsyncIterator[bytes]:
        async for part in parts():
            await anyio.sleep(0.005)
            yield part

    async with client([bad.url, good.url], max_buffer=len(CONTENT)) as http:
        assert_whole(await http.put("/echo", content=slow()))
