"""A plugin for the test suites of httpx and httpcore: what they would send over connections of their own goes through
lbclient.

Each origin is a pool of one backend that sees the logical host, and nothing is sent twice. Proxies, Unix sockets and
mock networks are left to the original.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpcore
import httpx
import httpx._client
from httpx._config import DEFAULT_LIMITS

from lbclient import AsyncBalancedTransport, BalancedTransport, Connect, Pool

SCHEMES = ("http", "https")


def pool_of(url: str, limits: httpx.Limits, **options: Any) -> Pool:
    """The pool of an origin."""
    connect = Connect(
        max_connections=limits.max_connections,
        max_idle=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        **options,
    )
    return Pool([url], connect=connect, retry=None, passive=None, preserve_host=True)


def origin_of(url: httpx.URL) -> str:
    """Its URL."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


class AsyncTransport(httpx.AsyncHTTPTransport):
    """In place of `httpx.AsyncHTTPTransport`."""

    def __init__(
        self,
        verify: Any = True,
        cert: Any = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = DEFAULT_LIMITS,
        proxy: Any = None,
        uds: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__(verify, cert, trust_env, http1, http2, limits, proxy, uds, **others)
        self._is_ours = proxy is None and uds is None
        self._limits = limits
        self._options = {"verify": verify, "cert": cert, "http1": http1, "http2": http2}
        self._balanced: dict[str, AsyncBalancedTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Through lbclient."""
        if not self._is_ours or request.url.scheme not in SCHEMES:
            return await super().handle_async_request(request)
        url = origin_of(request.url)
        if url not in self._balanced:
            self._balanced[url] = AsyncBalancedTransport(pool_of(url, self._limits, **self._options))
        return await self._balanced[url].handle_async_request(request)

    async def __aexit__(self, *raised: Any) -> None:
        await super().__aexit__(*raised)
        await self.aclose()

    async def aclose(self) -> None:
        """Close both."""
        await super().aclose()
        for transport in self._balanced.values():
            await transport.aclose()


class Transport(httpx.HTTPTransport):
    """In place of `httpx.HTTPTransport`."""

    def __init__(
        self,
        verify: Any = True,
        cert: Any = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = DEFAULT_LIMITS,
        proxy: Any = None,
        uds: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__(verify, cert, trust_env, http1, http2, limits, proxy, uds, **others)
        self._is_ours = proxy is None and uds is None
        self._limits = limits
        self._options = {"verify": verify, "cert": cert, "http1": http1, "http2": http2}
        self._balanced: dict[str, BalancedTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Through lbclient."""
        if not self._is_ours or request.url.scheme not in SCHEMES:
            return super().handle_request(request)
        url = origin_of(request.url)
        if url not in self._balanced:
            self._balanced[url] = BalancedTransport(pool_of(url, self._limits, **self._options))
        return self._balanced[url].handle_request(request)

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self.close()

    def close(self) -> None:
        """Close both."""
        super().close()
        for transport in self._balanced.values():
            transport.close()


class Stream(httpx.AsyncByteStream):
    """A body of httpcore's."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._parts)


class AsyncConnectionPool(httpcore.AsyncConnectionPool):
    """In place of `httpcore.AsyncConnectionPool`, where a test goes over a real network."""

    def __init__(self, ssl_context: Any = None, **options: Any) -> None:
        super().__init__(ssl_context, **options)
        self._balanced: AsyncTransport | None = None
        if not {"network_backend", "proxy", "uds"} & options.keys():
            verify = True if ssl_context is None else ssl_context
            self._balanced = AsyncTransport(verify, http2=options.get("http2", False))

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Through lbclient."""
        if self._balanced is None or request.url.scheme.decode() not in SCHEMES:
            return await super().handle_async_request(request)
        url = request.url
        response = await self._balanced.handle_async_request(
            httpx.Request(
                request.method.decode(),
                httpx.URL(
                    scheme=url.scheme.decode(), host=url.host.decode(), port=url.port, raw_path=url.target
                ),
                headers=request.headers,
                stream=Stream(request.stream),
                extensions=request.extensions,
            )
        )
        return httpcore.Response(
            response.status_code,
            headers=response.headers.raw,
            content=response.stream,
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close both."""
        await super().aclose()
        if self._balanced is not None:
            await self._balanced.aclose()


replaced: Any
for replaced in (httpx, httpx._client):
    replaced.AsyncHTTPTransport, replaced.HTTPTransport = AsyncTransport, Transport
replaced = httpcore
replaced.AsyncConnectionPool = AsyncConnectionPool
