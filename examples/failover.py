"""Failover: a POST that meets a dead server goes to another one, because nothing of it had been sent."""

import asyncio

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport


async def main() -> None:
    with fleet("alpha", "beta") as (alpha, beta):
        alpha.stop()
        transport = AsyncBalancedTransport([alpha.url, beta.url], algorithm="first")
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            response = await client.post("/pay", content=b"100")
    record = response.extensions["lbclient"]
    print(record.explain())
    assert [attempt.backend for attempt in record.attempts] == [alpha.url, beta.url]
    assert beta.seen == 1


asyncio.run(main())
