"""An algorithm of your own is an object with `build`, whose picker has `pick`."""

import asyncio
import random
from collections.abc import Sequence

import httpx
from _servers import fleet

from lbclient import AsyncBalancedTransport, Backend
from lbclient.core.backend import BackendState


class SameRack:
    """The backends of one rack, in turn; the others when there are none there."""

    def __init__(self, rack: str) -> None:
        self.rack = rack

    def build(self, backends: Sequence[BackendState], rng: random.Random) -> "Turns":
        near = [state for state in backends if state.backend.metadata.get("rack") == self.rack]
        return Turns(near or backends)


class Turns:
    def __init__(self, backends: Sequence[BackendState]) -> None:
        self.backends = backends
        self.next = 0

    def pick(self, key: bytes | None) -> BackendState:
        self.next = (self.next + 1) % len(self.backends)
        return self.backends[self.next]


async def main() -> None:
    with fleet("near-1", "near-2", "far") as servers:
        racks = ["r1", "r1", "r2"]
        backends = [Backend(s.url, metadata={"rack": rack}) for s, rack in zip(servers, racks, strict=True)]
        transport = AsyncBalancedTransport(backends, algorithm=SameRack("r1"))
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            for _ in range(10):
                await client.get("/")
    print({server.name: server.seen for server in servers})
    assert [server.seen for server in servers] == [5, 5, 0]


asyncio.run(main())
