"""The balancer in front of an app, and the proxy mounted in one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute
from starlette.testclient import TestClient
from websockets.sync.client import connect

from lbclient import AsyncBalancedTransport, Backend, Pool, Route, Router
from lbclient.asgi import BalancerMiddleware, ReverseProxy
from tests.asgi.conftest import Serve
from tests.asgi.hosting import ask
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import respond


async def own(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the app's own")


def app_with(target: object, **options: object) -> Starlette:
    middleware = Middleware(BalancerMiddleware, target=target, **options)  # type: ignore[arg-type]
    return Starlette(routes=[StarletteRoute("/{path:path}", own)], middleware=[middleware])


def test_matching_requests_go_to_the_pool_with_their_whole_path(
    serve: Serve, raw_server: MakeRawServer
) -> None:
    backend = raw_server(respond(body=b"the pool's"))
    host = serve(app_with([backend.url], path="/api/*"), lifespan="on")
    with httpx.Client(base_url=host.url) as client:
        assert client.get("/api/users?x=1").text == "the pool's"
        assert client.get("/apix").text == "the app's own"
        assert client.get("/").text == "the app's own"
    assert backend.requests[0].startswith(b"GET /api/users?x=1 HTTP/1.1\r\n")


def test_routes_decide_and_the_app_has_the_rest(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(respond(body=b"the pool's"))
    pool = Pool([backend.url])
    router = Router([Route(path="/a/*", methods=["POST"], to=pool), Route(host="b.example", to=pool)])
    host = serve(app_with(router))
    with httpx.Client(base_url=host.url) as client:
        assert client.post("/a/1").text == "the pool's"
        assert client.get("/a/1").text == "the app's own"
        assert client.get("/", headers={"host": "b.example"}).text == "the pool's"
    with httpx.Client(base_url=serve(app_with(Router([], default=pool))).url) as client:
        assert client.get("/").text == "the pool's", "a default takes all"


def test_conditions_by_host_and_method(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server(respond(body=b"the pool's"))
    host = serve(app_with(Pool([backend.url]), host="*.example", methods=["GET"]))
    with httpx.Client(base_url=host.url) as client:
        assert client.get("/", headers={"host": "a.example"}).text == "the pool's"
        assert client.get("/").text == "the app's own"


def test_conditions_do_not_go_next_to_routes() -> None:
    async def app(*_: object) -> None: ...

    router = Router([Route(path="/a", to=Pool(["http://a"]))])
    with pytest.raises(TypeError, match="Route"):
        BalancerMiddleware(app, router, path="/b")
    assert "BalancedTransport" in repr(BalancerMiddleware(app, ["http://a"]))


def test_websockets_match_too(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    host = serve(app_with([server.url], path="/ws"))
    with connect(f"ws://127.0.0.1:{host.port}/ws", proxy=None) as socket:
        socket.send("name")
        assert socket.recv() == server.name


def test_the_apps_lifespan_is_the_transports(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    seen = []
    transport = AsyncBalancedTransport([server.url])
    middleware: list[BalancerMiddleware] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        seen.append("up")
        yield
        seen.append("down")

    app = Starlette(routes=[StarletteRoute("/", own)], lifespan=lifespan)
    middleware.append(BalancerMiddleware(app, [server.url], path="/whoami"))
    host = serve(middleware[0], lifespan="on")
    assert httpx.get(f"{host.url}/whoami").text == server.name
    host.stop()
    assert seen == ["up", "down"]
    with pytest.raises(RuntimeError, match="closed"):
        middleware[0].transport._check_open()
    assert transport is not middleware[0].transport


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_mounted_it_sends_the_path_below_its_mount(
    serve: Serve, raw_server: MakeRawServer, framework: str
) -> None:
    backend = raw_server(
        respond(
            302,
            headers=[("location", "/login?x"), ("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; Path=/c")],
        )
    )
    proxy = ReverseProxy([backend.url])
    if framework == "starlette":
        app: Starlette = Starlette(routes=[Mount("/my api", proxy)])
    else:
        app = fastapi.FastAPI()
        app.mount("/my api", proxy)
    host = serve(app)
    reply = ask(host.port, b"GET /my%20api/a%2Fb?q HTTP/1.1\r\nhost: h\r\n\r\n")
    assert backend.requests[0].startswith(b"GET /a%2Fb?q HTTP/1.1\r\n")
    assert b"\r\nx-forwarded-prefix: /my%20api\r\n" in backend.requests[0]
    assert reply.value(b"location") == b"/my%20api/login?x"
    assert reply.values(b"set-cookie") == [b"a=1; Path=/my%20api", b"b=2; Path=/my%20api/c"]
    ask(host.port, b"GET /my%20api/ HTTP/1.1\r\nhost: h\r\n\r\n")
    assert backend.requests[1].startswith(b"GET / HTTP/1.1\r\n")


def test_starlettes_test_client(servers: SharedServers) -> None:
    """A host that is no server: the whole app in one thread, with its own idea of disconnects."""
    (server,) = servers("uvicorn", 1)
    app = Starlette(routes=[Mount("/api", ReverseProxy([Backend(server.url)]))])
    with TestClient(app) as client:
        assert client.get("/api/whoami").text == server.name
        assert client.post("/api/echo", content=b"x" * 100_000).json()["length"] == 100_000
        with client.websocket_connect("/api/ws") as socket:
            socket.send_text("name")
            assert socket.receive_text() == server.name
