"""A sidecar under load: 50 reloads, half of them with another certificate, and 20 processes one after the other."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
import trustme

from tests.conftest import SharedServers
from tests.sidecar.changing import reload_often, reload_several, roll

CLIENTS = 8


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.timeout(480)
async def test_fifty_reloads_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    began = time.monotonic()
    ledger = await reload_often(50, CLIENTS, servers("uvicorn", 4), ca, client_ssl_context, tmp_path)
    print(f"\n50 reloads, {ledger}, {time.monotonic() - began:.0f} s")
    assert ledger.lost == []
    assert len(ledger.answered) == 4


@pytest.mark.timeout(480)
async def test_forty_reloads_of_two_workers_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    began = time.monotonic()
    ledger = await reload_several(40, CLIENTS, servers("uvicorn"), ca, client_ssl_context, tmp_path)
    print(f"\n40 reloads of two workers, {ledger}, {time.monotonic() - began:.0f} s")
    assert ledger.lost == []


@pytest.mark.timeout(480)
async def test_ten_times_two_workers_one_after_the_other_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    began = time.monotonic()
    fleet = servers("uvicorn")
    ledger = await roll(10, CLIENTS, fleet, ca, client_ssl_context, tmp_path, workers=2)
    print(f"\n10 times two workers ended by SIGTERM, {ledger}, {time.monotonic() - began:.0f} s")
    assert ledger.lost == []


@pytest.mark.timeout(480)
async def test_twenty_processes_one_after_the_other_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    began = time.monotonic()
    ledger = await roll(20, CLIENTS, servers("uvicorn"), ca, client_ssl_context, tmp_path)
    print(f"\n20 processes ended by SIGTERM, {ledger}, {time.monotonic() - began:.0f} s")
    assert ledger.lost == []
