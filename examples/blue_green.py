"""Blue/green under load: a bad set is rolled back by the guard, a good one takes over, and nobody notices."""

import asyncio

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, Guard, SwapReport


async def main() -> None:
    with fleet("blue", "bad", "green") as (blue, bad, green):
        bad.status = 500
        transport = AsyncBalancedTransport([blue.url])
        guard = Guard(window=0.5, max_drop=0.05, min_requests=20)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for _ in range(50):
                await client.get("/")

            async def flip(to: str) -> SwapReport:
                swapping = asyncio.create_task(transport.swap([to], guard=guard, grace=5))
                while not swapping.done():
                    await client.get("/")
                return await swapping

            report = await flip(bad.url)
            print(f"bad: rolled back, because {report.reason}")
            assert report.rolled_back
            assert (await client.get("/")).text.startswith("blue")
            report = await flip(green.url)
            print(f"green: {report.drains[0]}")
            assert report.swapped
            assert (await client.get("/")).text.startswith("green")


asyncio.run(main())
