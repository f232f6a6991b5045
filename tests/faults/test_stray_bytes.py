"""Bytes behind a complete response never answer another request, whatever ended it, whenever they come."""

from __future__ import annotations

import ssl
import time

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect
from lbclient.core.connect import Engine
from tests.conftest import MakeRawServer
from tests.servers import Connection, Handler

STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
COMPLETE = {
    "a length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "chunks": ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 63\r\n\r\n"),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 63\r\n\r\n"),
}
"""Responses, each with what says where it ends."""


def with_stray_bytes(answer: bytes, when: str) -> Handler:
    def handler(connection: Connection) -> None:
        while connection.read_request() is not None:
            if when == "with it":
                connection.send(answer + STRAY)
            else:
                connection.send(answer)
                if when != "right behind it":
                    connection.server.closing.wait(0.03)
                connection.send(STRAY)

    return handler


@pytest.mark.parametrize("when", ["with it", "right behind it", "later", "while the loop is blocked"])
@pytest.mark.parametrize("over", ["plain", "TLS"])
@pytest.mark.parametrize(
    ("anyio_backend", "engine"),
    [
        pytest.param("asyncio", "native", id="native"),
        pytest.param(("asyncio", {"use_uvloop": True}), "native", id="native on uvloop"),
        pytest.param("asyncio", "httpcore", id="httpcore"),
        pytest.param(("asyncio", {"use_uvloop": True}), "httpcore", id="httpcore on uvloop"),
        pytest.param("trio", "native", id="native on trio"),
        pytest.param("trio", "httpcore", id="httpcore on trio"),
    ],
)
async def test_bytes_behind_a_complete_response_never_answer_another_request(
    raw_server: MakeRawServer,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    over: str,
    engine: Engine,
    when: str,
) -> None:
    tls = server_ssl_context if over == "TLS" else None
    fleet = {
        name: raw_server(with_stray_bytes(answer, when), tls=tls) for name, (_, answer) in COMPLETE.items()
    }
    connect = Connect(verify=client_ssl_context, engine=engine)
    clients = {
        name: httpx.AsyncClient(
            transport=AsyncBalancedTransport([server.url], connect=connect), base_url="http://localhost"
        )
        for name, server in fleet.items()
    }

    async def ask_all() -> None:
        for name, http in clients.items():
            response = await http.request(COMPLETE[name][0], "/")
            assert response.text in ("ok", ""), name
            assert "poison" not in response.text
            assert str(response.status_code) == (name if name.isdigit() else "200")

    try:
        await ask_all()
        if when == "while the loop is blocked":
            time.sleep(0.1)
        elif when != "with it":
            await anyio.sleep(0.1)
        await ask_all()
    finally:
        for http in clients.values():
            await http.aclose()
    assert {name: server.accepted for name, server in fleet.items()} == dict.fromkeys(fleet, 2)
