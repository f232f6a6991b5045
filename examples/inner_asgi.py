"""Transports of your own: two ASGI apps in this process, balanced without a network."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from lbclient import AsyncBalancedTransport

App = Callable[[Any, Any, Any], Awaitable[None]]


def app(name: str) -> App:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    return answer


APPS = {"http://blue": app("blue"), "http://green": app("green")}


async def main() -> None:
    transport = AsyncBalancedTransport(
        list(APPS), algorithm="round_robin", inner=lambda backend: httpx.ASGITransport(APPS[backend.url])
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answers = [(await client.get("/")).text for _ in range(4)]
    print(answers)
    assert sorted(answers) == ["blue", "blue", "green", "green"]


asyncio.run(main())
