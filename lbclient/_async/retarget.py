"""The request as the backend gets it, built without touching the caller's.

`response.request`, `response.url`, cookies, redirects and logs keep the logical URL, because httpx never sees another.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping

import httpcore
import httpx

from lbclient._async.http11 import Lines
from lbclient.core.backend import Backend
from lbclient.core.facts import Header

MOST_REMEMBERED = 4096  # bytes of header lines
_REDIRECTS = frozenset({201, 300, 301, 302, 303, 305, 307, 308})


class Target:
    """What of a backend goes into every request to it, worked out once.

    Args:
        backend: The backend.
        preserve_host: The `Host` header and the TLS server name stay those of the logical URL.

    Raises:
        httpx.ConnectError: The backend, which was added later, speaks no HTTP. Nothing was sent: others may serve.
    """

    __slots__ = (
        "_host",
        "_last",
        "_origin_url",
        "_preserve_host",
        "_server_name",
        "backend",
        "origin",
        "path",
        "secure",
    )

    def __init__(self, backend: Backend, preserve_host: bool) -> None:
        if backend.scheme not in ("http", "https"):
            raise httpx.ConnectError(
                f"{backend.url} speaks no HTTP; write http:// or https://, or balance connections with lbclient.l4"
            )
        self.backend = backend
        self.secure = backend.scheme == "https"
        scheme = b"https" if self.secure else b"http"
        self.origin = httpcore.Origin(scheme, backend.hostname.encode("ascii"), backend.port)
        self.path = backend.path.encode("ascii")
        self._host = (backend.host or backend.authority).encode("ascii")
        self._server_name = backend.server_name
        self._preserve_host = preserve_host and backend.host is None
        self._last: tuple[list[Header], Lines | None] = [], None
        self._origin_url = f"{backend.scheme}://{backend.authority}".encode("ascii")

    def headers(self, raw: list[Header]) -> list[Header]:
        """The request's headers with the `Host` that the backend expects, as a list of its own."""
        headers = raw.copy()
        if self._preserve_host:
            return headers
        for index, (name, _) in enumerate(headers):  # httpx puts Host first
            if name.lower() == b"host":
                headers[index] = (name, self._host)
                return headers
        return [(b"Host", self._host), *headers]

    def lines(self, raw: list[Header]) -> Lines:
        """The same, written down. Most requests of a client have the headers of the one before: 0.3 us in place of 5.

        Raises:
            httpcore.LocalProtocolError: It would not be HTTP, or could be read in two ways.
        """
        headers, lines = self._last
        if lines is None or raw != headers:
            lines = Lines(self.headers(raw))
            if len(lines.written) <= MOST_REMEMBERED:
                self._last = raw.copy(), lines
        return lines

    def server_name(self, request: httpx.Request) -> str | None:
        """Whom the certificate has to name; None for the backend's own host."""
        sni = request.extensions.get("sni_hostname")
        if sni is not None:
            return str(sni)
        return request.url.host if self._preserve_host else self._server_name

    def request(
        self,
        request: httpx.Request,
        headers: list[Header],
        body: AsyncIterable[bytes],
        timeouts: Mapping[str, float | None],
    ) -> httpcore.Request:
        """For httpcore. Its constructors check and convert what httpx has checked and converted: 9 us a request."""
        url = httpcore.URL.__new__(httpcore.URL)
        url.scheme, url.host, url.port = self.origin.scheme, self.origin.host, self.origin.port
        url.target = self.path + request.url.raw_path
        retargeted = httpcore.Request.__new__(httpcore.Request)
        retargeted.method = request.method.encode("ascii")
        retargeted.url = url
        retargeted.headers = headers
        retargeted.stream = body
        extensions = request.extensions
        if timeouts and timeouts is not extensions.get("timeout"):
            extensions = {**extensions, "timeout": timeouts}
        retargeted.extensions = extensions
        return retargeted

    def httpx_request(
        self, request: httpx.Request, headers: list[Header], body: httpx.AsyncByteStream
    ) -> httpx.Request:
        """For a transport of the caller's (`inner=`)."""
        url = httpx.URL(
            scheme="https" if self.secure else "http",
            host=self.backend.hostname,
            port=self.backend.port,
            raw_path=self.path + request.url.raw_path,
        )
        return httpx.Request(request.method, url, headers=headers, stream=body, extensions=request.extensions)

    def rewrite_location(self, status: int, headers: list[Header], request: httpx.Request) -> list[Header]:
        """A `Location` at the backend's own origin points at the logical one, so that the next request is balanced."""
        if status not in _REDIRECTS:
            return headers
        return [
            (name, self._logical(value, request) if name.lower() == b"location" else value)
            for name, value in headers
        ]

    def _logical(self, location: bytes, request: httpx.Request) -> bytes:
        for own in (self._origin_url, b"%s://%s" % (request.url.raw_scheme, self._host)):
            rest = location[len(own) :]
            if location[: len(own)].lower() == own.lower() and rest[:1] in (b"", b"/", b"?", b"#"):
                logical = b"%s://%s" % (request.url.raw_scheme, request.url.netloc)
                return logical + self._without_prefix(rest)
        return self._without_prefix(location) if location[:1] == b"/" and location[:2] != b"//" else location

    def _without_prefix(self, path: bytes) -> bytes:
        prefix = self.path
        if (
            prefix
            and path.startswith(prefix)
            and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?", b"#")
        ):
            return path[len(prefix) :] or b"/"
        return path
