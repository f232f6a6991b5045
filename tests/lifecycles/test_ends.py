"""Ends that nobody planned: a transport dropped, an interpreter that exits; and a pool shared by everything."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, BalancedTransport, Connect, HttpProbe, Pool
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import reply, respond

WITHIN = 10


def drop(things: list[Any]) -> None:
    things.clear()
    gc.collect()


def soon(condition: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + WITHIN
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.01)
    return condition()


# Dropped without closing


def test_a_sync_transport_that_is_dropped_says_so_and_leaves_nothing(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    pool = Pool([server.url], probe=HttpProbe("/"))
    before = threading.active_count()
    clients = [httpx.Client(transport=BalancedTransport(pool), base_url="http://orders")]
    clients[0].get("/")
    with pytest.warns(ResourceWarning, match="BalancedTransport .* was never closed"):
        drop(clients)
    assert server.wait_until(lambda raw: not raw.open)
    assert soon(lambda: threading.active_count() <= before + 1), "its prober has ended; one is the server's"


@pytest.mark.parametrize("engine", ["auto", "httpcore"])
async def test_an_async_transport_that_is_dropped_says_so_and_leaves_nothing(
    raw_server: MakeRawServer, engine: Any, anyio_backend: str
) -> None:
    server = raw_server(respond())
    pool = Pool([server.url], probe=HttpProbe("/"), connect=Connect(engine=engine))
    transport = AsyncBalancedTransport(pool)
    clients = [httpx.AsyncClient(transport=transport, base_url="http://orders")]
    await clients[0].__aenter__()  # probes in a task
    await clients[0].get("/")
    task = transport._ios["default"].probing._task
    assert task is not None
    del transport
    with pytest.warns(ResourceWarning, match="AsyncBalancedTransport .* was never closed"):
        drop(clients)
    with anyio.fail_after(WITHIN):
        while server.open or task.running:
            await anyio.sleep(0.01)


def test_a_transport_that_was_never_used_is_dropped_in_silence() -> None:
    for transport in (AsyncBalancedTransport, BalancedTransport):
        dropped = weakref.ref(transport(["http://a"]))
        gc.collect()
        assert dropped() is None


def test_a_response_outlives_the_client_that_was_dropped(raw_server: MakeRawServer) -> None:
    server = raw_server(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", then=respond_late))
    with pytest.warns(ResourceWarning, match="never closed"):
        response = ask_and_forget(server.url)
    assert response.read() == b"late"
    assert server.wait_until(lambda raw: not raw.open)


def respond_late(connection: Any) -> None:
    time.sleep(0.2)
    connection.send(b"late")
    connection.wait_for_client_close()


def ask_and_forget(url: str) -> httpx.Response:
    http = httpx.Client(transport=BalancedTransport([url]), base_url="http://orders")
    response = http.send(http.build_request("GET", "/"), stream=True)
    del http
    gc.collect()
    return response


# An interpreter that exits

SYNC = """
import sys, httpx
from lbclient import BalancedTransport, HttpProbe
http = httpx.Client(transport=BalancedTransport([sys.argv[1]], probe=HttpProbe("/")), base_url="http://orders")
print(http.get("/").text)
"""
ASYNC = """
import anyio, sys, httpx
from lbclient import AsyncBalancedTransport, Connect, HttpProbe
transport = AsyncBalancedTransport([sys.argv[1]], probe=HttpProbe("/"), connect=Connect(engine=sys.argv[3]))
http = httpx.AsyncClient(transport=transport, base_url="http://orders")
async def main():
    print((await http.get("/")).text)
anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize(
    ("program", "loop", "engine"),
    [(SYNC, "", ""), (ASYNC, "asyncio", "auto"), (ASYNC, "asyncio", "httpcore"), (ASYNC, "trio", "auto")],
)
def test_an_interpreter_exits_without_a_word_though_nobody_closed(
    raw_server: MakeRawServer, program: str, loop: str, engine: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(program), raw_server(respond()).url, loop, engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


# One pool for everybody


# A loop that ends leaves its connections open: asyncio and trio say so.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pool_is_shared_by_threads_and_by_loops_one_after_the_other(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    pool = Pool([server.url for server in fleet], algorithm="round_robin", probe=HttpProbe("/health"))
    transport = AsyncBalancedTransport(pool)  # made before any loop runs, and used from several
    asynchronous = httpx.AsyncClient(transport=transport, base_url="http://orders")
    synchronous = httpx.Client(transport=BalancedTransport(pool), base_url="http://orders")

    async def ask() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(asynchronous.get, "/whoami")

    def loop(backend: str) -> None:
        for _ in range(3):
            anyio.run(ask, backend=backend)

    threads = [threading.Thread(target=loop, args=(backend,)) for backend in ("asyncio", "trio")]
    for thread in threads:
        thread.start()
    for _ in range(60):
        synchronous.get("/whoami")
    for thread in threads:
        thread.join()
    synchronous.close()
    asyncio.run(asynchronous.aclose())
    assert [(one.picks, one.successes, one.in_flight) for one in pool.status().backends] == [(40, 40, 0)] * 3
    gc.collect()  # here, where it may warn
