"""A server that reports its load, and the client that hears of it."""

from typing import Any

import anyio
import httpx

from lbclient import AsyncBalancedTransport, Pool
from lbclient.asgi import LoadReportMiddleware
from tests.core.pools import estimate_of


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/slow":
        await anyio.sleep(0.2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_every_response_says_how_many_are_in_flight() -> None:
    reporting = LoadReportMiddleware(app)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(reporting), base_url="http://server"
    ) as client:
        alone = await client.get("/")
        assert (alone.headers["x-lb-inflight"], alone.headers["x-own"]) == ("1", "1")
        async with anyio.create_task_group() as group:
            group.start_soon(client.get, "/slow")
            await anyio.sleep(0.05)
            assert (await client.get("/")).headers["x-lb-inflight"] == "2"
    assert reporting.in_flight == 0
    await reporting({"type": "lifespan"}, None, None)  # type: ignore[arg-type]


async def test_the_transport_tells_adaptive() -> None:
    reporting = LoadReportMiddleware(app)
    pool = Pool(["http://one", "http://two"])
    transport = AsyncBalancedTransport(pool, inner=lambda backend: httpx.ASGITransport(reporting))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for _ in range(4):
            await client.get("/")
    estimate = estimate_of(pool, "http://one")
    assert estimate.reported == 1
    assert estimate.fleet.reported == 1
