"""Informational responses (1xx) of a backend on their way to the client, each before the final one's head.

ASGI has one message for them, `http.response.early_hint`, for the links of a 103, and few servers take it. The
sidecar's server takes all of them, by a function of its own in the scope; what it takes goes out at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import anyio

from lbclient._async.engine import Answer
from lbclient._async.transport import AsyncBalancedTransport
from lbclient.asgi.headers import end_to_end
from lbclient.asgi.outgoing import RawRequest, ask, close
from lbclient.asgi.types import Send
from lbclient.asgi.ways import Ways, settle
from lbclient.core.facts import Header

EARLY_HINT = "http.response.early_hint"
INFORM = "lbclient.inform"
"""The extension of a scope that holds an `Inform`."""

Inform: TypeAlias = Callable[[int, list[Header]], None]
"""Sends an informational response to the client."""


def answer_to(
    request: RawRequest, transport: AsyncBalancedTransport, extensions: Mapping[str, Any], send: Send
) -> Awaitable[Answer]:
    """The final response to `request`, once the client has those that came before it.

    Args:
        request: The request.
        transport: Whom to ask.
        extensions: The scope's.
        send: ASGI's.
    """
    if INFORM in extensions:
        inform: Inform = extensions[INFORM]

        def informed(status: int, headers: list[Header]) -> None:
            inform(status, [header for header in end_to_end(headers) if header[0] != b"content-length"])

        request.extensions["on_informational"] = informed
    elif EARLY_HINT in extensions:
        return _hinting(request, transport, send)
    return ask(transport, request)


async def _hinting(request: RawRequest, transport: AsyncBalancedTransport, send: Send) -> Answer:
    hints = _EarlyHints(send)
    request.extensions["on_informational"] = hints.informed
    answer: Answer | None = None

    async def asking() -> None:
        nonlocal answer
        answer = await ask(transport, request)
        await hints.flush()

    try:
        settle(False, await Ways().run(asking, hints.run))
    except BaseException:
        if answer is not None:
            await close(answer)
        raise
    assert answer is not None
    return answer


class _EarlyHints:
    """What is told of while nobody may be awaited, for a task to send."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._links: deque[list[bytes]] = deque()
        self._some = anyio.Event()
        self._sending = anyio.Lock()

    def informed(self, status: int, headers: list[Header]) -> None:
        links = [value for name, value in headers if name.lower() == b"link"]
        if status == 103 and links:
            self._links.append(links)
            self._some.set()

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        while True:
            await self._some.wait()
            self._some = anyio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Return when all that came is sent."""
        async with self._sending:
            while self._links:
                await self._send({"type": EARLY_HINT, "links": self._links.popleft()})
