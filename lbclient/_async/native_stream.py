"""What `response.extensions["network_stream"]` is: the connection under a response, and what it was switched to."""

from __future__ import annotations

import ssl
from typing import Any

import httpcore

from lbclient._async.http11_connection import HTTP11Connection


class NativeStream(httpcore.AsyncNetworkStream):
    """httpcore's view of a connection of the native engine."""

    __slots__ = ("_connection",)

    def __init__(self, connection: HTTP11Connection) -> None:
        self._connection = connection

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Some bytes; none at the end."""
        return await self._connection.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of `buffer`."""
        if buffer:
            await self._connection.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the socket."""
        await self._connection.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """TLS from now on: in the tunnel that a CONNECT has opened."""
        await self._connection.start_tls(ssl_context, server_hostname, timeout)
        return self

    def get_extra_info(self, info: str) -> Any:
        """Socket, addresses, TLS object, whether the kernel has something to read, and a response's trailers."""
        if info == "is_readable":
            return self._connection.dead
        if info == "trailers":
            return self._connection.trailers
        return self._connection.get_extra_info(info)
