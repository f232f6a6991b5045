"""A pool of servers below /api of a Starlette app: streamed both ways, sticky for browsers, WebSockets included."""

import asyncio
from collections import Counter

import httpx
from _asgi import serving
from _servers import fleet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from lbclient import CookieAffinity, Pool
from lbclient.asgi import ReverseProxy


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the app itself")


async def main() -> None:
    with fleet("a", "b", "c") as servers:
        pool = Pool(
            [server.url for server in servers], algorithm="round_robin", affinity=CookieAffinity(name="API")
        )
        proxy = ReverseProxy(pool, max_body=10_000_000)
        app = Starlette(routes=[Route("/", home), Mount("/api", proxy)])
        async with serving(app) as url:
            seen: Counter[str] = Counter()
            for _ in range(6):
                async with httpx.AsyncClient(base_url=url) as browser:  # each with cookies of its own
                    print((await browser.get("/")).text)
                    answers = {(await browser.get("/api/orders/42")).text for _ in range(4)}
                    assert len(answers) == 1, "it keeps to its server"
                    seen.update(answers)
            print(dict(seen))  # the servers saw /orders/42
            assert len(seen) == 3

            servers[0].stop()  # a backend dies: its clients go to another one
            async with httpx.AsyncClient(base_url=url) as browser:
                assert all([(await browser.get("/api/")).is_success for _ in range(6)])
        await proxy.aclose()  # mounted apps get no lifespan events


asyncio.run(main())
