"""Connections: own ones for each backend, within limits, and what the backend sees as `Host`."""

import asyncio

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, Backend, Connect


async def main() -> None:
    with fleet("alpha", "beta") as (alpha, beta):
        alpha.delay = beta.delay = 0.05
        transport = AsyncBalancedTransport(
            [alpha.url, Backend(beta.url, host="beta.example")],
            algorithm="round_robin",
            connect=Connect(max_connections=2, max_idle=1),
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            asking = asyncio.gather(*(client.get("/") for _ in range(20)))
            await asyncio.sleep(0.03)
            print("busy (open, idle):", transport.connections())
            assert all(count == (2, 0) for count in transport.connections().values())

            await asking  # those beyond the limit waited their turn
            print("idle (open, idle):", transport.connections())
            assert all(count == (1, 1) for count in transport.connections().values())

        print("Host seen:", alpha.hosts | beta.hosts)
        assert alpha.hosts == {alpha.url.removeprefix("http://")}
        assert beta.hosts == {"beta.example"}


asyncio.run(main())
