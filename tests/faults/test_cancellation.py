"""Cancellation at any moment leaves nothing in flight, no connection and no descriptor behind."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect
from tests.conftest import MakeRawServer, SharedServers, StartServer
from tests.faults.cancelling import cancel_at_random
from tests.servers import CertFiles, Connection

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # httpx's generators, on trio


async def test_requests_cancelled_at_random_leave_nothing_behind(servers: SharedServers) -> None:
    fleet = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([server.url for server in fleet], connect=Connect(max_connections=4))
    assert await cancel_at_random(transport, 600) > 50


async def test_over_tls(servers: SharedServers, client_ssl_context: ssl.SSLContext) -> None:
    (server,) = servers("uvicorn", 1, tls=True)
    transport = AsyncBalancedTransport(
        [server.url], connect=Connect(max_connections=4, verify=client_ssl_context)
    )
    assert await cancel_at_random(transport, 300) > 20


async def test_over_http2(start_server: StartServer, server_cert_files: CertFiles, ca: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    server = start_server("hypercorn", tls=server_cert_files, http2=True)
    transport = AsyncBalancedTransport([server.url], connect=Connect(http2=True, verify=context))
    assert await cancel_at_random(transport, 300) > 20


async def test_cancelled_at_every_step_of_a_request_nothing_is_left(raw_server: MakeRawServer) -> None:
    """Step by step: the k-th time that the request gives way to the event loop, it is cancelled."""

    def server_(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    server = raw_server(server_)
    transport = AsyncBalancedTransport([server.url], connect=Connect(max_connections=1))
    http = httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=5)
    finished = steps = 0
    while finished < 3:
        steps += 1
        done = anyio.Event()

        async def ask(done: anyio.Event) -> None:
            nonlocal finished
            try:
                await http.get("/")
                finished += 1
            finally:
                done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(ask, done)
            for _ in range(steps):
                if done.is_set():
                    break
                await _step()
            group.cancel_scope.cancel()
        assert transport.pools["default"].status().backends[0].in_flight == 0
        opened, idle = transport.connections()[server.url]
        assert opened == idle <= 1
    assert (await http.get("/")).text == "ok"
    await http.aclose()


async def _step() -> None:
    """Let the event loop go round once; when nothing is ready, wait a little for the server."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await anyio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)
    await anyio.sleep(0.0005)
