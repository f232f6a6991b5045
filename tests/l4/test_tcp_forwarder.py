"""`TCPForwarder`: each connection to a backend of its own; how it ends is passed on as it came."""

from __future__ import annotations

import errno
import hashlib
import logging
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.to_thread import run_sync

from lbclient import Connect, KeyAffinity, Pool, TcpProbe
from lbclient.l4 import TCPForwarder, TLSRoute, TLSRouter, connections
from lbclient.l4.forwarder import Forwarder
from lbclient.l4.proxy_protocol import ProxyHeader, ProxyHeaderReader
from tests.conftest import MakeRawServer
from tests.l4.peers import (
    client_hello,
    dial,
    digest_at_the_end,
    echo,
    named,
    read_all,
    read_line,
    tcp,
    whose,
)
from tests.servers import free_port, full_backlog
from tests.servers.raw import Connection, after, after_bytes, fin, reset, stall


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


def in_flight(pool: Pool) -> int:
    return sum(backend.in_flight for backend in pool.status().backends)


@contextmanager
def nothing_left(*pools: Pool) -> Iterator[None]:
    """Nothing in flight, no connection and no failure that nobody asked for, when the block has ended."""
    yield
    for pool in pools:
        assert in_flight(pool) == 0
        assert connections(pool) == {}


# Forwarding


async def test_bytes_go_both_ways(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    for word in (b"a", b"bb", b"c" * 1000):
                        client.sendall(word)
                        assert client.recv(len(word), socket.MSG_WAITALL) == word

            await run_sync(talk)
            await until(lambda: not forwarder.stats.open)
            assert forwarder.stats.as_dict() == {
                "open": 0, "accepted": 1, "refused": 0, "failed": 0, "timed_out": 0, "cut": 0,
                "bytes_up": 1003, "bytes_down": 1003, "dropped": 0,
            }  # fmt: skip
    assert pool.status().backends[0].successes == 1


async def test_connections_spread_as_the_algorithm_says(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(named(b"%d" % n))) for n in range(3)], algorithm="least_connections")
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> Counter[bytes]:
                clients = [dial(forwarder.port) for _ in range(12)]
                names = Counter(map(read_line, clients))
                for client in clients:
                    client.close()
                return names

            assert await run_sync(talk) == {b"0": 4, b"1": 4, b"2": 4}


async def test_a_half_close_of_the_client_s_is_passed_on_in_order(raw_server: MakeRawServer) -> None:
    """The backend answers only when it has seen the end, and the answer still comes."""
    pool = Pool([tcp(raw_server(digest_at_the_end))])
    data = bytes(range(256)) * 8192
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> bytes:
                with dial(forwarder.port) as client:
                    client.sendall(data)
                    client.shutdown(socket.SHUT_WR)
                    return read_all(client)

            assert await run_sync(talk) == hashlib.sha256(data).hexdigest().encode()
            await until(lambda: not forwarder.stats.open)
    assert pool.status().backends[0].failures == 0


