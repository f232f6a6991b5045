"""What the registries that speak HTTP have in common: a client of their own, lines of JSON, and errors with words."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import anyio
import httpx

Json: TypeAlias = dict[str, Any]
Verify: TypeAlias = bool | str | ssl.SSLContext
Cert: TypeAlias = str | tuple[str, str]

LONGEST_WORDS = 300
# A watch may be silent for hours. That nobody is there any more is for the kernel to find out: within a minute.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)  # Linux
    ),
]


class RegistryError(Exception):
    """A registry answered, and what it said is no answer.

    Attributes:
        status: The HTTP status of that; 200 when it was fine.
    """

    def __init__(self, words: str, status: int = 200) -> None:
        super().__init__(words)
        self.status = status


def ssl_context(verify: Verify, cert: Cert | None = None) -> ssl.SSLContext:
    """What `verify` and `cert` stand for.

    Args:
        verify: A context, the path of a file with authorities, True for those of the system, or False for nobody.
        cert: The path of a certificate with its key, or of both.
    """
    if isinstance(verify, ssl.SSLContext):
        context = verify
    else:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


def new_client(
    base_url: str, context: ssl.SSLContext | bool, timeout: float, headers: Mapping[str, str] | None = None
) -> httpx.AsyncClient:
    """A client for one registry: no proxy, no environment, nothing shared with anybody.

    Args:
        base_url: Where the registry is.
        context: For https.
        timeout: Seconds for each phase of a request.
        headers: Sent with every request.
    """
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False, socket_options=_KEEPALIVE)
    return httpx.AsyncClient(
        transport=transport, base_url=base_url, headers=headers, timeout=timeout, trust_env=False
    )


async def check(response: httpx.Response) -> None:
    """That the registry did as it was asked.

    Raises:
        RegistryError: It did not; the message has its own words.
    """
    if not response.is_success:
        await response.aread()
        words = response.text.strip()[:LONGEST_WORDS]
        code = response.status_code
        raise RegistryError(f"{code} {response.reason_phrase}: {words or 'no words'}", code)


def as_object(text: bytes | str) -> Json:
    """A JSON object.

    Raises:
        RegistryError: It is something else.
    """
    found = _decoded(text)
    if not isinstance(found, dict):
        raise RegistryError(f"no JSON object, but {text[:80]!r}")
    return cast("Json", found)


def as_list(text: bytes | str) -> list[Json]:
    """A JSON array of objects.

    Raises:
        RegistryError: It is something else.
    """
    found = _decoded(text)
    if not isinstance(found, list):
        raise RegistryError(f"no JSON array, but {text[:80]!r}")
    return cast("list[Json]", found)


def _decoded(text: bytes | str) -> object:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise RegistryError(f"no JSON, but {text[:80]!r}") from exc


@asynccontextmanager
async def pieces_of(response: httpx.Response) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """The body of a response as it comes, for a loop that may be left at any time.

    A generator of httpcore's that is left in the middle stays to the garbage collector, of which trio complains. Only
    what is raised where it reads ends it and all those around it: here, a cancellation.
    """
    pieces = response.aiter_bytes()
    try:
        yield pieces
    finally:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async for _ in pieces:
                pass


class Lines:
    """Whole lines of a stream that comes in pieces. What a cut leaves of the last line is no line."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes."""
        first, newline, others = piece.partition(b"\n")
        self._rest.append(first)
        if not newline:
            return []
        *whole, rest = others.split(b"\n")
        lines = [b"".join(self._rest), *whole]
        self._rest = [rest]
        return [line for line in lines if line.strip()]
