"""Discovery: the backends stand in a file. A server is added to it and another one taken out, without a restart."""

import asyncio
import tempfile
from pathlib import Path

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, Pool
from lbclient.discovery import File, MinimumSize


async def main() -> None:
    with fleet("alpha", "beta", "gamma") as (alpha, beta, gamma), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backends.yaml"
        path.write_text(f"backends:\n  - {alpha.url}\n  - url: {beta.url}\n    weight: 2\n")
        source = MinimumSize(File(path), 2)  # a set of fewer than two is not believed
        pool = Pool(source, algorithm="round_robin")
        transport = AsyncBalancedTransport(pool)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            await transport.wait_until_ready()
            print("at first:", {(await client.get("/")).text.split()[0] for _ in range(20)})

            path.write_text(f"backends: [{beta.url}, {gamma.url}]\n")
            while gamma.url not in {backend.url for backend in pool.declared}:
                await asyncio.sleep(0.05)
            names = {(await client.get("/")).text.split()[0] for _ in range(20)}
            print("then:", names)
            assert names == {"beta", "gamma"}

            path.write_text("backends:\n  - nonsense\n")
            while (status := pool.status().source) is not None and status.well:
                await asyncio.sleep(0.05)
            print(f"a mistake changes nothing: {status}")
            assert {(await client.get("/")).text.split()[0] for _ in range(20)} == names


asyncio.run(main())
