"""`ClientContextMiddleware`: what a service asks of others while it serves somebody, it asks for that somebody."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from lbclient.asgi.forwarding import ClientFrom, Trust, client_of
from lbclient.asgi.refusals import STARTS
from lbclient.asgi.types import App, Message, Receive, Scope, Send
from lbclient.context import ClientContext, on_behalf_of
from lbclient.core.checks import check_number
from lbclient.core.cookies import COOKIE_NAME, cookie_values
from lbclient.core.facts import Header

_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class ClientContextMiddleware:
    """Lends the incoming request's client to the balanced requests that are sent while it is served.

    They hash on the end client's address (`key="client_ip"`), are tied by its affinity cookies, which go back to it
    with the response, and have no more time than it gave. What a request says itself, in `extensions["lbclient"]`,
    counts first.

    Args:
        app: The service.
        trusted: As in `ReverseProxy`: whose word about the client's address counts.
        client_from: Likewise.
        affinity_cookies: The names of the cookies of the pools' `CookieAffinity` that are the end client's to keep.
        deadline: Seconds that a request may take; None for no limit.
        deadline_header: A header in which a client says how long it waits: in seconds; in milliseconds, if its name
            ends with "-ms"; or in the form of `grpc-timeout`. The shorter of both counts; what cannot be read is
            ignored.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    def __init__(
        self,
        app: App,
        *,
        trusted: Iterable[str] = (),
        client_from: ClientFrom = "x-forwarded-for",
        affinity_cookies: Iterable[str] = ("LBCLIENT",),
        deadline: float | None = None,
        deadline_header: str | None = None,
    ) -> None:
        self.app = app
        self._trust = Trust(trusted)
        self._client_from: ClientFrom = client_from
        if isinstance(affinity_cookies, str):
            raise TypeError(f"affinity_cookies is {affinity_cookies!r}; write a collection of names")
        self._cookies = tuple(affinity_cookies)
        for name in self._cookies:
            if not COOKIE_NAME.fullmatch(name):
                raise ValueError(f"affinity_cookies has {name!r}, which cannot be a cookie's name")
        self._deadline = None if deadline is None else check_number("deadline", deadline, above=0)
        self._header: bytes | None = None
        if deadline_header is not None:
            if not _HEADER.fullmatch(deadline_header):
                raise ValueError(f"deadline_header is {deadline_header!r}, which cannot be a header's name")
            self._header = deadline_header.lower().encode("ascii")
            self._read = _reader(deadline_header.lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers: Sequence[Header] = scope["headers"]
        client = client_of(scope, self._trust, self._client_from)
        context = ClientContext(
            client.ip,
            deadline=self._patience(headers),
            cookies=[
                (b"cookie", f"{name}={value}".encode("latin-1"))
                for name in self._cookies
                for value in cookie_values(headers, name)
            ],
            affinity_cookies=self._cookies,
        )

        async def sending(message: Message) -> None:
            if message["type"] in STARTS and context.set_cookies:
                new = [
                    _secured(header) if client.secure else header for header in context.set_cookies.values()
                ]
                message = {**message, "headers": [*message.get("headers", ()), *new]}
            await send(message)

        with on_behalf_of(context):
            await self.app(scope, receive, sending)

    def _patience(self, headers: Sequence[Header]) -> float | None:
        """Seconds that the client waits, as far as anybody has said."""
        told = None
        if self._header is not None:
            value = next((value for name, value in headers if name == self._header), b"")
            told = self._read(value.decode("latin-1").strip())
        known = [seconds for seconds in (self._deadline, told) if seconds is not None]
        return min(known, default=None)


def _reader(name: str) -> Callable[[str], float | None]:
    if name == "grpc-timeout":
        return _grpc
    unit = 1e-3 if name.endswith("-ms") else 1.0
    return lambda value: float(value) * unit if _NUMBER.fullmatch(value) else None


def _grpc(value: str) -> float | None:
    match = _GRPC.fullmatch(value)
    return None if match is None else int(match[1]) * _GRPC_UNITS[match[2]]


def _secured(header: Header) -> Header:
    """The transport saw an inner URL without TLS; the end client has it."""
    name, value = header
    attributes = {attribute.strip().lower() for attribute in value.split(b";")[1:]}
    return header if b"secure" in attributes else (name, value + b"; Secure")
