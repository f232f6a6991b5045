"""Health: one server begins to fail, is taken out after five failures, tried with one request, and comes back."""

import asyncio

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, HttpProbe, PassiveHealth, Pool


async def main() -> None:
    with fleet("alpha", "beta") as (alpha, beta):
        pool = Pool(
            [alpha.url, beta.url],
            algorithm="round_robin",
            passive=PassiveHealth(consecutive_failures=5, base_ejection=1.0, max_ejection=2.0),
            probe=HttpProbe("/health", interval=0.2, timeout=0.1, unhealthy_threshold=3),
        )
        transport = AsyncBalancedTransport(pool)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            await transport.wait_until_ready()
            alpha.status = 500
            failed = 0
            while not pool.status().backends[0].ejected:
                failed += (await client.get("/")).status_code == 500
            print(f"after {failed} failures: {pool.status().backends[0].why}")
            assert failed == 5
            assert {(await client.get("/")).status_code for _ in range(10)} == {200}
            alpha.status = 200
            while (await client.get("/")).text.split()[0] != "alpha":
                await asyncio.sleep(0.05)
            names = {(await client.get("/")).text.split()[0] for _ in range(10)}
            print("serving again:", sorted(names))
            assert names == {"alpha", "beta"}


asyncio.run(main())
