"""Sticky sessions: two clients share one transport, and each stays on its own server by a cookie in its own jar."""

import asyncio

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, CookieAffinity


async def main() -> None:
    with fleet("alpha", "beta", "gamma") as servers:
        transport = AsyncBalancedTransport(
            [server.url for server in servers], algorithm="round_robin", affinity=CookieAffinity(max_age=3600)
        )
        anna = httpx.AsyncClient(transport=transport, base_url="http://shop")
        boris = httpx.AsyncClient(transport=transport, base_url="http://shop")
        homes: dict[str, set[str]] = {}
        for name, client in (("anna", anna), ("boris", boris)):
            homes[name] = {(await client.get("/cart")).text.split()[0] for _ in range(10)}
        print(homes)
        await anna.aclose()
        await boris.aclose()
    assert all(len(seen) == 1 for seen in homes.values())
    assert homes["anna"] != homes["boris"]


asyncio.run(main())
