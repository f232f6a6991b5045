"""Discovery: a source of one's own, in ten lines. This one asks an inventory over HTTP every so often."""

import asyncio
import json
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler

import httpx
from _servers import Server, fleet

from lbclient import AsyncBalancedTransport, Backend
from lbclient.discovery import Source

INVENTORY: list[dict[str, object]] = []


class Inventory(Source):
    def __init__(self, url: str, every: float) -> None:
        self.url, self.every = url, every

    async def watch(self) -> AsyncIterator[list[Backend]]:
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:  # whatever is raised is in the status, and is tried again
                servers = (await client.get(self.url)).raise_for_status().json()
                yield [Backend(server["url"], weight=server["weight"]) for server in servers]
                await asyncio.sleep(self.every)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # http.server's name
        body = json.dumps(INVENTORY).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        pass


async def main() -> None:
    inventory = Server("inventory", handler=Handler)
    with fleet("alpha", "beta") as servers:
        INVENTORY.extend({"url": server.url, "weight": 1} for server in servers)
        transport = AsyncBalancedTransport(Inventory(inventory.url, every=0.1), algorithm="round_robin")
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            print("at first:", {(await client.get("/")).text.split()[0] for _ in range(10)})
            del INVENTORY[0]
            pool = transport.pools["default"]
            while len(pool.declared) > 1:
                await asyncio.sleep(0.05)
            names = {(await client.get("/")).text.split()[0] for _ in range(10)}
            print("then:", names)
            assert names == {"beta"}
            print(pool.status().source)
    inventory.stop()


asyncio.run(main())
