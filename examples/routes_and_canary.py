"""Routes by path, and a canary that gets exactly one request of ten."""

import asyncio
from collections import Counter

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, Pool, Route, Router, Split


async def main() -> None:
    with fleet("api-old", "api-new", "files") as (old, new, files):
        stable, canary = Pool([old.url], name="stable"), Pool([new.url], name="canary")
        split = Split({stable: 9, canary: 1})
        router = Router(
            [Route(path="/api/*", to=split), Route(path="/static/*", to=Pool([files.url], name="files"))]
        )
        async with httpx.AsyncClient(
            transport=AsyncBalancedTransport(router), base_url="http://shop"
        ) as client:
            answers = [(await client.get("/api/items")).text.split()[0] for _ in range(100)]
            print(Counter(answers))
            assert Counter(answers) == {"api-old": 90, "api-new": 10}
            assert (await client.get("/static/logo.png")).text.startswith("files")
            split.set({stable: 0, canary: 1})
            assert (await client.get("/api/items")).text.startswith("api-new")


asyncio.run(main())
