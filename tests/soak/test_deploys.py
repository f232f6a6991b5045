"""100 servers replaced one by one, and 50 fleets at once, under 50 clients: not one request of 20,000 is lost."""

from __future__ import annotations

import ssl
import time
from collections import deque

import pytest

from lbclient import AsyncBalancedTransport, Connect, HttpProbe
from tests.conftest import StartServer
from tests.faults.deploys import Deploy, Ledger, customers, flip, roll, several, spares, starter
from tests.faults.load import until
from tests.servers import CertFiles

CLIENTS = 50
REQUESTS = 20_000
FLEET = 4
LONGEST = 2.0  # seconds that an answer streams


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
@pytest.mark.parametrize(("deploy", "times"), [(roll, 100), (flip, 50)], ids=["rolling", "blue-green"])
async def test_nothing_is_lost(
    start_server: StartServer,
    server_cert_files: CertFiles,
    client_ssl_context: ssl.SSLContext,
    deploy: Deploy,
    times: int,
    http2: bool,
) -> None:
    size = FLEET if deploy is roll else FLEET // 2  # a flip starts a whole fleet
    count = size + times * (1 if deploy is roll else size)
    ledger, began = Ledger(), time.monotonic()
    async with spares(starter(start_server, server_cert_files, http2), count) as spare:
        fleet = deque(await several(spare, size))
        transport = AsyncBalancedTransport(
            [server.url for server in fleet],
            probe=None if deploy is roll else HttpProbe("/health", interval=5),
            connect=Connect(verify=client_ssl_context, http2=http2),
        )
        async with customers(transport, ledger, CLIENTS, LONGEST):
            await deploy(transport, fleet, spare, times)
            await until(lambda: ledger.total >= REQUESTS, within=600)
    print(f"\n{times} deploys, {ledger}, {time.monotonic() - began:.0f} s")
    for words in ledger.lost:
        print(words)
    assert not ledger.lost
    assert len(ledger.answered) >= times
    assert ledger.protocols == {"HTTP/2" if http2 else "HTTP/1.1"}
