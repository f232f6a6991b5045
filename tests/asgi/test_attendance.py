"""Cancelling an exchange whose client has left, without taking anybody else's cancellation for that."""

from __future__ import annotations

import asyncio

import pytest

from lbclient import AsyncBalancedTransport, Connect, Pool
from lbclient.asgi import ReverseProxy
from lbclient.asgi.attendance import TaskScope
from tests.asgi.conftest import answer_or_not
from tests.asgi.hosting import Host, RawClient
from tests.conftest import MakeRawServer
from tests.sidecar.test_protocol import until

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def test_a_scope_ends_where_it_was_cancelled() -> None:
    with TaskScope() as scope:
        asyncio.get_running_loop().call_soon(scope.cancel)
        asyncio.get_running_loop().call_soon(scope.cancel)
        await asyncio.sleep(20)
        raise AssertionError
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_scope_lets_pass_what_is_not_its_own() -> None:
    with pytest.raises(ZeroDivisionError), TaskScope():
        raise ZeroDivisionError
    scope = TaskScope()
    with pytest.raises(ZeroDivisionError), scope:
        await _fail_when_cancelled(scope)

    async def inside(scope: TaskScope) -> None:
        with scope:
            await asyncio.sleep(20)

    scope = TaskScope()
    task = asyncio.create_task(inside(scope))
    await asyncio.sleep(0)
    scope.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _fail_when_cancelled(scope: TaskScope) -> None:
    scope.cancel()
    try:
        await asyncio.sleep(20)
    finally:
        raise ZeroDivisionError


@pytest.mark.parametrize("http", ["httptools", "sidecar"])
async def test_who_leaves_frees_backends_of_every_engine(raw_server: MakeRawServer, http: str) -> None:
    for connect in (Connect(engine="native"), Connect(engine="httpcore")):
        pool = Pool([raw_server(answer_or_not).url], connect=connect)
        transport = AsyncBalancedTransport(pool)
        assert transport.gives_back_at_once == (connect.engine == "native")
        with Host(ReverseProxy(transport), http=http, lifespan="off") as host:
            with RawClient(host.port) as client:
                client.say(b"GET /raw/silent HTTP/1.1\r\nhost: h\r\n\r\n")
                until(lambda pool=pool: pool.status().backends[0].in_flight == 1)  # type: ignore[misc]
            until(lambda pool=pool: pool.status().backends[0].in_flight == 0)  # type: ignore[misc]
        assert pool.status().backends[0].failures == 0
        await transport.aclose()
