"""10,000 requests cancelled at random, over HTTP/1.1, TLS and HTTP/2, on asyncio, uvloop and trio."""

from __future__ import annotations

import ssl
from typing import Any

import anyio
import pytest

from lbclient import AsyncBalancedTransport, Connect
from tests.conftest import StartServer
from tests.faults.cancelling import cancel_at_random
from tests.servers import CertFiles

REQUESTS = 10_000
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # httpx's generators, on trio
]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("over", ["http1", "tls", "http2"])
def test_ten_thousand_cancelled_requests_leave_nothing_behind(
    start_server: StartServer, server_cert_files: CertFiles, ca: Any, over: str, loop: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    if over == "http2":
        server = start_server("hypercorn", tls=server_cert_files, http2=True)
    else:
        server = start_server("uvicorn", tls=server_cert_files if over == "tls" else None)
    connect = Connect(max_connections=8, verify=context, http2=over == "http2")

    async def run() -> int:
        transport = AsyncBalancedTransport([server.url], connect=connect)
        return await cancel_at_random(transport, REQUESTS, server_may_close=over == "http2")

    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    assert anyio.run(run, backend=backend, backend_options=options) > REQUESTS / 100
