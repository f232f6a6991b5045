"""A request that is given up, at whatever await it happens to be, leaves nothing behind; over every kind of wire."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect
from tests.conftest import StartServer
from tests.faults.every_await import CancelledAt, balance, descriptors, opened, until
from tests.servers import CertFiles

if TYPE_CHECKING:
    import trustme

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"),
    # What breaks off leaves generators of httpx's unfinished, and trio tells.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]

WIRES = ["h1", "h1 in TLS", "h1 by httpcore", "h2", "h2 in TLS"]
MAX_CONNECTIONS = 4


@pytest.fixture(params=WIRES)
def wire(
    request: pytest.FixtureRequest, start_server: StartServer, server_cert_files: CertFiles, ca: trustme.CA
) -> tuple[str, Connect]:
    """A server, and how to talk to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    http2, tls = "h2" in request.param, "TLS" in request.param
    server = start_server("hypercorn" if http2 else "uvicorn", tls=server_cert_files if tls else None)
    connect = Connect(
        engine="httpcore" if "httpcore" in request.param else "auto",
        http1=not http2,
        http2=http2,
        verify=context if tls else True,
        max_connections=MAX_CONNECTIONS,
    )
    return server.url, connect


async def get(http: httpx.AsyncClient) -> None:
    await http.get("/whoami")


async def post(http: httpx.AsyncClient) -> None:
    await http.post("/echo", content=b"x" * 50_000)


async def stream(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/stream?chunks=3&size=1000") as response:
        async for _ in response.aiter_raw():
            pass


async def stream_in_part(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/stream?chunks=3&size=1000&delay=0.001") as response:
        async for _ in response.aiter_raw():
            break


@pytest.mark.parametrize("warm", [False, True], ids=["fresh connection", "reused connection"])
@pytest.mark.parametrize("what", [get, post, stream, stream_in_part])
async def test_cancelled_at_every_await_in_turn(
    wire: tuple[str, Connect],
    what: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]],
    warm: bool,
) -> None:
    url, connect = wire
    context = connect.verify
    async with httpx.AsyncClient(transport=AsyncBalancedTransport([url], connect=connect)) as first:
        await first.get("http://orders/whoami")  # whatever is made once in a process
    before = descriptors()
    k = 0
    cancelled = True
    while cancelled:
        k += 1
        assert k < 500
        transport = AsyncBalancedTransport([url], connect=connect, passive=None)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            if warm:
                await get(http)
            with anyio.CancelScope() as scope:
                await CancelledAt(what(http), scope, k)
            cancelled = scope.cancelled_caught
            assert balance(transport) == dict.fromkeys(balance(transport), 0), k
            await until(lambda transport=transport: descriptors() == before + opened(transport))  # type: ignore[misc]
            await get(http)
            assert balance(transport) == dict.fromkeys(balance(transport), 0), k
        await until(lambda: descriptors() == before)
    assert k > 1
    assert connect.verify is context


async def test_cancelled_at_every_await_while_another_one_waits_for_the_connection(
    start_server: StartServer,
) -> None:
    """Whatever becomes of the one that has the connection, the next in line is served."""
    server = start_server("uvicorn")
    k = 0
    cancelled = True
    while cancelled:
        k += 1
        assert k < 500
        transport = AsyncBalancedTransport([server.url], connect=Connect(max_connections=1))
        served: list[int] = []

        async def wait_in_line(http: httpx.AsyncClient, served: list[int]) -> None:
            served.append((await http.get("/whoami")).status_code)

        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    group.start_soon(wait_in_line, http, served)
                    group.start_soon(wait_in_line, http, served)
                    await CancelledAt(stream_in_part(http), scope, k)
                cancelled = scope.cancelled_caught
            assert served == [200, 200]
            assert balance(transport) == dict.fromkeys(balance(transport), 0), k
    assert k > 1
