"""A pytest plugin for httpx's own tests: its clients' default transport is ours, one for each origin."""

from __future__ import annotations

import os
from typing import Any

import httpx

from lbclient import AsyncBalancedTransport, BalancedTransport, Connect


def _connect(options: dict[str, Any]) -> Connect:
    limits = options.get("limits") or httpx.Limits(max_connections=100, max_keepalive_connections=20)
    return Connect(
        verify=httpx.create_ssl_context(options.get("verify", True), options.get("cert")),
        http1=options.get("http1", True),
        http2=options.get("http2", False),
        max_connections=limits.max_connections,
        max_idle=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        engine=os.environ.get("LBCLIENT_ENGINE", "auto") if "async" in options else "auto",  # type: ignore[arg-type]
    )


def _origin(request: httpx.Request) -> str:
    url = request.url
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}" + (f":{url.port}" if url.port else "")


class EveryOrigin(httpx.BaseTransport):
    """What `httpx.HTTPTransport` is, made of balanced transports."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._made: dict[str, BalancedTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(
                f"Request URL has an unsupported protocol '{request.url.scheme}://'.", request=request
            )
        origin = _origin(request)
        if origin not in self._made:
            self._made[origin] = BalancedTransport([origin], connect=_connect(self._options), retry=None)
        return self._made[origin].handle_request(request)

    def close(self) -> None:
        for transport in self._made.values():
            transport.close()


class EveryOriginAsync(httpx.AsyncBaseTransport):
    """What `httpx.AsyncHTTPTransport` is, made of balanced transports."""

    def __init__(self, **options: Any) -> None:
        self._options = {**options, "async": True}
        self._made: dict[str, AsyncBalancedTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(
                f"Request URL has an unsupported protocol '{request.url.scheme}://'.", request=request
            )
        origin = _origin(request)
        if origin not in self._made:
            self._made[origin] = AsyncBalancedTransport([origin], connect=_connect(self._options), retry=None)
        return await self._made[origin].handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._made.values():
            await transport.aclose()


def _init(self: Any, transport: Any = None, **options: Any) -> Any:
    return EveryOrigin(**options) if transport is None else transport


def _init_async(self: Any, transport: Any = None, **options: Any) -> Any:
    return EveryOriginAsync(**options) if transport is None else transport


def pytest_configure() -> None:
    """Patch them."""
    httpx.Client._init_transport = _init  # type: ignore[assignment, method-assign]
    httpx.AsyncClient._init_transport = _init_async  # type: ignore[assignment, method-assign]
