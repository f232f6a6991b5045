"""Layer 4 against layer 7, on the same fleet: a client that keeps its connection stays with one server, or does not.

At layer 4 a connection is picked for once, and all its requests go the same way. At layer 7 every request is.
"""

import asyncio
from collections import Counter

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, Pool
from lbclient.l4 import TCPForwarder


async def main() -> None:
    with fleet("alpha", "beta", "gamma") as servers:
        pool = Pool([server.url for server in servers], algorithm="round_robin")

        async def ask(client: httpx.AsyncClient) -> Counter[str]:
            return Counter([(await client.get("/")).text.split()[0] for _ in range(30)])

        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            url = f"http://127.0.0.1:{forwarder.port}"
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                at_4 = await ask(client)
            print("layer 4, 30 requests over a kept connection:", dict(at_4))
            once = {"Connection": "close"}
            async with httpx.AsyncClient(base_url=url, trust_env=False, headers=once) as client:
                print("layer 4, 30 requests over one each:         ", dict(await ask(client)))
        async with httpx.AsyncClient(
            transport=AsyncBalancedTransport(pool), base_url="http://shop"
        ) as client:
            at_7 = await ask(client)
            print("layer 7, 30 requests:                       ", dict(at_7))
    assert list(at_4.values()) == [30]
    assert sorted(at_7.values()) == [10, 10, 10]


asyncio.run(main())