async def test_a_half_close_of_the_backend_s_is_passed_on_in_order(raw_server: MakeRawServer) -> None:
    """The client goes on sending after it has seen the end, and all of it arrives."""
    got = bytearray()

    def say_and_listen(connection: Connection) -> None:
        connection.send(b"hello")
        connection.socket.shutdown(socket.SHUT_WR)
        while data := connection.read():
            got.extend(data)

    pool = Pool([tcp(raw_server(say_and_listen))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    assert read_all(client) == b"hello"
                    for _ in range(100):
                        client.sendall(b"x" * 10_000)

            await run_sync(talk)
            await until(lambda: not forwarder.stats.open and len(got) == 1_000_000)
    assert pool.status().backends[0].failures == 0


async def test_who_reads_slowly_slows_the_sender_down_and_loses_nothing(raw_server: MakeRawServer) -> None:
    """Both kernels' buffers and one chunk: more is not taken from a backend whose client does not read."""
    sent = [0]
    size = 64 << 20

    def pour(connection: Connection) -> None:
        connection.socket.settimeout(60)
        while sent[0] < size:
            connection.send(b"x" * 65_536)
            sent[0] += 65_536

    pool = Pool([tcp(raw_server(pour))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            client = await run_sync(dial, forwarder.port)
            before = -1
            while sent[0] != before:
                before = sent[0]
                await anyio.sleep(0.2)
            assert sent[0] < size / 2

            def read() -> int:
                total = 0
                while part := client.recv(1 << 20):
                    total += len(part)
                client.close()
                return total

            assert await run_sync(read) == size


# Breaks


async def test_a_backend_s_reset_is_a_reset_for_the_client_and_counts(raw_server: MakeRawServer) -> None:
    """Not an end of stream: what was truncated must not look complete."""
    pool = Pool([tcp(raw_server(after_bytes(1, reset)))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    client.sendall(b"x")
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)

            await run_sync(talk)
            await until(lambda: not forwarder.stats.open)
    assert pool.status().backends[0].failures == 1


async def test_a_client_s_reset_is_a_reset_for_the_backend_and_nobody_s_fault(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(echo)
    pool = Pool([tcp(server)])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                client = dial(forwarder.port)
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()

            await run_sync(talk)
            await until(lambda: not forwarder.stats.open and bool(server.errors))
    assert [error.errno for error in server.errors if isinstance(error, OSError)] == [errno.ECONNRESET]
    assert pool.status().backends[0].failures == 0


async def test_a_reset_after_the_backend_s_orderly_end_is_not_its_fault(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(fin))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    assert client.recv(1) == b""
                    with pytest.raises(OSError):  # noqa: PT012  # the first may still go through
                        for _ in range(100):
                            client.sendall(b"x" * 1000)
                            threading.Event().wait(0.01)

            await run_sync(talk)
            await until(lambda: not forwarder.stats.open)
    assert pool.status().backends[0].failures == 0


# Whom to reach


async def test_it_fails_over_while_it_connects(raw_server: MakeRawServer) -> None:
    with full_backlog() as port:
        urls = [f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{port}", tcp(raw_server(named(b"alive")))]
        pool = Pool(urls, algorithm="first", connect=Connect(connect_timeout=0.1))
        with nothing_left(pool):
            async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
                assert await run_sync(whose, forwarder.port) == b"alive"
    assert [backend.failures for backend in pool.status().backends] == [1, 1, 0]


async def test_without_a_backend_the_client_is_reset() -> None:
    pool = Pool([f"tcp://127.0.0.1:{free_port()}"], retry=None)
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            for _ in range(2):
                with pytest.raises(ConnectionResetError):
                    await run_sync(whose, forwarder.port)
                pool.disable(pool.declared[0].url)
            assert forwarder.stats.failed == 2


async def test_a_bug_costs_one_connection_and_is_logged(
    raw_server: MakeRawServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A backend of datagrams that joined later: connecting to it is a mistake of the pool's owner."""
    pool = Pool([tcp(raw_server(named(b"alive")))], algorithm="first")
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            pool.update(["udp://127.0.0.1:53", *pool.declared])
            with pytest.raises(ConnectionResetError):
                await run_sync(whose, forwarder.port)
            pool.remove("udp://127.0.0.1:53")
            assert await run_sync(whose, forwarder.port) == b"alive"
    assert any(
        "cannot forward" in record.message for record in caplog.records if record.levelno == logging.ERROR
    )


@pytest.mark.parametrize(
    "options", [{"algorithm": "ip_hash"}, {"affinity": KeyAffinity("client_ip")}], ids=str
)
async def test_the_same_address_reaches_the_same_backend(
    raw_server: MakeRawServer, options: dict[str, Any]
) -> None:
    pool = Pool([tcp(raw_server(named(b"%d" % n))) for n in range(4)], **options)
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def name_for(address: str) -> bytes:
                with socket.socket() as client:
                    client.settimeout(10)
                    client.bind((address, 0))
                    client.connect(("127.0.0.1", forwarder.port))
                    return read_line(client)

            chosen: dict[str, set[bytes]] = {}
            for number in [*range(1, 17)] * 2:
                address = f"127.0.0.{number}"
                chosen.setdefault(address, set()).add(await run_sync(name_for, address))
    assert all(len(names) == 1 for names in chosen.values())
    assert len(set.union(*chosen.values())) > 1


async def test_a_pool_that_is_full_is_waited_for(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(named(b"me")))], max_in_flight=1)
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, connect_timeout=20) as forwarder:

            def talk() -> None:
                first = dial(forwarder.port)
                assert read_line(first) == b"me"
                with first, dial(forwarder.port) as second:
                    second.settimeout(0.1)
                    with pytest.raises(TimeoutError):
                        second.recv(1)
                    first.close()
                    second.settimeout(10)
                    assert read_line(second) == b"me"

            await run_sync(talk)


# Timeouts and limits


async def test_an_idle_connection_is_closed_in_an_orderly_way(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, idle_timeout=0.2) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    for _ in range(5):
                        client.sendall(b"x")
                        assert client.recv(1) == b"x"
                        threading.Event().wait(0.06)
                    assert client.recv(1) == b""

            await run_sync(talk)
            assert forwarder.stats.timed_out == 1
    assert pool.status().backends[0].failures == 0


async def test_a_backend_that_takes_nothing_any_more_is_to_blame(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(stall))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, idle_timeout=0.2) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client, pytest.raises(ConnectionError):
                    client.sendall(b"x" * 50_000_000)

            await run_sync(talk)
    assert pool.status().backends[0].failures == 1


async def test_connections_on_top_of_the_limit_wait_in_the_backlog(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(named(b"me")))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, max_connections=2) as forwarder:

            def talk() -> None:
                clients = [dial(forwarder.port) for _ in range(4)]
                assert [read_line(client) for client in clients[:2]] == [b"me"] * 2
                clients[2].settimeout(0.1)
                with pytest.raises(TimeoutError):
                    clients[2].recv(1)
                assert forwarder.stats.open == 2
                clients[2].settimeout(10)
                for client in clients[:2]:
                    client.close()
                assert [read_line(client) for client in clients[2:]] == [b"me"] * 2
                for client in clients[2:]:
                    client.close()

            await run_sync(talk)


async def test_one_address_may_have_so_many_and_no_more(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(named(b"me")))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, max_connections_per_client=1) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as first:
                    assert read_line(first) == b"me"
                    with pytest.raises(ConnectionResetError), dial(forwarder.port) as second:
                        second.recv(1)

            await run_sync(talk)
            await until(lambda: not forwarder.stats.open)
            assert await run_sync(whose, forwarder.port) == b"me"
            assert forwarder.stats.refused == 1


async def test_without_descriptors_it_waits_for_some(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lbclient.l4.tcp.PAUSE", 0.01)
    pool = Pool([tcp(raw_server(named(b"me")))])
    failures: list[OSError] = [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError()]

    class Reluctant(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            if failures:
                raise failures.pop()
            return super().accept()

    bind = Forwarder._bind

    async def reluctant(self: Forwarder) -> socket.socket:
        usual = await bind(self)
        return Reluctant(usual.family, usual.type, usual.proto, usual.detach())

    monkeypatch.setattr(Forwarder, "_bind", reluctant)
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            assert await run_sync(whose, forwarder.port) == b"me"
    assert not failures
    assert any("Too many open files" in record.message for record in caplog.records)


# Starting and stopping


async def test_serve_in_a_task_group(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(named(b"me")))])
    forwarder = TCPForwarder(pool, "127.0.0.1", 0)
    with pytest.raises(RuntimeError, match="does not listen yet"):
        _ = forwarder.port
    assert repr(forwarder) == "<TCPForwarder not listening, 0 open>"
    assert await forwarder.stop() == 0 or True
    forwarder = TCPForwarder(pool, "127.0.0.1", 0)
    with nothing_left(pool):
        async with anyio.create_task_group() as group:
            host, port = await group.start(forwarder.serve)
            assert (host, port) == forwarder.address == await forwarder.wait_listening()
            assert repr(forwarder) == f"<TCPForwarder on 127.0.0.1:{port}, 0 open>"
            assert await run_sync(whose, port) == b"me"
            with pytest.raises(RuntimeError, match="serves once"):
                await forwarder.serve()
            group.cancel_scope.cancel()
    with pytest.raises(ConnectionRefusedError):
        dial(port)
    assert await forwarder.stop() == 0


async def test_stop_lets_connections_end_and_takes_no_more(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])
    forwarder = TCPForwarder(pool, "127.0.0.1", 0)
    ended: list[int] = []
    with nothing_left(pool):
        async with anyio.create_task_group() as group:
            _, port = await group.start(forwarder.serve)
            client = await run_sync(dial, port)
            await until(lambda: in_flight(pool) == 1)

            async def stop() -> None:
                ended.append(await forwarder.stop(grace=60))

            group.start_soon(stop)
            await anyio.wait_all_tasks_blocked()

            def talk() -> None:
                with pytest.raises(ConnectionRefusedError):
                    dial(port)
                with client:
                    client.sendall(b"still")
                    assert client.recv(5) == b"still"

            await run_sync(talk)
    assert ended == [0]
    assert await forwarder.stop() == 0


async def test_whoever_stops_it_hears_of_the_end(raw_server: MakeRawServer) -> None:
    """A patient one, and one that is not: neither waits for longer than there is something to wait for."""
    pool = Pool([tcp(raw_server(stall))])
    forwarder = TCPForwarder(pool, "127.0.0.1", 0)
    rest: list[int] = []
    with nothing_left(pool), anyio.fail_after(30):
        async with forwarder, anyio.create_task_group() as group:
            with await run_sync(dial, forwarder.port):
                await until(lambda: in_flight(pool) == 1)
                group.start_soon(forwarder.stop, 1000)
                await anyio.wait_all_tasks_blocked()
                rest.append(await forwarder.stop(grace=0.05))
    assert rest == [1]


async def test_stop_cuts_off_what_does_not_end(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(stall))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            with await run_sync(dial, forwarder.port) as client:
                await until(lambda: in_flight(pool) == 1)
                assert await forwarder.stop(grace=0.05) == 1
                assert forwarder.stats.cut == 1
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
    assert pool.status().backends[0].failures == 0


async def test_stopped_while_it_connects_it_leaves_nothing_behind() -> None:
    with full_backlog() as port:
        pool = Pool([f"tcp://127.0.0.1:{port}"])
        with nothing_left(pool):
            async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
                with await run_sync(dial, forwarder.port) as client:
                    await until(lambda: in_flight(pool) == 1)
                    assert await forwarder.stop(grace=0) == 1
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
    assert pool.status().backends[0].failures == 0


async def test_a_port_that_is_taken_is_said(raw_server: MakeRawServer) -> None:
    server = raw_server(echo)
    pool = Pool([tcp(server)])
    with pytest.raises(OSError, match="in use"):
        await TCPForwarder(pool, "127.0.0.1", server.port).serve()
    with pytest.raises(OSError, match="in use"):
        async with TCPForwarder(pool, "127.0.0.1", server.port):
            pass
    forwarder = TCPForwarder(pool, "127.0.0.1", 0)
    await forwarder.aclose()
    with pytest.raises(RuntimeError, match="serves once"):
        await forwarder.serve()


async def test_ipv6(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(named(b"me")))])
    async with TCPForwarder(pool, "::1", 0) as forwarder:
        with await run_sync(dial, forwarder.port, "::1") as client:
            assert await run_sync(read_line, client) == b"me"


