"""Three OpenAI-compatible servers behind one `openai.AsyncOpenAI`, streaming, balanced by tokens in flight.

Requests differ a hundredfold in size, so counting requests says little. `cost=` tells what each weighs, and whoever has
the fewest tokens in flight gets the next one. When a server dies, its requests go to the others.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
from _asgi import serving
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from lbclient import Facts, Pool
from lbclient.httpx2 import AsyncBalancedTransport

CHARACTERS_A_TOKEN = 4
SECONDS_A_TOKEN = 0.0005


def model_server(name: str) -> Starlette:
    """Answers with as many words as `max_tokens` says."""

    async def complete(request: Request) -> StreamingResponse:
        asked = await request.json()

        async def words() -> AsyncIterator[str]:
            for number in range(asked["max_tokens"] // 10):
                await asyncio.sleep(10 * SECONDS_A_TOKEN)
                choice = {"index": 0, "delta": {"content": f"{name}{number} "}, "finish_reason": None}
                chunk = {
                    "id": "c",
                    "object": "chat.completion.chunk",
                    "created": 0,
                    "model": name,
                    "choices": [choice],
                }
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(words(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


def tokens(facts: Facts) -> int:
    """What a chat completion weighs: its prompt, and what it may answer."""
    asked = json.loads(facts.content or b"{}")
    prompt = sum(len(message["content"]) for message in asked.get("messages", ()))
    answer = int(asked.get("max_tokens", 0))
    return max(1, prompt // CHARACTERS_A_TOKEN + answer)


async def main() -> None:
    async with serving(model_server("b")) as b, serving(model_server("c")) as c, AsyncExitStack() as mortal:
        a = await mortal.enter_async_context(serving(model_server("a")))
        pool = Pool([a, b, c], algorithm="least_connections", cost=tokens)
        http = httpx2.AsyncClient(transport=AsyncBalancedTransport(pool), timeout=10)
        # A retry elsewhere is the balancer's to make, not the SDK's.
        openai = AsyncOpenAI(base_url="http://models/v1", api_key="none", http_client=http, max_retries=0)

        async def ask(most: int) -> str:
            stream = await openai.chat.completions.create(
                model="any", max_tokens=most, stream=True, messages=[{"role": "user", "content": "Count."}]
            )
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert len(said.split()) == most // 10
            return said[0]

        # One long answer, and many short ones: those leave its server alone.
        long = asyncio.create_task(ask(4000))
        while not any(backend.in_flight for backend in pool.status().backends):
            await asyncio.sleep(0.01)
        print("tokens in flight:", [backend.in_flight for backend in pool.status().backends])
        short = Counter(await asyncio.gather(*(ask(100) for _ in range(20))))
        busy = await long
        print(f"the long answer came from {busy}; the short ones from {dict(sorted(short.items()))}")
        assert busy not in short
        assert sum(short.values()) == 20

        # One dies. Nothing of the next requests had been sent to it, so they go elsewhere, POSTs or not.
        await mortal.aclose()
        survivors = Counter(await asyncio.gather(*(ask(50) for _ in range(20))))
        print("without a:", dict(sorted(survivors.items())))
        assert set(survivors) == {"b", "c"}
        await openai.close()


asyncio.run(main())
