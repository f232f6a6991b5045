"""What `response.extensions["network_stream"]` is: the connection under a response, and what it was switched to."""

from __future__ import annotations

import ssl
from types import MappingProxyType
from typing import Any

import httpcore

from lbclient._async.native_connection import NativeConnection
from lbclient._async.patience import Patience

_NAMES = MappingProxyType(
    {"ssl_object": "ssl_object", "client_addr": "sockname", "server_addr": "peername", "socket": "socket"}
)


class NativeStream(httpcore.AsyncNetworkStream):
    """httpcore's view of a connection of the native engine."""

    __slots__ = ("_connection",)

    def __init__(self, connection: NativeConnection) -> None:
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
        with Patience(timeout, timeout).step():
            await self._connection.start_tls(ssl_context, server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        """Socket, addresses, TLS object, whether the kernel has something to read, and a response's trailers."""
        if info == "is_readable":
            return self._connection.dead
        if info == "trailers":
            return self._connection.trailers
        name = _NAMES.get(info)
        return None if name is None else self._connection.transport.get_extra_info(name)