async def test_it_probes_while_it_serves(raw_server: MakeRawServer) -> None:
    dead = f"tcp://127.0.0.1:{free_port()}"
    pool = Pool(
        [dead, tcp(raw_server([fin] * 1 + [named(b"me")]))],
        algorithm="first",
        probe=TcpProbe(interval=60, timeout=1),
    )
    async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
        await until(lambda: [b.check for b in pool.status().backends] == ["failing", "passing"])
        assert await run_sync(whose, forwarder.port) == b"me"
        assert pool.status().backends[0].picks == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"host": ""}, ValueError, "address to listen on"),
        ({"port": 65536}, ValueError, "65535"),
        ({"idle_timeout": 0}, ValueError, "idle_timeout"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout"),
        ({"hello_timeout": -1}, ValueError, "hello_timeout"),
        ({"answer_timeout": 0}, ValueError, "answer_timeout"),
        ({"max_connections": 0}, ValueError, "max_connections"),
        ({"max_connections_per_client": 0}, ValueError, "max_connections_per_client"),
        ({"send_proxy": "v3"}, ValueError, "send_proxy"),
        ({"accept_proxy": "10.0.0.0/8"}, TypeError, "networks"),
        ({"accept_proxy": ["10.0.0.1/8"]}, ValueError, "networks"),
        ({"pool": ["tcp://127.0.0.1:1"]}, TypeError, "write a Pool"),
        ({"pool": Pool(["udp://127.0.0.1:1"])}, ValueError, "UDPForwarder"),
    ],
)
def test_wrong_arguments_say_what_to_write(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments: dict[str, Any] = {
        "pool": Pool(["tcp://127.0.0.1:1"]),
        "host": "127.0.0.1",
        "port": 0,
    } | options
    with pytest.raises(error, match=words):
        TCPForwarder(**arguments)


# Draining


async def test_a_rolling_drain_moves_new_connections_at_once_and_old_ones_end_by_themselves(
    raw_server: MakeRawServer,
) -> None:
    """One backend after the other, each with long-lived connections; half of them outlast the grace period."""
    servers = [raw_server(named(b"%d" % n)) for n in range(3)]
    pool = Pool([tcp(server) for server in servers], algorithm="least_connections")
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            for number, server in enumerate(servers[:2]):
                name = b"%d" % number
                clients = [await run_sync(dial, forwarder.port) for _ in range(6)]
                by_name: dict[bytes, list[socket.socket]] = {}
                for client in clients:
                    by_name.setdefault(await run_sync(read_line, client), []).append(client)
                polite, rude = by_name[name][::2], by_name[name][1::2]
                reports = []
                async with anyio.create_task_group() as group:

                    async def drain(url: str = tcp(server)) -> None:
                        reports.append(await forwarder.drain(url, grace=0.5))  # noqa: B023  # awaited below

                    group.start_soon(drain)
                    await until(lambda: any(b.admin == "draining" for b in pool.status().backends))
                    for _ in range(6):
                        assert await run_sync(whose, forwarder.port) != name
                    for client in polite:
                        client.sendall(b"bye")
                        assert await run_sync(client.recv, 3) == b"bye"
                        client.close()
                [report] = reports
                assert report.closed == len(rude)
                assert report.in_flight_at_start == len(polite) + len(rude)
                for client in rude:
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
                for client in clients:
                    client.close()
                await until(lambda: not forwarder.stats.open)
            assert await run_sync(whose, forwarder.port) == b"2"
    assert [backend.failures for backend in pool.status().backends] == [0, 0, 0]


async def test_a_drain_finds_the_pool_or_says_why_not(raw_server: MakeRawServer) -> None:
    one, two = raw_server(echo), raw_server(echo)
    pools = Pool([tcp(one)], name="one"), Pool([tcp(one), tcp(two)], name="two")
    forwarder = TCPForwarder(TLSRouter([TLSRoute(sni="a.example", to=pools[0])], pools[1]), "127.0.0.1", 0)
    assert forwarder.pools == pools
    report = await forwarder.drain(tcp(two) + "/", grace=0)
    assert report.drained
    with pytest.raises(ValueError, match="several"):
        await forwarder.drain(tcp(one))
    with pytest.raises(ValueError, match="none"):
        await forwarder.drain("tcp://127.0.0.1:1")


# TLS passes through


def tls_dial(port: int, context: ssl.SSLContext, name: str | None) -> bytes:
    """What the server at the other end of a TLS connection says; that its certificate is `name`'s was verified."""
    with dial(port) as plain, context.wrap_socket(plain, server_hostname=name) as client:
        return read_line(client)


@contextmanager
def not_verifying(context: ssl.SSLContext) -> Iterator[ssl.SSLContext]:
    context.check_hostname = False
    try:
        yield context
    finally:
        context.check_hostname = True


async def test_tls_passes_through_by_name_and_the_certificates_are_the_backends(
    raw_server: MakeRawServer, ca: Any
) -> None:
    """Each backend has a key of its own; the forwarder has none."""

    def server(name: bytes, *names: str, protocols: Sequence[str] = ("http/1.1",)) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(list(protocols))
        ca.issue_cert(*names).configure_cert(context)
        return tcp(raw_server(named(name), tls=context))

    one, two = server(b"one", "one.example"), server(b"two", "www.two.example")
    h2 = server(b"h2", "one.example", protocols=["h2"])
    other = server(b"other", "other.example", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    with_h2 = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(with_h2)
    with_h2.set_alpn_protocols(["h2", "http/1.1"])
    router = TLSRouter(
        [
            TLSRoute(sni="one.example", alpn="h2", to=Pool([h2])),
            TLSRoute(sni="one.example", to=Pool([one])),
            TLSRoute(sni=["*.two.example"], to=Pool([two])),
        ],
        default=Pool([other]),
    )
    with nothing_left(*router.pools):
        async with TCPForwarder(router, "127.0.0.1", 0) as forwarder:
            port = forwarder.port
            assert await run_sync(tls_dial, port, context, "one.example") == b"one"
            assert await run_sync(tls_dial, port, context, "ONE.example") == b"one"
            assert await run_sync(tls_dial, port, with_h2, "one.example") == b"h2"
            assert await run_sync(tls_dial, port, context, "www.two.example") == b"two"
            assert await run_sync(tls_dial, port, context, "other.example") == b"other"
            with not_verifying(context):
                assert await run_sync(tls_dial, port, context, None) == b"other"
            with pytest.raises(ssl.SSLCertVerificationError):
                await run_sync(tls_dial, port, context, "stranger.example")


@pytest.mark.parametrize("name", ["stranger.lbclient.test", None])
async def test_a_name_without_a_route_is_refused_with_the_alert_that_says_so(
    raw_server: MakeRawServer, client_ssl_context: ssl.SSLContext, name: str | None
) -> None:
    server = raw_server(echo)
    pool = Pool([tcp(server)])
    router = TLSRouter([TLSRoute(sni="a.lbclient.test", to=pool)])
    with nothing_left(pool):
        async with TCPForwarder(router, "127.0.0.1", 0) as forwarder:
            with not_verifying(client_ssl_context), pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
                await run_sync(tls_dial, forwarder.port, client_ssl_context, name)
            assert forwarder.stats.refused == 1
    assert server.accepted == 0


@pytest.mark.parametrize("step", [1, 3, 50, 10_000])
async def test_segments_of_the_hello_make_no_difference(raw_server: MakeRawServer, step: int) -> None:
    server, other = raw_server(named(b"a")), raw_server(named(b"b"))
    router = TLSRouter([TLSRoute(sni="a.lbclient.test", to=Pool([tcp(server)]))], default=Pool([tcp(other)]))
    hello = client_hello("a.lbclient.test")
    async with TCPForwarder(router, "127.0.0.1", 0) as forwarder:

        def talk() -> None:
            with dial(forwarder.port) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(0, len(hello), step):
                    client.sendall(hello[at : at + step])
                assert read_line(client) == b"a"
                client.sendall(b"more")
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == hello + b"more"

        await run_sync(talk)
    assert other.accepted == 0


BROKEN = {
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", None),
    "a broken hello": (client_hello()[:60] + b"\xff" * 600, b"\x15\x03\x01\x00\x02\x02\x32"),
    "nothing": (b"", None),
    "half a hello": (client_hello()[:100], None),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_hello_never_reaches_a_backend(raw_server: MakeRawServer, name: str) -> None:
    """Nor does it hang, nor disturb the others."""
    data, answer = BROKEN[name]
    server = raw_server(named(b"me"))
    pool = Pool([tcp(server)])
    with nothing_left(pool):
        async with TCPForwarder(TLSRouter([], default=pool), "127.0.0.1", 0, hello_timeout=0.2) as forwarder:

            def talk() -> bytes | None:
                with dial(forwarder.port) as client:
                    client.sendall(data)
                    try:
                        return read_all(client)
                    except ConnectionResetError:
                        return None

            assert await run_sync(talk) == answer
            await until(lambda: forwarder.stats.refused == 1 and not forwarder.stats.open)
            assert server.accepted == 0

            def say_nothing() -> None:
                dial(forwarder.port).close()

            await run_sync(say_nothing)
            await until(lambda: forwarder.stats.refused == 2 and not forwarder.stats.open)
    assert server.accepted == 0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda pool: TLSRouter([]), ValueError, "neither routes nor a default"),
        (lambda pool: TLSRouter([pool]), TypeError, "TLSRoute"),
        (lambda pool: TLSRouter([], default=[pool]), TypeError, "write a Pool"),  # type: ignore[arg-type]
        (lambda pool: TLSRoute(to="pool"), TypeError, "write a Pool"),  # type: ignore[arg-type]
        (lambda pool: TLSRoute(to=pool, sni=[]), ValueError, "takes nothing"),
        (lambda pool: TLSRoute(to=pool, sni=1), TypeError, "sni"),  # type: ignore[arg-type]
        (lambda pool: TLSRoute(to=pool, alpn=[b"h2"]), TypeError, "alpn"),  # type: ignore[list-item]
        (lambda pool: TLSRoute(to=pool, sni="a*.example"), ValueError, "leftmost"),
    ],
)
def test_wrong_routes_say_what_to_write(
    make: Callable[[Any], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make(Pool(["tcp://127.0.0.1:1"]))


def test_a_router_tells_what_it_has() -> None:
    pool = Pool(["tcp://127.0.0.1:1"])
    router = TLSRouter([TLSRoute(to=pool), TLSRoute(sni="*", to=pool)], default=pool)
    assert router.pools == (pool,)
    assert repr(router).startswith("<TLSRouter 2 routes, default <Pool")


# The PROXY protocol


def tell_header(connection: Connection) -> None:
    """A backend that wants a PROXY header, and says whom it names and what came behind."""
    reader = ProxyHeaderReader()
    header = None
    while header is None:
        data = connection.read()
        if not data:
            return
        header = reader.feed(data)
    connection.send(f"{header.source} {header.destination} ".encode() + reader.rest + b"\n")
    while data := connection.read():
        connection.send(data)


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_backends_are_told_who_the_client_is(raw_server: MakeRawServer, version: Any) -> None:
    pool = Pool([tcp(raw_server(tell_header))])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, send_proxy=version) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    own = client.getsockname()
                    wanted = f"127.0.0.1:{own[1]} 127.0.0.1:{forwarder.port} "
                    assert read_line(client) == wanted.encode()
                    client.sendall(b"hello")
                    assert client.recv(5) == b"hello"

            await run_sync(talk)


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_header_is_believed_passed_on_and_hashed(raw_server: MakeRawServer, version: Any) -> None:
    keys: list[object] = []
    pool = Pool(
        [tcp(raw_server(tell_header))],
        affinity=KeyAffinity(lambda facts: keys.append(facts.client_ip)),
    )
    header = ProxyHeaderReader().feed(b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 443\r\n")
    assert isinstance(header, ProxyHeader)
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, accept_proxy=True, send_proxy="v2") as forwarder:

            def talk(first: bytes) -> bytes:
                with dial(forwarder.port) as client:
                    client.sendall(first + b"hello")
                    return read_line(client)

            assert await run_sync(talk, header.encode(version)) == b"192.0.2.9:1234 192.0.2.1:443 hello"
            local = await run_sync(talk, ProxyHeader().encode(version))
            assert local.startswith(b"127.0.0.1:")
    assert keys == ["192.0.2.9", "127.0.0.1"]


async def test_a_header_goes_before_a_hello(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(tell_header))])
    router = TLSRouter([TLSRoute(sni="a.lbclient.test", to=pool)])
    hello = client_hello("a.lbclient.test")
    async with TCPForwarder(
        router, "127.0.0.1", 0, accept_proxy=["127.0.0.0/8"], send_proxy="v1"
    ) as forwarder:

        def talk(first: bytes) -> bytes:
            with dial(forwarder.port) as client:
                client.sendall(first)
                client.shutdown(socket.SHUT_WR)
                return read_all(client)

        answer = await run_sync(talk, b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 443\r\n" + hello)
    assert answer.startswith(b"192.0.2.9:1234 192.0.2.1:443 ")


async def test_who_is_not_trusted_is_not_asked_for_a_header(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])
    line = b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 443\r\n"
    async with TCPForwarder(pool, "127.0.0.1", 0, accept_proxy=["192.0.2.0/24"]) as forwarder:

        def talk() -> bytes:
            with dial(forwarder.port) as client:
                client.sendall(line)
                return client.recv(len(line), socket.MSG_WAITALL)

        assert await run_sync(talk) == line  # it is the client's own, whatever it looks like


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4 x 1 1\r\n", b"PROXY ", b""])
async def test_what_is_no_header_never_reaches_a_backend(raw_server: MakeRawServer, data: bytes) -> None:
    server = raw_server(echo)
    pool = Pool([tcp(server)])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, accept_proxy=True, hello_timeout=0.2) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    client.sendall(data)
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)

            await run_sync(talk)
            await until(lambda: forwarder.stats.refused == 1 and not forwarder.stats.open)
    assert server.accepted == 0


