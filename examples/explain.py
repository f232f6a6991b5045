"""Why did this request go there? The record tells, as text, as data, and well enough to replay the pick."""

import asyncio
import json
import logging
import sys

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, NoBackendAvailable, Pool, Record


def replay(record: Record) -> str:
    """The choice of `round_robin`: `drawn` is the place in the rotation."""
    attempt = record.attempts[0]
    assert attempt.drawn is not None
    return attempt.candidates[int(attempt.drawn)]


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="log: %(name)s %(levelname)s %(message)s")
    logging.getLogger("lbclient").setLevel(logging.INFO)

    with fleet("alpha", "beta", "gamma") as (alpha, beta, gamma):
        pool = Pool([alpha.url, beta.url, gamma.url], name="orders", algorithm="round_robin", fail_open=False)
        transport = AsyncBalancedTransport(pool)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            pool.disable(beta.url)
            records = [(await client.get("/")).extensions["lbclient"] for _ in range(5)]
            assert [replay(record) for record in records] == [record.backend for record in records]
            record = records[-1]
            print(record.explain())
            print(json.dumps(record.as_dict(), indent=2))
            assert record.attempts[0].skipped == {beta.url: "disabled"}

            pool.disable(alpha.url)
            pool.disable(gamma.url)
            problem: Exception | None = None
            try:
                await client.get("/")
            except httpx.ConnectError as exc:  # what users of httpx catch already
                problem = exc
            print(f"{type(problem).__name__}: {problem}")
            assert isinstance(problem, NoBackendAvailable)


asyncio.run(main())
