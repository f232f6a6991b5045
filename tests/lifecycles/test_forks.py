"""A fork: the child is another client, with its own connections, prober and dice, and does not disturb its parent."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

import lbclient.httpx2
from lbclient import AsyncBalancedTransport, BalancedTransport, HttpProbe, Pool
from lbclient.core import forking
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import reply, respond

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 warns of every fork with threads about: that they are about is what is tested here.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


def in_child(function: Callable[[], object]) -> str:
    """What it returns, or the end of its traceback, from a forked child."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(function())
        except BaseException:  # noqa: BLE001  # whatever it is, the parent is to see it
            said = traceback.format_exc()[-1500:]
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as reader:
        said = reader.read()
    os.waitpid(child, 0)
    return said


def test_a_child_gets_its_own_connections_and_leaves_the_parents_alone(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = BalancedTransport([server.url])
    with httpx.Client(transport=transport, base_url="http://orders") as http:
        http.get("/")

        def child() -> str:
            answers = [http.get("/").status_code for _ in range(3)]
            transport.close()
            return f"{answers} {transport.pools['default'].status().backends[0].picks}"

        assert in_child(child) == "[200, 200, 200] 3"
        assert http.get("/").status_code == 200
        assert server.wait_until(lambda raw: raw.accepted == 2)
        assert len(server.connections[0].requests) == 2, "the parent kept its connection"


def test_a_child_keeps_no_connection_of_its_parents_open(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    with httpx.Client(transport=BalancedTransport([server.url]), base_url="http://orders") as http:
        http.get("/")
        assert in_child(lambda: _connected_to(server.port)) == "0"
        assert _connected_to(server.port) == 1


def _connected_to(port: int) -> int:
    """How many sockets of this process are."""
    count = 0
    for number in range(3, 512):
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
            count += copy.family == socket.AF_INET and copy.getpeername()[1] == port
    return count


def test_the_end_of_a_parents_response_in_the_child_is_not_counted_there(raw_server: MakeRawServer) -> None:
    server = raw_server([reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", then=respond()), respond()])
    pool = Pool([server.url], max_requests=1)
    with httpx.Client(transport=BalancedTransport(pool), base_url="http://orders") as http:
        response = http.send(http.build_request("GET", "/"), stream=True)
        assert pool.status().backends[0].in_flight == 1

        def child() -> str:
            status = http.get("/").status_code
            response.close()
            return f"{status} {pool.status().backends[0].in_flight} {pool._in_flight}"

        assert in_child(child) == "200 0 0"
        assert pool.status().backends[0].in_flight == 1
        response.close()
        assert pool.status().backends[0].in_flight == 0


def test_children_roll_their_own_dice_and_know_what_the_parent_knew() -> None:
    pool = Pool([f"http://{name}" for name in "abcdefghij"], algorithm="round_robin")
    pool.report_probe("http://c", False)

    def child() -> str:
        starts = pool.pick().backend.url
        draws = pool.rng.random()
        return f"{starts} {draws} {pool.seed} {pool.status().backends[2].check}"

    said = [in_child(child).split() for _ in range(8)]
    assert len({draws for _, draws, _, _ in said}) == 8
    assert len({seed for _, _, seed, _ in said}) == 8
    assert len({start for start, _, _, _ in said}) > 1
    assert {check for _, _, _, check in said} == {"failing"}


def test_dice_of_the_callers_own_are_left_to_the_caller() -> None:
    pool = Pool(["http://a", "http://b"], rng=random.Random(1))
    assert in_child(lambda: pool.rng.random()) == str(pool.rng.random())


def test_a_child_probes_for_itself(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = BalancedTransport([server.url], probe=HttpProbe("/health", interval=0.1, timeout=0.1))
    transport.wait_until_ready()
    transport._ios["default"].probing.end()
    http = httpx.Client(transport=transport, base_url="http://orders")
    assert transport._ios["default"].probing.running is False

    def child() -> str:
        http.get("/")
        time.sleep(0.5)
        transport.close()
        return "done"

    def probes() -> int:
        return sum(request.startswith(b"GET /health") for request in server.requests)

    before = probes()
    assert in_child(child) == "done"
    assert probes() >= before + 2
    http.close()


def test_a_child_probes_though_its_parent_does(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = BalancedTransport([server.url], probe=HttpProbe("/health", interval=60))
    with httpx.Client(transport=transport, base_url="http://orders") as http:
        transport.wait_until_ready()
        pool = transport.pools["default"]

        def child() -> bool:
            probed = threading.Event()
            pool.report_probe = lambda url, passed: probed.set()  # type: ignore[method-assign]
            http.get("/")
            return probed.wait(10)

        assert in_child(child) == "True"


def test_a_fork_while_other_threads_use_the_pool_leaves_no_lock_held() -> None:
    pool = Pool(["http://a", "http://b"], max_in_flight=1000)
    running = True

    def use() -> None:
        while running:
            with pool.pick():
                pass

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()

    def child() -> str:
        with pool.pick() as ticket:
            return f"{pool._in_flight} {sum(one.in_flight for one in pool.status().backends)} {ticket.open}"

    try:
        assert {in_child(child) for _ in range(30)} == {"1 1 True"}
    finally:
        running = False
        for thread in threads:
            thread.join()


def test_a_fork_within_a_locked_section_does_not_wait_for_itself() -> None:
    lock = forking.new_lock()
    with lock:
        assert in_child(lambda: "done") == "done"
    assert in_child(lambda: lock.acquire(timeout=1)) == "True"


def test_a_child_of_an_async_program_may_use_the_transport_in_a_loop_of_its_own(
    servers: SharedServers,
) -> None:
    program = textwrap.dedent(
        """
        import asyncio, os, sys, httpx
        from lbclient import AsyncBalancedTransport, HttpProbe

        transport = AsyncBalancedTransport([sys.argv[1]], probe=HttpProbe("/health"))
        http = httpx.AsyncClient(transport=transport, base_url="http://orders")

        async def ask():
            assert (await http.get("/whoami")).status_code == 200
            await transport.wait_until_ready()
            assert transport._ios["default"].probing.running

        async def main():
            async with http:
                await ask()
                child = os.fork()
                if child == 0:
                    assert not transport._ios["default"].probing.running
                    asyncio.run(ask())
                    os._exit(7)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                await ask()

        asyncio.run(main())
        print("both")
        """
    )
    (server,) = servers("uvicorn", 1)
    command = [sys.executable, "-c", program, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert (done.stdout, done.stderr) == ("both\n", "")


@pytest.mark.parametrize("transport", [AsyncBalancedTransport, lbclient.httpx2.AsyncBalancedTransport])
def test_transports_of_the_callers_own_are_made_anew(transport: type[AsyncBalancedTransport]) -> None:
    flavour = httpx if transport is AsyncBalancedTransport else pytest.importorskip("httpx2")
    made: list[int] = []

    def inner(backend: object) -> httpx.AsyncBaseTransport:
        made.append(os.getpid())
        return flavour.MockTransport(lambda request: flavour.Response(200))  # type: ignore[no-any-return]

    balanced = transport(["http://a"], inner=inner)

    def child() -> str:
        import asyncio

        async def ask() -> int:
            async with flavour.AsyncClient(transport=balanced) as http:
                return (await http.get("http://orders")).status_code  # type: ignore[no-any-return]

        return f"{asyncio.run(ask())} {made == [os.getppid(), os.getpid()]}"

    assert in_child(child) == "200 True"
