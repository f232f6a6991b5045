"""The events that httpcore gives to a `trace` extension and to the debug log, told where we do without httpcore."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx

from lbclient._async.network import Trace

_T = TypeVar("_T")
_log = logging.getLogger("lbclient.http11")


def is_watched(request: httpx.Request) -> bool:
    """Whether anybody wants to know."""
    return "trace" in request.extensions or _log.isEnabledFor(logging.DEBUG)


class Events:
    """Tells of the steps of one request, under httpcore's names.

    Args:
        request: Whose `trace` extension is told.
    """

    def __init__(self, request: httpx.Request) -> None:
        self._trace: Trace | None = request.extensions.get("trace")

    async def around(
        self, name: str, info: Mapping[str, Any], step: Callable[[], Awaitable[_T]], returns: object = None
    ) -> _T:
        """Take a step, and tell that it starts and how it ends.

        Args:
            name: Like `http11.send_request_body`.
            info: What goes into it.
            step: The step.
            returns: What the event tells as its result, in place of the result.
        """
        await self.tell(f"{name}.started", info)
        try:
            result = await step()
        except BaseException as exc:
            await self.tell(f"{name}.failed", {"exception": exc})
            raise
        await self.tell(f"{name}.complete", {"return_value": result if returns is None else returns})
        return result

    async def tell(self, name: str, info: Mapping[str, Any]) -> None:
        """One event."""
        if self._trace is not None:
            await self._trace(name, dict(info))
        if _log.isEnabledFor(logging.DEBUG):
            told = " ".join(f"{key}={value!r}" for key, value in info.items() if value is not None)
            _log.debug("%s %s", name, told) if told else _log.debug("%s", name)
