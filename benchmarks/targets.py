"""The clients that are compared, by name.

A target makes a fresh client for every slice and says which origin to ask. Everything it needs is imported when
the run begins (`resolve`), before anything is measured, so no target finds another set of modules than the
next one.
"""

from __future__ import annotations

import importlib
import itertools
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import httpx

from benchmarks.proxies import PROXIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from benchmarks.workloads import Scene

LOGICAL_URL = "http://service"
OURS = r"lbclient(?::(\w+))?(?:@(\w+))?"

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
    "lbclient@httpcore",
    "httpx-aiohttp",
    "pyreqwest",
    "via-nginx",
    "via-haproxy",
    "via-envoy",
    "via-sidecar",
)
BASELINE = DEFAULT[0]

#: The same, of those that have a client for threads.
IN_THREADS = ("httpx", "httpx-unlimited", "httpx2", "httpx2-unlimited", "lbclient", "lbclient@httpcore")

#: Seconds that idle connections stay open where a workload names their number.
KEPT = 300.0


class Response(Protocol):
    @property
    def status_code(self) -> int: ...


class Client(Protocol):
    """As much of `httpx.AsyncClient` as a slice uses."""

    async def request(self, method: str, url: str, /, *, content: bytes | None = None) -> Response: ...

    async def aclose(self) -> None: ...


class BlockingClient(Protocol):
    """As much of `httpx.Client` as a slice uses."""

    def request(self, method: str, url: str, /, *, content: bytes | None = None) -> Response: ...

    def close(self) -> None: ...


Made: TypeAlias = "tuple[Client, str]"
MadeForThreads: TypeAlias = "tuple[BlockingClient, str]"


@dataclass(frozen=True, slots=True)
class Target:
    """A name, how to make its client for a scene (with the origin to ask), and the proxy that it goes through."""

    name: str
    make: Callable[[Scene], Made]
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class ThreadsTarget:
    """The same for threads."""

    name: str
    make: Callable[[Scene], MadeForThreads]
    proxy: None = None


def resolve_for_threads(name: str) -> ThreadsTarget:
    """As `resolve`, with a client that blocks."""
    if ours := re.fullmatch(OURS, name):
        return ThreadsTarget(name, _lbclient(algorithm=ours[1], engine=ours[2], blocking=True))
    if name not in IN_THREADS:
        raise ValueError(f"no target {name!r} for threads; there are {', '.join(IN_THREADS)}")
    module = importlib.import_module(name.removesuffix("-unlimited"))
    unlimited = name.endswith("-unlimited")
    return ThreadsTarget(name, partial(_one_backend, module, unlimited=unlimited, blocking=True))


def resolve(name: str) -> Target:
    """The target called `name`, its modules imported.

    `lbclient` may name an algorithm and an engine: `lbclient:least_connections`, `lbclient@httpcore`,
    `lbclient:round_robin@native`.

    Raises `ImportError` when what it measures is not installed, `ValueError` when there is no such target.
    """
    if ours := re.fullmatch(OURS, name):
        return Target(name, _lbclient(algorithm=ours[1], engine=ours[2]))
    if name.startswith("via-") and (proxy := name.removeprefix("via-")) in PROXIES:
        return Target(name, partial(_through, proxy), proxy)
    plain: dict[str, Callable[[], Callable[[Scene], Made]]] = {
        "httpx": lambda: partial(_one_backend, httpx),
        "httpx-unlimited": lambda: partial(_one_backend, httpx, unlimited=True),
        "httpx2": _httpx2,
        "httpx2-unlimited": lambda: partial(_httpx2(), unlimited=True),
        "httpx-aiohttp": _aiohttp,
        "pyreqwest": _pyreqwest,
        "naive-round-robin": lambda: _naive_round_robin,
        "null": lambda: _null,
    }
    if name not in plain:
        known = ", ".join((*plain, *(f"via-{proxy}" for proxy in PROXIES), "lbclient[:algorithm][@engine]"))
        raise ValueError(f"no target {name!r}; there are {known}")
    return Target(name, plain[name]())


def _one_backend(
    module: Any, scene: Scene, *, unlimited: bool = False, blocking: bool = False
) -> tuple[Any, str]:
    """The client of httpx, or of httpx2, for the first of the backends."""
    kind = module.Client if blocking else module.AsyncClient
    return kind(**_options(module, scene, unlimited=unlimited)), scene.urls[0]


