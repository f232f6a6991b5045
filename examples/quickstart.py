"""Five lines: requests spread over three servers, and the response says who answered and why."""

import asyncio
from collections import Counter

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport


async def main() -> None:
    with fleet("alpha", "beta", "gamma") as servers:
        transport = AsyncBalancedTransport([server.url for server in servers])
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            responses = [await client.get("/42") for _ in range(30)]
    print(Counter(response.text.split()[0] for response in responses))
    print(responses[-1].url, "was answered by", responses[-1].extensions["lbclient"].backend)
    print(responses[-1].extensions["lbclient"].explain())
    assert sum(server.seen for server in servers) == 30
    assert all(server.seen for server in servers)


asyncio.run(main())
