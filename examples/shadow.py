"""What would another algorithm have done with the same requests? A shadow is asked and decides nothing.

python examples/shadow.py
"""

import asyncio
import random

import httpx

from lbclient import AsyncBalancedTransport, PassiveHealth, Pool
from lbclient.algorithms import Shadow

SLOW = "http://slow"


class Server(httpx.AsyncBaseTransport):
    """Stands in for a backend, so that the example needs no network."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.seconds)
        return httpx.Response(503 if random.random() < 0.02 else 200, text="ok")


async def main() -> None:
    urls = ["http://one", "http://two", SLOW]
    pool = Pool(urls, algorithm=Shadow("adaptive", beside="round_robin", passive=PassiveHealth()))
    transport = AsyncBalancedTransport(
        pool, inner=lambda backend: Server(0.05 if backend.url == SLOW else 0.005)
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for _ in range(30):
            await asyncio.gather(*(client.get("/") for _ in range(4)))
    status = pool.status()
    assert status.shadow is not None
    print("adaptive picked  ", {backend.url: backend.picks for backend in status.backends})
    print(f"{status.shadow.algorithm} would have", dict(sorted(status.shadow.chosen.items())))
    print(f"they differed in {status.shadow.differed} of {status.shadow.picks} picks")
    print("passive health would have ejected", status.shadow.ejections or "nobody")


if __name__ == "__main__":
    asyncio.run(main())
