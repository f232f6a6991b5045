"""The request that goes to a backend, made from ASGI's scope: header pairs, path and query byte for byte.

`httpx.Request` and `httpx.URL` normalise what they are given, which is right for a client that writes requests and
wrong for a proxy that passes them on. So both are made here without their constructors.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import cached_property
from typing import Any, cast

import httpx

from lbclient._async.engine import Answer
from lbclient._async.streams import BalancedStream
from lbclient._async.transport import AsyncBalancedTransport
from lbclient.core.facts import Header


class RawURL(httpx.URL):
    """The URL that a client asked for, with the target as it wrote it.

    Args:
        scheme: "http" or "https".
        netloc: Host and port.
        raw_path: Path and query.
    """

    def __init__(self, scheme: str, netloc: bytes, raw_path: bytes) -> None:
        self._scheme = scheme
        self._netloc = netloc
        self._raw_path = raw_path

    @cached_property
    def _uri_reference(self) -> Any:  # type: ignore[override]  # httpx writes it in its constructor
        """Httpx's own idea of it, for whatever else somebody asks of a URL."""
        url = httpx.URL(f"{self._scheme}://{self._netloc.decode('ascii')}")
        return url.copy_with(raw_path=self._raw_path)._uri_reference

    @property
    def scheme(self) -> str:
        """See `httpx.URL`."""
        return self._scheme

    @property
    def raw_scheme(self) -> bytes:
        """See `httpx.URL`."""
        return self._scheme.encode("ascii")

    @property
    def netloc(self) -> bytes:
        """See `httpx.URL`."""
        return self._netloc

    @property
    def host(self) -> str:
        """See `httpx.URL`: no port, and no brackets."""
        host = self._netloc.decode("ascii")
        if host.startswith("["):
            return host[1:].partition("]")[0]
        return host.partition(":")[0]

    @property
    def raw_path(self) -> bytes:
        """See `httpx.URL`."""
        return self._raw_path


class RawRequest(httpx.Request):
    """An `httpx.Request` that is just this, and nothing added.

    Args:
        method: Its method.
        url: Its URL.
        raw: Its headers, as they go out. `headers` are made of them when somebody asks.
        stream: Its body.
        extensions: Its extensions.
    """

    def __init__(
        self,
        method: str,
        url: RawURL,
        raw: list[Header],
        stream: httpx.AsyncByteStream,
        extensions: dict[str, Any],
    ) -> None:
        self.method = method
        self.url = url
        self.raw = raw
        self.stream = stream
        self.extensions = extensions

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]  # httpx writes it in its constructor
        """See `httpx.Request`."""
        return httpx.Headers(self.raw)


def ask(transport: AsyncBalancedTransport, request: RawRequest) -> Awaitable[Answer]:
    """What a transport answers to a request: in header pairs, unless a subclass of it wants to see httpx's objects."""
    if type(transport).handle_async_request is AsyncBalancedTransport.handle_async_request:
        return transport.answer(request, request.raw)
    return _by_httpx(transport, request)


async def _by_httpx(transport: AsyncBalancedTransport, request: RawRequest) -> Answer:
    response = await transport.handle_async_request(request)
    stream = cast("httpx.AsyncByteStream", response.stream)
    return Answer(response.status_code, response.headers.raw, stream, response.extensions, None)


def whole_body(answer: Answer) -> bytes | None:
    """All of an answer's body, when all of it has come already: it is only to be closed then. None when not."""
    stream = answer.stream
    return stream.whole() if isinstance(stream, BalancedStream) else None


async def close(answer: Answer) -> None:
    """The end of an answer, or the loss of interest in it."""
    await cast("httpx.AsyncByteStream", answer.stream).aclose()
