"""A sidecar: the configuration is a file, and whoever speaks HTTP is balanced. A backend dies, another is drained by an
operator, the whole set is swapped, the file is changed; and then it ends as it would by SIGTERM.

In a shell that is `lbclient serve sidecar.yaml`, and the dashboard is where the admin listens.
"""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import httpx
from _servers import Server, fleet

from lbclient.sidecar.sidecar import Sidecar

CONFIGURATION = """
listeners: [127.0.0.1:0]
pools:
  shop:
    backends: [{backends}]
    algorithm: round_robin
    probe: {{path: /health, interval: 200ms, timeout: 200ms, healthy_threshold: 1, unhealthy_threshold: 1}}
admin: {{bind: "127.0.0.1:0"}}
access_log: off
shutdown: {{linger: 100ms}}
"""


def write(path: Path, *servers: Server) -> None:
    path.write_text(CONFIGURATION.format(backends=", ".join(server.url for server in servers)))


async def ask(client: httpx.AsyncClient, times: int = 12) -> Counter[str]:
    answers = [await client.get("/42") for _ in range(times)]
    assert all(answer.status_code == 200 for answer in answers)
    return Counter(answer.text.split()[0] for answer in answers)


async def main(path: Path, alpha: Server, beta: Server, gamma: Server, delta: Server) -> None:
    write(path, alpha, beta, gamma)
    sidecar = Sidecar(path)
    await sidecar.start()
    assert sidecar.admin is not None
    async with (
        httpx.AsyncClient(base_url=f"http://{sidecar.listeners[0].address}") as client,
        httpx.AsyncClient(base_url=f"http://{sidecar.admin.address}") as admin,
    ):
        print("three backends:", await ask(client))

        alpha.status = 500
        while (await admin.get("/status")).json()["pools"][0]["backends"][0]["state"] == "available":
            await asyncio.sleep(0.05)
        print("alpha is ill:", await ask(client))

        drain = await admin.post("/pools/shop/drain", json={"url": beta.url, "wait": True})
        print("beta is drained:", await ask(client), drain.json()["report"])

        swap = await admin.post(
            "/pools/shop/swap", json={"backends": [delta.url], "wait": True, "grace": "5s"}
        )
        assert swap.json()["report"]["swapped"], swap.text
        print("delta instead of all:", await ask(client))

        alpha.status = 200
        write(path, alpha, beta, delta)
        await sidecar.reload()
        seen = await ask(client)
        print("the file says otherwise:", seen)
        assert set(seen) == {"alpha", "beta", "delta"}

        for happening in list(sidecar.happenings.newest)[-4:]:
            print("  ", happening.text)
        metrics = (await admin.get("/metrics")).text.splitlines()
        print(*(line for line in metrics if line.startswith("lbclient_sidecar_requests_total")), sep="\n")
    assert await sidecar.stop() == 0, "nothing was cut off"


with tempfile.TemporaryDirectory() as home, fleet("alpha", "beta", "gamma", "delta") as (a, b, c, d):
    asyncio.run(main(Path(home) / "sidecar.yaml", a, b, c, d))
