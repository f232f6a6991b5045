"""One path of an app moves to a pool of its own, and nobody may ask for it more than ten times at once."""

import asyncio

import fastapi
import httpx
from _asgi import serving
from _servers import fleet

from lbclient.asgi import BalancerMiddleware, RateLimit, RateLimitMiddleware


async def main() -> None:
    with fleet("a", "b") as servers:
        app = fastapi.FastAPI()

        @app.get("/")
        def home() -> str:
            return "the app itself"

        balanced = BalancerMiddleware(app, target=[server.url for server in servers], path="/search/*")
        limited = RateLimitMiddleware(balanced, RateLimit(requests=10, per=60, path="/search/*"))

        async with serving(limited) as url, httpx.AsyncClient(base_url=url) as client:
            print((await client.get("/")).json())
            answers = [await client.get("/search/shoes?size=42") for _ in range(12)]
            print(answers[0].text, answers[0].headers["ratelimit"])
            refused = answers[-1]
            print(refused.status_code, "retry after", refused.headers["retry-after"], "s")
            assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2


asyncio.run(main())
