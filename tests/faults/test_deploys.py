"""Servers replaced under load, one by one and all at once: nothing is lost. The long versions are in tests/soak."""

from __future__ import annotations

import ssl
from collections import deque

import pytest

from lbclient import AsyncBalancedTransport, Connect, HttpProbe
from tests.conftest import StartServer
from tests.faults.deploys import Ledger, customers, flip, roll, several, spares, starter
from tests.faults.load import until
from tests.servers import CertFiles


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
async def test_replacing_servers_one_by_one_and_all_at_once_loses_nothing(
    start_server: StartServer,
    server_cert_files: CertFiles,
    client_ssl_context: ssl.SSLContext,
    http2: bool,
) -> None:
    ledger = Ledger()
    async with spares(starter(start_server, server_cert_files, http2), 5) as spare:
        fleet = deque(await several(spare, 2))
        transport = AsyncBalancedTransport(
            [server.url for server in fleet],
            probe=HttpProbe("/health", interval=5),
            connect=Connect(verify=client_ssl_context, http2=http2),
        )
        async with customers(transport, ledger, 15, longest=0.3):
            await roll(transport, fleet, spare, 1)
            await flip(transport, fleet, spare, 1)
            newest = fleet[-1].name
            await until(lambda: ledger.answered[newest] > 10)
    assert not ledger.lost
    assert ledger.protocols == {"HTTP/2" if http2 else "HTTP/1.1"}
