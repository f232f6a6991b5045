"""The request that goes to a backend, made from ASGI's scope: header pairs, path and query byte for byte.

`httpx.Request` and `httpx.URL` normalise what they are given, which is right for a client that writes requests and
wrong for a proxy that passes them on. So both are made here without their constructors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx

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


def raw_request(
    method: str,
    url: RawURL,
    headers: list[Header],
    stream: httpx.AsyncByteStream,
    extensions: Mapping[str, Any],
) -> httpx.Request:
    """An `httpx.Request` that is just this, and nothing added."""
    request = httpx.Request.__new__(httpx.Request)
    request.method = method
    request.url = url
    request.headers = httpx.Headers(headers)
    request.extensions = dict(extensions)
    request.stream = stream
    return request
