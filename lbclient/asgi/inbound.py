"""A request as it came to us: what of it goes on to a backend, and what of the response goes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import httpx

from lbclient.asgi.forwarding import Client, client_of, forwarded_headers
from lbclient.asgi.framing import Asked, asked_of
from lbclient.asgi.headers import RequestFields, ResponseFields, end_to_end, via
from lbclient.asgi.outgoing import RawRequest, RawURL
from lbclient.asgi.rewriting import rewritten, seen_from
from lbclient.asgi.settings import Settings
from lbclient.asgi.types import Scope
from lbclient.core.facts import Header

TRAILERS = "http.response.trailers"
"""The extension of a scope, and the message: what follows a body."""
_NO_TRAILERS = frozenset({b"content-length", b"host", b"set-cookie"})  # RFC 9110, 6.5.1


class Inbound:
    """A request as it came to us, and what of it goes on.

    Args:
        scope: ASGI's.
        fields: Its headers.
        settings: The proxy's.
        strip_root_path: See `asked_of`.

    Raises:
        Refusal: It has two meanings, or none.

    Attributes:
        asked: What the client asked for, less what we are mounted at.
        client: Who that is.
        url: Both together.
    """

    def __init__(
        self, scope: Scope, fields: RequestFields, settings: Settings, strip_root_path: bool
    ) -> None:
        self.scope = scope
        self.fields = fields
        self.settings = settings
        self.asked: Asked = asked_of(scope, fields, strip_root_path)
        host = fields.hosts[0] if fields.hosts else b""
        self.client: Client = client_of(scope, settings.trust, settings.client_from, host)
        self.url = RawURL("https" if self.client.secure else "http", self.client.host, self.asked.target)

    def headers(self) -> list[Header]:
        """The headers that go on; host and framing are still to be added."""
        fields, settings = self.fields, self.settings
        headers = forwarded_headers(
            fields.passed,
            self.client,
            self.asked.host,
            self.asked.prefix,
            settings.forwarded,
            fields.about_client,
        )
        if settings.via is not None:
            headers.append(via(self.scope.get("http_version", "1.1"), settings.via))
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
    ) -> RawRequest:
        """The request for the balanced transport."""
        extensions = {"lbclient": self.options(), "timeout": self.settings.timeouts}
        raw = [(b"host", self.asked.host), *headers, *framing]
        return RawRequest(method, self.url, raw, stream, extensions)

    def returned(self, headers: list[Header], extensions: Mapping[str, Any]) -> Returned:
        """What of a response's head goes back.

        Args:
            headers: As they came.
            extensions: The response's.
        """
        settings = self.settings
        fields = ResponseFields(headers)
        passed = fields.passed
        if fields.placed and (settings.rewrite_location or settings.rewrite_cookies):
            origin = b"%s://%s" % (self.url.raw_scheme, self.url.netloc)
            seen = seen_from(origin, self.asked.prefix, extensions["lbclient"].backend or "")
            passed = rewritten(passed, seen, settings.rewrite_location, settings.rewrite_cookies)
        if fields.length is not None:
            passed.append((b"content-length", fields.length))
        if settings.via is not None:
            passed.append(via(extensions.get("http_version", b"HTTP/1.1"), settings.via))
        return Returned(passed, None if fields.length is None else int(fields.length), fields.trailer)


@dataclass(slots=True)
class Returned:
    """A response's head on its way back.

    Attributes:
        headers: What the client gets.
        length: Of the body; None when only its end will tell (RFC 9112, 6.3).
        trailer: What may follow it, as the backend has announced it.
    """

    headers: list[Header]
    length: int | None
    trailer: list[bytes]


def parts_of(stream: AsyncIterable[bytes]) -> aclosing[AsyncGenerator[bytes]]:
    """The body of a response, to be iterated over in an `async with`: on trio a generator has to be closed."""
    return aclosing(cast("AsyncGenerator[bytes]", aiter(stream)))


def trailers_of(extensions: Mapping[str, Any]) -> list[Header]:
    """What followed a response's body, where its engine keeps that; what frames or routes may not stand there."""
    told: list[Header] | None = extensions.get("trailers")
    stream = extensions.get("network_stream")
    raw: list[Header] = told or (stream and stream.get_extra_info("trailers")) or []
    return [header for header in end_to_end(raw) if header[0] not in _NO_TRAILERS] if raw else raw