async def test_a_client_that_resets_within_its_hello_is_forgotten(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])
    async with TCPForwarder(pool, "127.0.0.1", 0, accept_proxy=True) as forwarder:

        def talk() -> None:
            client = dial(forwarder.port)
            client.sendall(b"PROXY ")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()

        await run_sync(talk)
        await until(lambda: forwarder.stats.refused == 1 and not forwarder.stats.open)
        assert forwarder.stats.failed == 0


async def test_nothing_of_a_late_backend_is_lost(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(after(0.1, named(b"late"))))])
    async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
        assert await run_sync(whose, forwarder.port) == b"late"


# A backend that takes the connection and breaks it


async def test_a_reset_before_the_first_byte_goes_elsewhere(raw_server: MakeRawServer) -> None:
    """A process that died behind something that accepts for it; a server that is going down."""
    broken, good = raw_server(after(0.05, reset)), raw_server(named(b"alive"))
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            for _ in range(2):
                assert await run_sync(whose, forwarder.port) == b"alive"
            await until(lambda: not forwarder.stats.open)
            assert forwarder.stats.accepted == 2
    assert [backend.failures for backend in pool.status().backends] == [2, 0]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_header_of_ours_is_no_byte_of_the_client_s(raw_server: MakeRawServer, version: Any) -> None:
    broken, good = raw_server(after(0.05, reset)), raw_server(tell_header)
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, send_proxy=version) as forwarder:
            assert (await run_sync(whose, forwarder.port)).startswith(b"127.0.0.1:")
            await until(lambda: not forwarder.stats.open)
            assert forwarder.stats.bytes_up == 0


