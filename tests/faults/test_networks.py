"""Hosts that vanish and packets that are dropped, in a network of the tests' own; skipped where there cannot be one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect, Record
from tests.conftest import MakeRawServer
from tests.servers import RawServer
from tests.servers.network import Network, Unavailable


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        made = Network.make()
    except Unavailable as exc:
        pytest.skip(str(exc))
    with made:
        yield made


def client(*urls: str, algorithm: str = "first") -> httpx.AsyncClient:
    transport = AsyncBalancedTransport(urls, algorithm=algorithm, connect=Connect(connect_timeout=0.4))
    timeout = httpx.Timeout(10, read=0.4)
    return httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=timeout)


def outcomes(response: httpx.Response) -> list[str]:
    record: Record = response.extensions["lbclient"]
    return [attempt.outcome for attempt in record.attempts]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("nobody", "ConnectTimeout"),
        ("dropped", "ConnectTimeout"),
        ("without_route", "ConnectError"),
        ("forbidden", "ConnectError"),
    ],
)
async def test_who_cannot_be_reached_is_passed_over(
    network: Network, raw_server: MakeRawServer, method: str, where: str, error: str
) -> None:
    good = raw_server()
    async with client(f"http://{getattr(network, where)}:8080", good.url) as http:
        response = await http.request(method, "/")
    assert response.status_code == 200
    first, second = outcomes(response)
    assert first.startswith(f"connect ({error}")
    assert second == "200"


async def test_a_host_that_refuses_over_the_network_is_passed_over(
    network: Network, raw_server: MakeRawServer
) -> None:
    async with client(f"http://{network.there}:8080", raw_server().url) as http:
        assert outcomes(await http.post("/"))[0].startswith("connect (ConnectError")


async def test_a_host_that_vanishes_takes_a_read_timeout_and_no_idempotent_request_with_it(
    network: Network, raw_server: MakeRawServer
) -> None:
    far = network.inside(lambda: RawServer(host=network.there))
    good = raw_server()
    try:
        async with client(far.url, good.url) as http:
            assert (await http.get("/")).extensions["lbclient"].backend == far.url
            network.vanish()
            # Over the connection that was kept: it is written, and nothing comes back.
            kept = outcomes(await http.get("/"))
            assert kept[0].startswith("timeout (ReadTimeout")
            assert kept[1] == "200"
            # Over a new one it cannot be reached: a POST goes elsewhere as well.
            assert outcomes(await http.post("/"))[0].startswith("connect")
    finally:
        far.stop()
    assert len(far.requests) == 1
