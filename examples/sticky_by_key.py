"""Consistent hashing: all requests of a tenant go to one server, and few tenants move when a server leaves."""

import asyncio

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport
from lbclient.algorithms import RingHash


async def main() -> None:
    with fleet("alpha", "beta", "gamma") as servers:
        transport = AsyncBalancedTransport(
            [server.url for server in servers], algorithm=RingHash(key="header:X-Tenant")
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:

            async def homes() -> dict[str, str]:
                found: dict[str, str] = {}
                for tenant in (f"tenant-{number}" for number in range(30)):
                    response = await client.get("/", headers={"X-Tenant": tenant})
                    found[tenant] = response.text.split()[0]
                return found

            before = await homes()
            assert before == await homes()
            transport.pools["default"].remove(servers[2].url)
            after = await homes()
    moved = [tenant for tenant in before if before[tenant] != after[tenant]]
    print(f"{len(moved)} of {len(before)} tenants moved, all of them from gamma")
    assert {before[tenant] for tenant in moved} == {"gamma"}


asyncio.run(main())