async def test_nothing_that_was_sent_is_sent_twice(raw_server: MakeRawServer) -> None:
    broken, good = raw_server(after_bytes(5, reset)), raw_server(named(b"alive"))
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    client.sendall(b"hello")
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)

            await run_sync(talk)
    assert good.accepted == 0


async def test_when_all_of_them_reset_so_does_the_forwarder(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(after(0.02, reset))) for _ in range(2)])
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
            with pytest.raises(ConnectionResetError):
                await run_sync(whose, forwarder.port)
            await until(lambda: not forwarder.stats.open)
            assert forwarder.stats.failed == 1
    assert sum(backend.failures for backend in pool.status().backends) == 3


async def test_stopped_while_it_goes_elsewhere_it_leaves_nothing_behind(raw_server: MakeRawServer) -> None:
    with full_backlog() as port:
        pool = Pool([tcp(raw_server(after(0.05, reset))), f"tcp://127.0.0.1:{port}"], algorithm="first")
        with nothing_left(pool):
            async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder:
                with await run_sync(dial, forwarder.port) as client:
                    await until(lambda: pool.status().backends[1].in_flight == 1)
                    assert await forwarder.stop(grace=0) == 1
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)


async def test_a_backend_that_does_not_answer_in_time_is_to_blame(raw_server: MakeRawServer) -> None:
    silent, good = raw_server(stall), raw_server(echo)
    pool = Pool([tcp(silent), tcp(good)], algorithm="first")
    with nothing_left(pool):
        async with TCPForwarder(pool, "127.0.0.1", 0, answer_timeout=0.2, idle_timeout=0.5) as forwarder:

            def talk() -> None:
                with dial(forwarder.port) as client:
                    client.sendall(b"hello")
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)

            await run_sync(talk)
            assert pool.status().backends[0].failures == 1
            pool.disable(tcp(silent))

            def talk_at_length() -> None:
                with dial(forwarder.port) as client:
                    for _ in range(8):
                        client.sendall(b"x")
                        assert client.recv(1) == b"x"
                        threading.Event().wait(0.05)

            await run_sync(talk_at_length)
    assert pool.status().backends[1].failures == 0
