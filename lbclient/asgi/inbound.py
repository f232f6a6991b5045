"""A request as it came to us: what of it goes on to a backend, and what of the response goes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import httpx

from lbclient.asgi.forwarding import Client, client_of, forwarded_headers
from lbclient.asgi.framing import Asked, asked_of
from lbclient.asgi.headers import end_to_end, request_headers, via
from lbclient.asgi.outgoing import RawURL, raw_request
from lbclient.asgi.rewriting import rewritten, seen_from
from lbclient.asgi.settings import Settings
from lbclient.asgi.types import Scope
from lbclient.core.facts import Header

_NO_TRAILERS = frozenset({b"content-length", b"host", b"set-cookie"})  # RFC 9110, 6.5.1


class Inbound:
    """A request as it came to us, and what of it goes on.

    Args:
        scope: ASGI's.
        settings: The proxy's.
        strip_root_path: See `asked_of`.

    Raises:
        Refusal: It has two meanings, or none.
    """

    def __init__(self, scope: Scope, settings: Settings, strip_root_path: bool) -> None:
        self.scope = scope
        self.settings = settings
        self.asked: Asked = asked_of(scope, strip_root_path)
        self.client: Client = client_of(scope, settings.trust, settings.client_from)
        self.version: str = scope.get("http_version", "1.1")

    @property
    def url(self) -> RawURL:
        """What the client asked for, less what we are mounted at."""
        return RawURL("https" if self.client.secure else "http", self.client.host, self.asked.target)

    def headers(self) -> list[Header]:
        """The headers that go on; host and framing are still to be added."""
        headers = request_headers(self.scope["headers"])
        headers = forwarded_headers(
            headers, self.client, self.asked.host, self.asked.prefix, self.settings.forwarded
        )
        if self.settings.via is not None:
            headers.append(via(self.version, self.settings.via))
        return headers

    def options(self) -> dict[str, object]:
        """What the balancer is told of the request."""
        options: dict[str, object] = {}
        if self.client.ip is not None:
            options["client_ip"] = self.client.ip
        if self.settings.deadline is not None:
            options["deadline"] = self.settings.deadline
        return options

    def request(
        self, method: str, framing: list[Header], headers: list[Header], stream: httpx.AsyncByteStream
    ) -> httpx.Request:
        """The request for the balanced transport."""
        extensions = {"lbclient": self.options(), "timeout": self.settings.timeouts}
        return raw_request(
            method, self.url, [(b"host", self.asked.host), *headers, *framing], stream, extensions
        )

    def response_headers(self, response: httpx.Response) -> list[Header]:
        """The headers that go back."""
        raw = response.headers.raw
        headers = _framed_once(end_to_end(raw), raw)
        settings = self.settings
        if settings.rewrite_location or settings.rewrite_cookies:
            url = self.url
            origin = b"%s://%s" % (url.raw_scheme, url.netloc)
            seen = seen_from(origin, self.asked.prefix, response.extensions["lbclient"].backend or "")
            headers = rewritten(headers, seen, settings.rewrite_location, settings.rewrite_cookies)
        if settings.via is not None:
            version: bytes = response.extensions.get("http_version", b"HTTP/1.1")
            headers.append(via(version.decode("ascii").partition("/")[2], settings.via))
        return headers


def parts_of(response: httpx.Response) -> aclosing[AsyncGenerator[bytes]]:
    """The body of a response, to be iterated over in an `async with`: on trio a generator has to be closed."""
    return aclosing(cast("AsyncGenerator[bytes]", aiter(cast("httpx.AsyncByteStream", response.stream))))


def trailers_of(response: httpx.Response) -> list[Header]:
    """What followed a response's body, where its engine keeps that; what frames or routes may not stand there."""
    told: list[Header] | None = response.extensions.get("trailers")
    stream = response.extensions.get("network_stream")
    raw: list[Header] = told or (stream and stream.get_extra_info("trailers")) or []
    return [header for header in end_to_end(raw) if header[0] not in _NO_TRAILERS]


def _framed_once(headers: list[Header], raw: list[Header]) -> list[Header]:
    """Of repeated lengths (which agree, or the response had been refused) one; next to chunks none."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if not lengths:
        return headers
    headers = [header for header in headers if header[0] != b"content-length"]
    if not any(name.lower() == b"transfer-encoding" for name, _ in raw):
        headers.append((b"content-length", lengths[0].partition(b",")[0].strip(b" \t")))
    return headers
