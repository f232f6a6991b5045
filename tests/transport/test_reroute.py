"""Other routes while requests are under way: nothing breaks, and what stays keeps its connections."""

from __future__ import annotations

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, HttpProbe, Pool, Route, Router
from tests.conftest import SharedServers
from tests.transport.engines import anyio_backend as anyio_backend  # over every engine

LOGICAL = "http://orders"


async def test_requests_go_by_the_new_routes_and_pools_that_stay_keep_their_connections(
    servers: SharedServers,
) -> None:
    one, two, three = servers("uvicorn")
    stays, leaves, comes = (
        Pool([server.url], name=name) for server, name in ((one, "stays"), (two, "leaves"), (three, "comes"))
    )
    transport = AsyncBalancedTransport(Router([Route(path="/echo", to=stays)], default=leaves))
    async with httpx.AsyncClient(transport=transport, base_url=LOGICAL) as client:
        assert (await client.get("/echo")).json()["server"] == one.name
        assert (await client.get("/whoami")).text == two.name
        left = await transport.reroute(Router([Route(path="/echo", to=stays)], default=comes))
        assert repr(left) == "<LeftPools 'leaves'>"
        assert set(transport.pools) == {"stays", "comes"}
        assert transport.connections()[one.url] == (1, 1)
        assert (await client.get("/whoami")).text == three.name
        assert (await client.get("/echo")).json()["server"] == one.name
        assert transport.connections()[one.url] == (1, 1)
        await left.aclose()
        await left.aclose()


async def test_a_response_under_way_is_finished_and_closing_what_left_cuts_it(servers: SharedServers) -> None:
    one, two = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url], name="old")
    async with httpx.AsyncClient(transport=transport, base_url=LOGICAL) as client:
        slow = {"chunks": 3, "size": 10, "delay": 0.05}
        async with client.stream("GET", "/stream", params=slow) as response:
            left = await transport.reroute(Pool([two.url], name="new"))
            assert len(await response.aread()) == 30
        assert (await client.get("/whoami")).text == two.name
        async with client.stream("GET", "/stream", params={"chunks": 1, "delay": 60}) as response:
            again = await transport.reroute(Pool([one.url], name="newer"))
            await left.aclose()
            await again.aclose()
            with pytest.raises(httpx.HTTPError):
                await response.aread()
        assert (await client.get("/whoami")).text == one.name


async def test_a_pool_in_the_place_of_one_with_its_name_is_another_pool(servers: SharedServers) -> None:
    one, two = servers("uvicorn", 2)
    old = Pool([one.url])
    transport = AsyncBalancedTransport(old)
    async with httpx.AsyncClient(transport=transport, base_url=LOGICAL) as client:
        await client.get("/whoami")
        new = Pool([two.url])
        await transport.reroute(new)
        assert transport.pools == {"default": new}
        assert (await client.get("/whoami")).text == two.name
        assert set(transport.connections()) == {two.url}


async def test_newcomers_are_probed_and_who_left_is_not(servers: SharedServers) -> None:
    one, two = servers("uvicorn", 2)
    old, new = (
        Pool([server.url], probe=HttpProbe("/health", interval=0.3, timeout=0.3, healthy_threshold=1))
        for server in (one, two)
    )
    async with AsyncBalancedTransport(old) as transport:
        await transport.wait_until_ready()
        await transport.reroute(new)
        await transport.wait_until_ready()
        assert new.status().backends[0].check != "unknown"
        for _ in range(4):
            old.report_probe(one.url, False)
        await anyio.sleep(0.8)
        assert old.status().backends[0].check == "failing"


async def test_what_left_is_closed_with_the_transport(servers: SharedServers) -> None:
    one, two = servers("uvicorn", 2)
    transport = AsyncBalancedTransport([one.url])
    client = httpx.AsyncClient(transport=transport, base_url=LOGICAL)
    async with client.stream("GET", "/stream", params={"chunks": 1, "delay": 60}) as response:
        await transport.reroute(Pool([two.url]))
        await transport.aclose()
        with pytest.raises(httpx.HTTPError):
            await response.aread()
    await client.aclose()


async def test_what_is_no_target_is_refused(servers: SharedServers) -> None:
    (one,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([one.url])
    with pytest.raises(TypeError, match="write a Pool, a Router or a Split"):
        await transport.reroute([one.url])  # type: ignore[arg-type]
    await transport.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.reroute(Pool([one.url]))
