"""A service with one shared client: what it asks of others is hashed on, and tied to, the end user it asks for."""

import asyncio
from typing import Any

import httpx
from _asgi import serving
from _servers import fleet

from lbclient import AsyncBalancedTransport, CookieAffinity
from lbclient.asgi import ClientContextMiddleware


async def main() -> None:
    with fleet("a", "b", "c") as servers:
        transport = AsyncBalancedTransport(
            [server.url for server in servers], algorithm="round_robin", affinity=CookieAffinity()
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://carts") as carts:

            async def service(scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] == "http":
                    cart = await carts.get("/cart")  # for whoever is being served
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": cart.content})

            app = ClientContextMiddleware(service, deadline=2.0, deadline_header="x-request-timeout")
            async with serving(app) as url:
                homes = []
                for _ in range(6):
                    async with httpx.AsyncClient(base_url=url) as browser:
                        homes.append({(await browser.get("/")).text.split()[0] for _ in range(3)})
                print(homes)
                assert all(len(home) == 1 for home in homes)
                assert len(set().union(*homes)) == 3
                assert not carts.cookies, "nothing of one user is in the client that all share"


asyncio.run(main())
