"""A proxy that no lifespan tells of its end: what it has open is closed with the event loop, and nothing is said."""

from __future__ import annotations

import asyncio
import gc
import warnings
import weakref

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from lbclient import Connect
from lbclient.asgi import ReverseProxy
from tests.asgi.conftest import Serve
from tests.asgi.hosting import ask
from tests.asgi.test_protocol import Server, scope
from tests.conftest import MakeRawServer
from tests.servers.raw import respond


async def get(proxy: ReverseProxy) -> None:
    server = Server()
    await proxy(scope(), server.receive, server.send)
    assert server.status == 200


@pytest.mark.parametrize("engine", ["auto", "httpcore"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_open_is_closed_when_the_event_loop_ends(
    raw_server: MakeRawServer, engine: str, backend: str
) -> None:
    server = raw_server(respond())
    proxy = ReverseProxy([server.url], connect=Connect(engine=engine))  # type: ignore[arg-type]
    for at in range(1, 3):  # and another loop begins anew
        anyio.run(get, proxy, backend=backend)
        assert server.wait_until(lambda raw: not raw.open)
        assert proxy.transport.connections() == {server.url: (0, 0)}
        assert len(server.requests) == at


def test_mounted_under_a_server_it_ends_with_that(serve: Serve, raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    host = serve(Starlette(routes=[Mount("/api", ReverseProxy([server.url]))]))
    assert ask(host.port, b"GET /api/ HTTP/1.1\r\nhost: h\r\n\r\n").status == 200
    assert server.open == 1
    host.stop()
    assert server.wait_until(lambda raw: not raw.open)


async def test_collected_it_takes_its_connections_with_it(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    proxies = [ReverseProxy([server.url])]
    proxies.append(proxies[0])
    proxies[0].around = proxies  # type: ignore[attr-defined]  # a cycle, as apps are in
    gone = weakref.ref(proxies[0].transport)
    await get(proxies[0])
    assert server.open == 1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del proxies
        gc.collect()
        with anyio.fail_after(10):
            while server.open:
                await anyio.sleep(0.01)
    assert gone() is None
    assert not said


def test_of_a_loop_that_nobody_ended_properly_only_asyncio_complains(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    loop = asyncio.new_event_loop()
    proxies = [ReverseProxy([server.url])]
    loop.run_until_complete(get(proxies[0]))
    loop.close()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        proxies.clear()
        gc.collect()
    assert server.wait_until(lambda raw: not raw.open)
    assert not any("never closed" in str(warning.message) for warning in said)


async def test_closed_it_waits_no_more(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    proxy = ReverseProxy([server.url])
    await get(proxy)
    await proxy.aclose()
    assert server.wait_until(lambda raw: not raw.open)


async def test_started_it_is_closed_by_whoever_started_it(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    proxy = ReverseProxy([server.url])
    await proxy.start()
    await get(proxy)
    assert proxy._loop_ends is None
    await proxy.aclose()
