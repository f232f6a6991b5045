"""A connection that httpcore speaks over, and what httpcore does not tell of it."""

from __future__ import annotations

from typing import Any, cast

import h11
import httpcore

from lbclient._async.connections import Connection
from lbclient._async.http2 import HTTP2Connection
from lbclient._async.http11 import Informed
from lbclient._async.network import CountedStream
from lbclient.core.facts import Header


class HTTP11Connection(httpcore.AsyncHTTP11Connection):
    """httpcore's, which keeps to itself what comes before a response and behind it.

    The responses' extension "trailers" is a list that is filled when the body has been read.
    """

    _informed: Informed | None = None
    _trailers: list[Header]

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """As httpcore's."""
        self._informed = cast("Any", request).extensions.get("on_informational")
        trailers: list[Header] = []
        self._trailers = trailers
        response = await super().handle_async_request(request)
        cast("Any", response).extensions["trailers"] = trailers
        return response

    async def _receive_event(self, timeout: float | None = None) -> Any:
        event = await super()._receive_event(timeout)
        if isinstance(event, h11.InformationalResponse):
            if self._informed is not None and event.status_code not in (100, 101):
                self._informed(event.status_code, event.headers.raw_items())
        elif isinstance(event, h11.EndOfMessage):
            self._trailers += event.headers.raw_items()
        return event


class HttpcoreConnection(Connection):
    """See `Connection`.

    Attributes:
        core: httpcore's connection.
        stream: What it speaks over.
    """

    __slots__ = ("core", "stream")

    def __init__(self, core: httpcore.AsyncHTTP11Connection | HTTP2Connection, stream: CountedStream) -> None:
        super().__init__(shared=isinstance(core, HTTP2Connection))
        self.core = core
        self.stream = stream

    @property
    def reusable(self) -> bool:
        """See `Connection`.

        Bytes behind a complete response stay in h11's buffer, or in one of those between it and the socket, and would
        answer the *next* request. (Those still in the kernel are found when the connection is taken.)
        """
        core = self.core
        if not core.is_idle():
            return False
        assert isinstance(core, httpcore.AsyncHTTP11Connection)
        return not core._h11_state.trailing_data[0] and not self.stream.holds_bytes

    @property
    def dead(self) -> bool:
        """See `Connection`: the kernel is asked."""
        return self.core.has_expired()

    @property
    def alive(self) -> bool:
        """See `Connection`.

        Not httpcore's `has_expired`: cancelled at one of its locks, an HTTP/2 connection never knows that it is idle.
        """
        return self.core.is_available()

    @property
    def room(self) -> bool:
        """See `Connection`."""
        core = self.core
        assert isinstance(core, HTTP2Connection)
        return not self.retired and core.is_available() and self.active < core.stream_limit

    async def aclose(self) -> None:
        """See `Connection`."""
        await self.core.aclose()

    def drop(self) -> None:
        """See `Connection`."""
        self.stream.drop()

    def cut(self, reason: str) -> None:
        """See `Connection`."""
        self.stream.cut = reason
