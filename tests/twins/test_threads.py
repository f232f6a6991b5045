"""One sync client, many threads: nothing is lost, nothing is counted twice, nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from lbclient import BalancedTransport, Connect, DrainTimeout, Hedge, HttpProbe, Pool, TcpProbe
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import after_request, respond, stall


def test_every_request_of_many_threads_is_counted_once(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    pool = Pool([server.url for server in fleet], algorithm="round_robin")
    transport = BalancedTransport(pool)
    with httpx.Client(transport=transport, base_url="http://orders") as http:
        with ThreadPoolExecutor(16) as threads:
            names = Counter(threads.map(lambda _: http.get("/whoami").text, range(480)))
        assert set(names.values()) == {160}
        assert [server.count() for server in fleet] == [160] * 3
        status = pool.status().backends
        assert [(one.picks, one.successes, one.in_flight) for one in status] == [(160, 160, 0)] * 3
        for opened, idle in transport.connections().values():
            assert 1 <= opened == idle <= 16


def test_at_the_limit_threads_wait_in_turn(raw_server: MakeRawServer) -> None:
    server = raw_server(respond(delay=0.02))
    transport = BalancedTransport([server.url], connect=Connect(max_connections=2))
    order: list[int] = []
    with (
        httpx.Client(transport=transport, base_url="http://orders") as http,
        ThreadPoolExecutor(8) as threads,
    ):

        def ask(number: int) -> None:
            http.get(f"/{number}")
            order.append(number)

        for number in range(8):
            threads.submit(ask, number)
            time.sleep(0.005)
    assert server.accepted <= 2
    assert sorted(order) == list(range(8))
    assert all(abs(place - number) <= 2 for place, number in enumerate(order)), order


def test_a_drain_in_one_thread_ends_the_requests_of_others(raw_server: MakeRawServer) -> None:
    slow, other = raw_server(after_request(stall)), raw_server(respond())
    transport = BalancedTransport([slow.url, other.url], algorithm="first")
    ended: list[Exception] = []
    with httpx.Client(transport=transport, base_url="http://orders") as http:

        def ask() -> None:
            try:
                http.get("/")
            except DrainTimeout as exc:
                ended.append(exc)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        while len(slow.requests) < 5:
            time.sleep(0.005)
        report = transport.drain(slow.url, grace=0.1)
        for thread in threads:
            thread.join(5)
    assert (report.drained, report.in_flight_at_start, report.closed) == (False, 5, 5)
    assert len(ended) == 5
    assert transport.connections()[other.url] == (0, 0)


def test_closing_ends_the_requests_of_other_threads(raw_server: MakeRawServer) -> None:
    slow = raw_server(after_request(stall))
    transport = BalancedTransport([slow.url], retry=None)
    http = httpx.Client(transport=transport, base_url="http://orders")
    ended: list[Exception] = []

    def ask() -> None:
        try:
            http.get("/")
        except httpx.ReadError as exc:
            ended.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(slow.requests) < 3:
        time.sleep(0.005)
    http.close()
    for thread in threads:
        thread.join(5)
    assert len(ended) == 3
    assert sum(one.failures for one in transport.pools["default"].status().backends) == 0
    with pytest.raises(RuntimeError, match="closed"):
        transport.handle_request(httpx.Request("GET", "http://orders"))


def test_copies_of_slow_requests_from_many_threads(raw_server: MakeRawServer) -> None:
    slow, quick = raw_server(after_request(stall)), raw_server(respond())
    transport = BalancedTransport([slow.url, quick.url], algorithm="first", hedge=Hedge(delay=0.05, budget=1))
    with (
        httpx.Client(transport=transport, base_url="http://orders") as http,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(lambda _: http.get("/"), range(16)))
    assert {answer.extensions["lbclient"].backend for answer in answers} == {quick.url}
    assert sum(one.in_flight for one in transport.pools["default"].status().backends) == 0
    assert threading.active_count() < 40


def test_what_threads_cannot_do_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="hedge= and the transport inner="):
        BalancedTransport(["http://a"], hedge=Hedge(), inner=lambda backend: httpx.HTTPTransport())


def test_probes_go_through_transports_of_the_callers_own() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "b":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, text="all is well" if request.url.host == "a" else "all is lost")

    pool = Pool(["http://a", "http://b", "http://c"], probe=HttpProbe("/health", body="well"))
    transport = BalancedTransport(pool, inner=lambda backend: httpx.MockTransport(answer))
    transport.wait_until_ready()
    assert [backend.check for backend in pool.status().backends] == ["passing", "failing", "failing"]
    transport.close()


def test_tcp_probes_connect_whatever_the_transports_are(raw_server: MakeRawServer) -> None:
    server = raw_server()
    pool = Pool([server.url, "http://127.0.0.1:1"], probe=TcpProbe())
    transport = BalancedTransport(pool, inner=lambda backend: httpx.HTTPTransport())
    transport.wait_until_ready()
    assert [backend.check for backend in pool.status().backends] == ["passing", "failing"]
    transport.close()
