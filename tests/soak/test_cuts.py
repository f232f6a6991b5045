"""A watch cut at every single byte."""

from __future__ import annotations

import pytest

from tests.conftest import MakeRawServer
from tests.discovery import test_etcd, test_kubernetes


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.timeout(300)
async def test_a_watch_of_kubernetes(raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_kubernetes, "STEP", 1)
    await test_kubernetes.test_a_watch_cut_at_every_byte_is_survived(raw_server, monkeypatch)


@pytest.mark.timeout(300)
async def test_a_watch_of_etcd(raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_etcd, "STEP", 1)
    monkeypatch.setattr("lbclient.discovery.list_watch.FIRST_PAUSE", 0.001)
    await test_etcd.test_a_watch_cut_at_every_byte_is_survived(raw_server)
