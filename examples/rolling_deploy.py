"""A rolling deploy: each server is drained, replaced and enabled again, under load, without a failed request."""

import asyncio
from collections import Counter

import httpx
from _servers import Server, fleet

from lbclient import AsyncBalancedTransport


async def main() -> None:
    with fleet("a1", "b1", "c1") as servers:
        transport = AsyncBalancedTransport([server.url for server in servers])
        answers: Counter[str] = Counter()
        deploying = True

        async def customer(client: httpx.AsyncClient) -> None:
            while deploying:
                response = await client.get("/")
                assert response.status_code == 200
                answers[response.text.split()[0]] += 1

        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            customers = [asyncio.create_task(customer(client)) for _ in range(5)]
            for index, server in enumerate(servers):
                await asyncio.sleep(0.1)
                report = await transport.drain(server.url, grace=5)
                assert report.drained
                server.stop()
                servers[index] = Server(f"{server.name[0]}2", server.server_port)
                transport.pools["default"].enable(server.url)
            await asyncio.sleep(0.3)
            deploying = False
            await asyncio.gather(*customers)
    print(dict(answers))
    assert {"a2", "b2", "c2"} <= set(answers)


asyncio.run(main())
