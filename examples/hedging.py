"""Hedging: when a backend pauses, a copy of the request goes to another one, and the first answer wins."""

import asyncio
import time

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, Hedge


async def main() -> None:
    with fleet("slow", "quick") as (slow, quick):
        slow.delay = 2.0
        transport = AsyncBalancedTransport(
            [slow.url, quick.url], algorithm="first", hedge=Hedge(delay=0.05, budget=1.0)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            began = time.perf_counter()
            response = await client.get("/42")
            print(f"answered after {time.perf_counter() - began:.2f} s, and not after {slow.delay:.0f} s")
    print(response.extensions["lbclient"].explain())
    assert response.text == "quick /42\n"
    assert response.extensions["lbclient"].backend == quick.url


asyncio.run(main())
