"""Retries: a GET is answered elsewhere, a POST that may have been carried out is not, and a deadline ends it all."""

import asyncio

import httpx
from _servers import fleet
from tenacity import stop_after_attempt

from lbclient import AsyncBalancedTransport, DeadlineExceeded, Retry


async def main() -> None:
    with fleet("busy", "well") as (busy, well):
        busy.status = 503
        transport = AsyncBalancedTransport(
            [busy.url, well.url], algorithm="first", retry=Retry(stop=stop_after_attempt(3))
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            response = await client.get("/42")
            print(response.extensions["lbclient"].explain())
            assert response.text == "well /42\n"

            response = await client.post("/pay", content=b"100")
            print(f"POST: {response.status_code}, for it may have been carried out")
            assert response.status_code == 503
            once = {"idempotent": True}
            response = await client.post("/pay", content=b"100", extensions={"lbclient": once})
            print(f"POST that may be repeated: {response.status_code}")
            assert response.status_code == 200

            busy.status, busy.delay, well.delay = 200, 1.0, 1.0
            try:
                await client.get("/42", extensions={"lbclient": {"deadline": 0.3}})
            except DeadlineExceeded as exc:
                print(exc)
            else:
                raise AssertionError("nobody answers within the deadline")


asyncio.run(main())
