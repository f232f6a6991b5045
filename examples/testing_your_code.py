"""A test of your program: a backend fails, is taken out, and is tried again half a minute later, without waiting."""

import asyncio

import httpx

from lbclient import AsyncBalancedTransport, PassiveHealth, Pool
from lbclient.testing import FakeBackends, FakeClock


async def main() -> None:
    clock = FakeClock()
    backends = FakeBackends(3, clock=clock)
    passive = PassiveHealth(consecutive_failures=2, base_ejection=30)
    pool = Pool(backends.urls, algorithm="round_robin", passive=passive, clock=clock)
    transport = AsyncBalancedTransport(pool, inner=backends.inner)
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        backends[0].status = 503
        for _ in range(30):
            assert (await client.get("/")).status_code == 200  # a 503 is asked for again elsewhere
        print("while it fails:", backends.asked)
        assert backends.asked["http://backend-0"] == 2, "two failures in a row take it out"

        backends[0].status = 200
        clock.advance(40)
        for _ in range(30):
            await client.get("/")
        print("40 seconds on: ", backends.asked)
        assert backends.asked["http://backend-0"] > 2


asyncio.run(main())
