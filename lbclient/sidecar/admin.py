"""Where operators look and act: an ASGI app of its own, on an address of its own.

Who may: without a token everybody who can reach the address, which is one of this machine then. Web pages can reach it
too, through the browser of somebody on this machine; so what changes something has to be JSON (which a page of another
origin may not send), and the `Host` has to be one of ours (which it is not after DNS rebinding).
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lbclient.asgi.types import App, Receive, Scope, Send
from lbclient.sidecar.document import Document
from lbclient.sidecar.operations import Drain, Flip, OneBackend, Unknown, Weight, Weights
from lbclient.sidecar.problems import problems_of
from lbclient.sidecar.section import Section
from lbclient.sidecar.status import status_of

if TYPE_CHECKING:
    from lbclient.sidecar.sidecar import Sidecar

T = TypeVar("T", bound=Section)

TELL_EVERY = 1.0  # seconds, to those who watch
TELL_AFTER = 0.05  # seconds after a change: more may come with it

_OPEN = ("/", "/dashboard.css", "/dashboard.js", "/health", "/ready")  # nothing of them is a secret
_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript"}
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Watchers:
    """Those who want to hear of every change at once."""

    def __init__(self) -> None:
        self._events: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self) -> None:
        """Something has changed; from any thread."""
        if self._events and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for event in self._events:
            event.set()

    async def changes(self) -> AsyncIterator[None]:
        """Once now, after every change, and every `TELL_EVERY` seconds."""
        self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._events.add(event)
        try:
            while True:
                yield
                try:
                    async with asyncio.timeout(TELL_EVERY):
                        await event.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(TELL_AFTER)
                event.clear()
        finally:
            self._events.discard(event)


def admin_app(sidecar: Sidecar) -> App:
    """The app.

    Args:
        sidecar: Which one it administers.
    """
    operations = sidecar.operations

    async def status(request: Request) -> Response:
        return JSONResponse(status_of(sidecar, history="brief" not in request.query_params))

    async def events(_: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            async for _ in sidecar.watchers.changes():
                yield f"data: {json.dumps(status_of(sidecar))}\n\n"
                if sidecar.leaving:
                    return

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(sidecar.registry), media_type=CONTENT_TYPE_LATEST)

    async def health(_: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def ready(_: Request) -> Response:
        if sidecar.leaving:
            return Response("leaving\n", 503, media_type="text/plain")
        nobody = [
            pool.name
            for pool in sidecar.traffic.pools.values()
            if not any(backend.available for backend in pool.status().backends)
        ]
        if nobody:
            return Response(f"nobody is available in {', '.join(nobody)}\n", 503, media_type="text/plain")
        return Response("ready\n", media_type="text/plain")

    async def drain(request: Request) -> Response:
        operation = await operations.drain(request.path_params["name"], await _body(request, Drain))
        return JSONResponse(operation.as_dict(), 202 if operation.state == "running" else 200)

    async def swap(request: Request) -> Response:
        operation = await operations.swap(request.path_params["name"], await _body(request, Flip))
        return JSONResponse(operation.as_dict(), 202 if operation.state == "running" else 200)

    def at_once(act: Callable[[str, T], None], model: type[T]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            act(request.path_params["name"], await _body(request, model))
            return Response(status_code=204)

        return endpoint

    async def reload(request: Request) -> Response:
        await _body(request, Section)
        if await sidecar.reload():
            return Response(status_code=204)
        return JSONResponse({"error": sidecar.trouble or "the sidecar is about to end"}, 409)

    pool = "/pools/{name}"
    routes = [
        *(Route(path, _file(name)) for path, name in _FILES.items()),
        Route("/status", status),
        Route("/events", events),
        Route("/metrics", metrics),
        Route("/health", health),
        Route("/ready", ready),
        Route("/reload", reload, methods=["POST"]),
        Route(f"{pool}/drain", drain, methods=["POST"]),
        Route(f"{pool}/swap", swap, methods=["POST"]),
        Route(f"{pool}/enable", at_once(operations.enable, OneBackend), methods=["POST"]),
        Route(f"{pool}/disable", at_once(operations.disable, OneBackend), methods=["POST"]),
        Route(f"{pool}/weight", at_once(operations.weigh, Weight), methods=["POST"]),
        Route("/splits/{name}", at_once(operations.split, Weights), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _refused,
        **{kind: partial(_failed, status) for kind, status in _STATUSES.items()},
    }
    return _Guard(Starlette(routes=routes, exception_handlers=handlers), sidecar)


class _Guard:
    """Lets in who may, and says so to browsers."""

    def __init__(self, app: App, sidecar: Sidecar) -> None:
        self._app = app
        self._sidecar = sidecar

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        refusal = self._refusal(Request(scope))
        await (self._app if refusal is None else refusal)(scope, receive, sending)

    def _refusal(self, request: Request) -> Response | None:
        section = self._sidecar.configuration.admin
        if section is None:
            return _error("the admin listener is about to close", 503)
        if section.token is not None:
            if request.url.path in _OPEN:
                return None
            given = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {section.token}".encode()):
                refusal = _error("write the header 'Authorization: Bearer TOKEN'", 401)
                refusal.headers["www-authenticate"] = "Bearer"
                return refusal
        elif section.bind.kind != "unix":
            host = _name_of(request.headers.get("host", ""))
            if host not in {"localhost", "127.0.0.1", "::1", section.bind.host, *section.hosts}:
                return _error(
                    f"host is {host!r}, which is none of the admin listener's; add it to 'hosts'", 403
                )
        if request.method == "POST" and _media_type(request) != "application/json":
            return _error("write the header 'Content-Type: application/json'", 415)
        return None


def _name_of(authority: str) -> str:
    """A `Host` without its port, and without brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].lower()


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _body(request: Request, model: type[T]) -> T:
    text = (await request.body()).decode("utf-8", "replace") or "{}"
    try:
        data = json.loads(text)
    except json.JSONDecodeError as exc:
        raise ValueError(f"the body is no JSON: {exc}") from exc
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        found = problems_of(exc, Document(text, "body"), model)
        words = "; ".join(": ".join(part for part in (one.place, one.message) if part) for one in found)
        raise ValueError(words) from exc


def _error(words: str, status: int) -> Response:
    return JSONResponse({"error": words}, status)


_STATUSES: dict[type[Exception], int] = {Unknown: 404, ValueError: 400, TypeError: 400, RuntimeError: 409}


async def _failed(status: int, _: Request, exc: Exception) -> Response:
    return _error(str(exc), status)


async def _refused(_: Request, exc: HTTPException) -> Response:
    return _error(exc.detail, exc.status_code)


_FILES = {"/": "dashboard.html", "/dashboard.css": "dashboard.css", "/dashboard.js": "dashboard.js"}


def _file(name: str) -> Callable[[Request], Any]:
    """A part of the dashboard, read once."""
    text = files("lbclient.sidecar").joinpath("dashboard", name).read_text("utf-8")
    media_type = _TYPES[name.rpartition(".")[2]]

    async def endpoint(_: Request) -> Response:
        return Response(text, media_type=media_type)

    return endpoint