def _through(proxy: str, scene: Scene) -> Made:
    if proxy not in scene.proxies:
        raise NotComparable("the proxies speak HTTP/1.1 without TLS")
    return httpx.AsyncClient(**_options(httpx, scene)), scene.proxies[proxy].url


def _options(module: Any, scene: Scene, *, unlimited: bool = False) -> dict[str, Any]:
    options: dict[str, Any] = {"http2": scene.workload.http2}
    if scene.ssl_context is not None:
        options["verify"] = scene.ssl_context
    most = scene.workload.connections
    if most is not None:
        options["limits"] = module.Limits(
            max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEPT
        )
    elif scene.workload.cold:
        options["limits"] = module.Limits(
            max_connections=None if unlimited else 100, max_keepalive_connections=0
        )
    elif unlimited:
        options["limits"] = module.Limits()
    return options


def _httpx2() -> Callable[..., Made]:
    import httpx2

    return partial(_one_backend, httpx2)


def _aiohttp() -> Callable[[Scene], Made]:
    import aiohttp
    from httpx_aiohttp import AiohttpTransport

    def make(scene: Scene) -> Made:
        if scene.workload.http2:
            raise NotComparable("aiohttp speaks HTTP/1.1")

        def session() -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(
                limit=0, force_close=scene.workload.cold, ssl=scene.ssl_context or True
            )
            return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

        return httpx.AsyncClient(transport=AiohttpTransport(client=session)), scene.urls[0]

    return make


def _pyreqwest() -> Callable[[Scene], Made]:
    from pyreqwest.compatibility.httpx import HttpxTransport

    def make(scene: Scene) -> Made:
        if scene.ssl_context is not None or scene.workload.cold:
            raise NotComparable("its own TLS and its own idea of keep-alive")
        return httpx.AsyncClient(transport=HttpxTransport()), scene.urls[0]

    return make


class NotComparable(Exception):
    """This target does not do what the workload asks for."""


def _lbclient(
    *, algorithm: str | None, engine: str | None, blocking: bool = False
) -> Callable[[Scene], tuple[Any, str]]:
    from lbclient import AsyncBalancedTransport, BalancedTransport, Connect

    options: dict[str, Any] = {} if algorithm is None else {"algorithm": algorithm}
    connect: dict[str, Any] = {} if engine is None else {"engine": cast(Any, engine)}
    Connect(**connect)  # it says itself what it does not know

    def make(scene: Scene) -> tuple[Any, str]:
        if engine == "native" and scene.workload.http2:
            raise NotComparable("the native engine speaks HTTP/1.1")
        how: dict[str, Any] = {**connect, "http2": scene.workload.http2}
        if scene.ssl_context is not None:
            how["verify"] = scene.ssl_context
        if scene.workload.cold:
            how["max_idle"] = 0
        if scene.workload.connections is not None:
            most = scene.workload.connections
            how |= {"max_connections": most, "max_idle": most, "keepalive_expiry": KEPT}
        urls, all_options = list(scene.urls), {"connect": Connect(**how), **options}
        if blocking:
            return httpx.Client(transport=BalancedTransport(urls, **all_options)), LOGICAL_URL
        return httpx.AsyncClient(transport=AsyncBalancedTransport(urls, **all_options)), LOGICAL_URL

    return make


# What one writes in ten minutes: correct as long as nothing fails, and the floor of "balancing on top".


class _NaiveRoundRobin(httpx.AsyncBaseTransport):
    def __init__(self, scene: Scene) -> None:
        options = _options(httpx, scene)
        self._backends = [(httpx.URL(url), httpx.AsyncHTTPTransport(**options)) for url in scene.urls]
        self._turn = itertools.cycle(self._backends)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        backend, inner = next(self._turn)
        request.url = request.url.copy_with(scheme=backend.scheme, host=backend.host, port=backend.port)
        return await inner.handle_async_request(request)

    async def aclose(self) -> None:
        for _, inner in self._backends:
            await inner.aclose()


def _naive_round_robin(scene: Scene) -> Made:
    return httpx.AsyncClient(transport=_NaiveRoundRobin(scene)), LOGICAL_URL


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


def _null(scene: Scene) -> Made:
    return httpx.AsyncClient(transport=_Null()), LOGICAL_URL
