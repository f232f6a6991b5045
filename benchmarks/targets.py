"""The clients that are compared, by name.

A target makes a fresh client for every slice and says which URL to get. Everything it needs is imported when
the run begins (`resolve`), before anything is measured, so no target finds another set of modules than the
next one.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

LOGICAL_URL = "http://service/"

#: Compared when nobody asks for something else. The first one is the baseline of every ratio.
DEFAULT = (
    "httpx",
    "httpx-unlimited",
    "httpx2",
    "httpx2-unlimited",
    "naive-round-robin",
    "null",
    "lbclient",
    "lbclient:round_robin",
)
BASELINE = DEFAULT[0]


class Response(Protocol):
    @property
    def status_code(self) -> int: ...


class Client(Protocol):
    """As much of `httpx.AsyncClient` as a slice uses."""

    async def get(self, url: str, /) -> Response: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A name, and how to make its client for the backends' URLs: `(client, url to get)`."""

    name: str
    make: Callable[[Sequence[str]], tuple[Client, str]]


def resolve(name: str) -> Target:
    """The target called `name`, its modules imported.

    `lbclient` may name an algorithm and an engine: `lbclient:least_connections`, `lbclient@httpcore`,
    `lbclient:round_robin@native`.

    Raises `ImportError` when what it measures is not installed, `ValueError` when there is no such target.
    """
    if ours := re.fullmatch(r"lbclient(?::(\w+))?(?:@(\w+))?", name):
        return Target(name, _lbclient(algorithm=ours[1], engine=ours[2]))
    plain: dict[str, Callable[[], Callable[[Sequence[str]], tuple[Client, str]]]] = {
        "httpx": lambda: _one_backend(httpx.AsyncClient),
        "httpx-unlimited": lambda: _one_backend(lambda: httpx.AsyncClient(limits=httpx.Limits())),
        "httpx2": _httpx2,
        "httpx2-unlimited": lambda: _httpx2(unlimited=True),
        "naive-round-robin": lambda: _naive_round_robin,
        "null": lambda: _null,
    }
    if name not in plain:
        known = ", ".join((*plain, "lbclient[:algorithm][@engine]"))
        raise ValueError(f"no target {name!r}; there are {known}")
    return Target(name, plain[name]())


def _one_backend(make: Callable[[], Client]) -> Callable[[Sequence[str]], tuple[Client, str]]:
    return lambda urls: (make(), urls[0] + "/")


def _httpx2(*, unlimited: bool = False) -> Callable[[Sequence[str]], tuple[Client, str]]:
    import httpx2

    if unlimited:
        return _one_backend(lambda: httpx2.AsyncClient(limits=httpx2.Limits()))
    return _one_backend(httpx2.AsyncClient)


def _lbclient(*, algorithm: str | None, engine: str | None) -> Callable[[Sequence[str]], tuple[Client, str]]:
    from lbclient import AsyncBalancedTransport, Connect

    options: dict[str, Any] = {}
    if algorithm is not None:
        options["algorithm"] = algorithm
    if engine is not None:
        options["connect"] = Connect(engine=cast(Any, engine))  # it says itself what it does not know

    def make(urls: Sequence[str]) -> tuple[Client, str]:
        transport = AsyncBalancedTransport(list(urls), **options)
        return httpx.AsyncClient(transport=transport), LOGICAL_URL

    return make


# What one writes in ten minutes: correct as long as nothing fails, and the floor of "balancing on top".


class _NaiveRoundRobin(httpx.AsyncBaseTransport):
    def __init__(self, urls: Sequence[str]) -> None:
        self._backends = [(httpx.URL(url), httpx.AsyncHTTPTransport()) for url in urls]
        self._turn = itertools.cycle(self._backends)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        backend, inner = next(self._turn)
        request.url = request.url.copy_with(scheme=backend.scheme, host=backend.host, port=backend.port)
        return await inner.handle_async_request(request)

    async def aclose(self) -> None:
        for _, inner in self._backends:
            await inner.aclose()


def _naive_round_robin(urls: Sequence[str]) -> tuple[Client, str]:
    return httpx.AsyncClient(transport=_NaiveRoundRobin(urls)), LOGICAL_URL


# httpx itself with nothing below it: no transport can be cheaper than this.


class _MemoryStream(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"b1 ok"


class _Null(httpx.AsyncBaseTransport):
    _headers = (
        (b"Server", b"nginx"),
        (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"Content-Type", b"text/plain"),
        (b"Content-Length", b"5"),
        (b"Connection", b"keep-alive"),
    )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        extensions = {"http_version": b"HTTP/1.1"}
        return httpx.Response(200, headers=self._headers, stream=_MemoryStream(), extensions=extensions)


def _null(urls: Sequence[str]) -> tuple[Client, str]:
    return httpx.AsyncClient(transport=_Null()), LOGICAL_URL
