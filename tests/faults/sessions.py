"""Clients with a cookie each on one transport: who answered them, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio
import httpx

from lbclient import AsyncBalancedTransport, CookieAffinity
from tests.servers import Server

AT_ONCE = 50


class Client:
    """One client, with a jar of its own, and the names of those who answered it."""

    def __init__(self, transport: AsyncBalancedTransport) -> None:
        self.http = httpx.AsyncClient(transport=transport, base_url="http://shop", timeout=30)
        self.answered: list[str] = []
        self.cookies = 0

    async def ask(self, times: int) -> None:
        for _ in range(times):
            response = await self.http.get("/whoami")
            assert response.status_code == 200
            self.answered.append(response.text)
            self.cookies += "set-cookie" in response.headers

    @property
    def moves(self) -> int:
        return sum(one != another for one, another in zip(self.answered, self.answered[1:], strict=False))


async def all_ask(clients: Sequence[Client], times: int) -> None:
    """Each so many times, some at once; their requests are mixed."""
    room = anyio.CapacityLimiter(AT_ONCE)

    async def one(client: Client) -> None:
        async with room:
            await client.ask(times)

    async with anyio.create_task_group() as group:
        for client in clients:
            group.start_soon(one, client)


async def sessions_stay(fleet: Sequence[Server], count: int, times: int, rounds: int) -> str:
    """So many clients ask so often, in rounds; one backend is removed, and they ask again. Returns what to print."""
    transport = AsyncBalancedTransport(
        [server.url for server in fleet],
        algorithm="round_robin",
        affinity=CookieAffinity(secret="a secret for the sessions of this test"),
    )
    clients = [Client(transport) for _ in range(count)]
    try:
        for _ in range(rounds):
            await all_ask(clients, times // rounds)
        homes = Counter(client.answered[0] for client in clients)
        assert len(homes) == len(fleet)
        assert max(homes.values()) - min(homes.values()) <= 1, "in turn, and ties take no turns"
        assert sum(client.moves for client in clients) == 0
        assert {client.cookies for client in clients} == {1}

        gone = fleet[0]
        transport.pools["default"].remove(gone.url)
        await all_ask(clients, rounds)
        for client in clients:
            had_to = client.answered[0] == gone.name
            assert client.moves == client.cookies - 1 == had_to
            assert not had_to or client.answered[-1] != gone.name
    finally:
        await transport.aclose()
    requests = sum(len(client.answered) for client in clients)
    return f"{count} clients, {requests} requests, {homes[gone.name]} had to move and did so once"
