"""`connect` and `create_connection`: one connection to one backend, failing over until there is one."""

from __future__ import annotations

import errno
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute
from tenacity import stop_after_attempt

from lbclient import Backend, Connect, KeyAffinity, PassiveHealth, Pool, Retry, TcpProbe, Ticket
from lbclient.core.errors import DrainTimeout
from lbclient.core.errors import NoBackendAvailable as CoreNoBackendAvailable
from lbclient.core.source import Source
from lbclient.l4 import (
    CutOff,
    NoBackendAvailable,
    StreamAttribute,
    close,
    connect,
    connections,
    create_connection,
    drain,
    probing,
    swap,
    wait_until_ready,
)
from lbclient.l4.fleet import fleet_of
from lbclient.l4.stream import BackendStream
from tests.conftest import MakeRawServer
from tests.core.pools import estimate_of
from tests.l4.peers import digest_at_the_end, echo, named, tcp
from tests.servers import free_port, full_backlog
from tests.servers.raw import after, after_bytes, greet, reset, stall


def in_flight(pool: Pool) -> list[int]:
    return [backend.in_flight for backend in pool.status().backends]


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


def refusing() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


# A connection


async def test_bytes_go_both_ways_and_either_side_may_end(raw_server: MakeRawServer) -> None:
    server = raw_server(digest_at_the_end)
    pool = Pool([tcp(server)])
    async with await connect(pool) as stream:
        assert in_flight(pool) == [1]
        assert connections(pool) == {tcp(server): 1}
        await stream.send(b"x" * 1_000_000)
        await stream.send(b"")
        await stream.send_eof()
        answer = b"".join([part async for part in stream])
    assert len(answer) == 64
    assert in_flight(pool) == [0]
    assert connections(pool) == {}
    assert pool.status().backends[0].successes == 1


async def test_the_stream_knows_who_is_at_the_other_end_and_why(raw_server: MakeRawServer) -> None:
    server = raw_server(echo)
    dead = refusing()
    pool = Pool([dead, tcp(server)], algorithm="first")
    async with await connect(pool) as stream:
        assert stream.extra(StreamAttribute.backend).url == tcp(server)
        record = stream.extra(StreamAttribute.record)
        assert [(a.backend, a.outcome) for a in record.attempts] == [
            (dead, "connect (Connection refused)"),
            (tcp(server), "connected"),
        ]
        assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", server.port)
        assert stream.extra(SocketAttribute.local_address)[0] == "127.0.0.1"
        assert stream.extra(SocketAttribute.family) == socket.AF_INET
        assert stream.extra(SocketAttribute.raw_socket).fileno() > 0
        assert tcp(server) in repr(stream)
        assert "open" in repr(stream)
    assert "closed" in repr(stream)


async def test_least_connections_counts_connections(raw_server: MakeRawServer) -> None:
    servers = [raw_server(named(b"%d" % number)) for number in range(3)]
    pool = Pool([tcp(server) for server in servers], algorithm="least_connections")
    streams = [await connect(pool) for _ in range(9)]
    assert in_flight(pool) == [3, 3, 3]
    for stream in streams:
        if stream.extra(StreamAttribute.backend).url == tcp(servers[1]):
            await stream.aclose()
    assert in_flight(pool) == [3, 0, 3]
    more = [await connect(pool) for _ in range(3)]
    assert in_flight(pool) == [3, 3, 3]
    for stream in (*streams, *more):
        await stream.aclose()
    assert in_flight(pool) == [0, 0, 0]


async def test_keys_are_hashed_and_affinities_hold(raw_server: MakeRawServer) -> None:
    urls = [tcp(raw_server(echo)) for _ in range(4)]
    for pool in (
        Pool(urls, algorithm="ring_hash"),
        Pool(urls, affinity=KeyAffinity(lambda facts: facts.options.get("key"))),
    ):
        chosen: dict[str, set[str]] = {}
        for key in [*"abcdefgh"] * 3:
            async with await connect(pool, key=key) as stream:
                chosen.setdefault(key, set()).add(stream.extra(StreamAttribute.backend).url)
        assert all(len(who) == 1 for who in chosen.values())
        assert len(set.union(*chosen.values())) > 1


async def test_http_urls_and_unix_sockets_say_where_to_connect(
    raw_server: MakeRawServer, tmp_path: Path
) -> None:
    server = raw_server(echo)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for backend in (Backend(server.url), Backend("tcp://here:1", uds=str(path))):
            async with await connect(Pool([backend])) as stream:
                await stream.send(b"hello")
            with create_connection(Pool([backend])) as sock:
                sock.sendall(b"hello")


async def test_names_are_looked_up(raw_server: MakeRawServer) -> None:
    server = raw_server(echo)
    pool = Pool([f"tcp://localhost:{server.port}"])
    async with await connect(pool) as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
    with await anyio.to_thread.run_sync(lambda: create_connection(pool)) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
    unknown = Pool(["tcp://nowhere.invalid:1"], retry=None)
    with pytest.raises(socket.gaierror):
        await connect(unknown)


async def test_the_pool_s_socket_options_and_local_address_are_used(raw_server: MakeRawServer) -> None:
    server = raw_server(echo)
    option = (socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    settings = Connect(local_address="127.0.0.9", socket_options=[option])
    async with await connect(Pool([tcp(server)], connect=settings)) as stream:
        raw = stream.extra(SocketAttribute.raw_socket)
        assert raw.getsockname()[0] == "127.0.0.9"
        assert raw.getsockopt(*option[:2]) < 65536
    wrong = Pool([tcp(server)], retry=None, connect=Connect(local_address="192.0.2.1"))
    with pytest.raises(OSError, match="assign"):
        await connect(wrong)
    assert wrong.status().backends[0].failures == 0  # that is no fault of the backend's


async def test_without_descriptors_nobody_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(family: int, kind: socket.SocketKind, connect: Connect) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("lbclient.l4.sockets.new_socket", none_left)
    pool = Pool(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])
    with pytest.raises(OSError, match="Too many open files"):
        await connect(pool)
    with pytest.raises(OSError, match="Too many open files"):
        create_connection(pool)
    assert [(b.failures, b.in_flight, b.ejected) for b in pool.status().backends] == [(0, 0, False)] * 2


# Failing over


async def test_it_fails_over_until_somebody_takes_the_connection(raw_server: MakeRawServer) -> None:
    server = raw_server(named(b"alive"))
    with full_backlog() as port:
        hanging = f"tcp://127.0.0.1:{port}"
        dead = refusing()
        pool = Pool([dead, hanging, tcp(server)], algorithm="first", connect=Connect(connect_timeout=0.1))
        async with await connect(pool, timeout=1000) as stream:  # no attempt waits for that
            assert await stream.receive() == b"alive\n"
    failures = [backend.failures for backend in pool.status().backends]
    assert failures == [1, 1, 0]
    assert in_flight(pool) == [0, 0, 0]


async def test_any_connection_tries_who_has_failed(raw_server: MakeRawServer) -> None:
    healed, good = raw_server(stall), raw_server(stall)
    pool = Pool([tcp(healed), tcp(good)])
    for _ in range(4):
        pool.pick(exclude=[tcp(good)]).failed("connect", 0.001)
    estimate_of(pool, tcp(healed)).trial = 0.0  # from now on
    async with await connect(pool) as stream:
        assert stream.extra(StreamAttribute.backend).url == tcp(healed)


async def test_refusals_eject_a_backend(raw_server: MakeRawServer) -> None:
    server = raw_server(echo)
    dead = refusing()
    pool = Pool([dead, tcp(server)], algorithm="first", passive=PassiveHealth(consecutive_failures=3))
    for _ in range(5):
        async with await connect(pool):
            pass
    status = pool.status().backends[0]
    assert status.ejected
    assert status.failures == 3


async def test_a_backend_that_does_not_take_the_connection_in_time_is_ejected_at_once(
    raw_server: MakeRawServer,
) -> None:
    server = raw_server(echo)
    with full_backlog() as port:
        pool = Pool(
            [f"tcp://127.0.0.1:{port}", tcp(server)], algorithm="first", connect=Connect(connect_timeout=0.1)
        )
        async with await connect(pool):
            pass
    assert pool.status().backends[0].ejected


async def test_when_all_refuse_the_last_error_tells_of_all() -> None:
    urls = [refusing(), refusing()]
    pool = Pool(urls, algorithm="first", retry=Retry(stop=stop_after_attempt(2)))
    with pytest.raises(ConnectionRefusedError) as caught:
        await connect(pool)
    [note] = caught.value.__notes__
    assert all(url in note for url in urls)
    record = caught.value.lbclient  # type: ignore[attr-defined]
    assert [attempt.backend for attempt in record.attempts] == urls
    assert in_flight(pool) == [0, 0]


async def test_somebody_is_tried_again_after_a_wait() -> None:
    pool = Pool([refusing()], retry=Retry(stop=stop_after_attempt(3)))
    with pytest.raises(ConnectionRefusedError) as caught:
        await connect(pool)
    assert len(caught.value.lbclient.attempts) == 3  # type: ignore[attr-defined]


async def test_nobody_to_pick_is_a_connection_error() -> None:
    pool = Pool([refusing()], fail_open=False)
    pool.disable(pool.declared[0].url)
    with pytest.raises(NoBackendAvailable, match="disabled") as caught:
        await connect(pool)
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value, CoreNoBackendAvailable)
    with pytest.raises(NoBackendAvailable, match="disabled"):
        create_connection(pool)


async def test_the_timeout_is_the_caller_s_and_nobody_s_fault() -> None:
    with full_backlog() as port:
        pool = Pool([f"tcp://127.0.0.1:{port}"])
        with pytest.raises(TimeoutError):
            await connect(pool, timeout=0.1)
        assert pool.status().backends[0].failures == 0
        with pytest.raises(TimeoutError):
            await anyio.to_thread.run_sync(lambda: create_connection(pool, timeout=0.1))
        assert pool.status().backends[0].failures == 0
    assert in_flight(pool) == [0]


async def test_cancelled_while_it_connects_it_leaves_nothing_behind() -> None:
    with full_backlog() as port:
        pool = Pool([f"tcp://127.0.0.1:{port}"])
        with anyio.move_on_after(0.05):
            await connect(pool)
    status = pool.status().backends[0]
    assert (status.in_flight, status.failures) == (0, 0)
    gc.collect()  # a socket left open would warn


async def test_a_full_pool_is_waited_for(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))], max_in_flight=1, max_pending=1)
    stream = await connect(pool)
    with pytest.raises(TimeoutError, match=r"no room within 0\.05 s"):
        await connect(pool, timeout=0.05)
    with pytest.raises(TimeoutError, match="no room"):
        await anyio.to_thread.run_sync(lambda: create_connection(pool, timeout=0.05))
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            async with await connect(pool):
                pass

        group.start_soon(wait)
        await until(lambda: pool.queue is not None and len(pool.queue) == 1)
        with pytest.raises(NoBackendAvailable, match="max_pending"):
            await connect(pool)
        await stream.aclose()
    blocked = await connect(pool)
    async with anyio.create_task_group() as group:

        def wait_blocking() -> None:
            create_connection(pool).close()

        group.start_soon(anyio.to_thread.run_sync, wait_blocking)
        await until(lambda: pool.queue is not None and len(pool.queue) == 1)
        await blocked.aclose()
    assert in_flight(pool) == [0]


# How it ends


async def test_a_reset_is_told_and_counts_against_the_backend(raw_server: MakeRawServer) -> None:
    server = raw_server(after_bytes(1, reset))
    pool = Pool([tcp(server)])
    async with await connect(pool) as stream:
        await stream.send(b"x")
        with pytest.raises(anyio.BrokenResourceError, match=str(server.port)) as caught:
            await stream.receive()
        assert caught.value.lbclient.backend == tcp(server)  # type: ignore[attr-defined]
        with pytest.raises(
            anyio.BrokenResourceError
        ):  # and no end of the stream, though the kernel says so now
            await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")
        await stream.send_eof()
    assert pool.status().backends[0].failures == 1
    assert in_flight(pool) == [0]


# A backend that takes the connection and breaks it


async def test_a_connection_that_breaks_before_its_first_byte_is_replaced(raw_server: MakeRawServer) -> None:
    broken, good = raw_server(after(0.2, reset)), raw_server(named(b"alive"))
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    async with await connect(pool) as stream:
        assert await stream.receive() == b"alive\n"
        assert stream.extra(StreamAttribute.backend).url == tcp(good)
        outcomes = [attempt.outcome for attempt in stream.extra(StreamAttribute.record).attempts]
        assert outcomes[-2:] == ["reset (Connection reset by peer)", "connected"]
        assert connections(pool) == {tcp(good): 1}
        assert in_flight(pool) == [0, 1]
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
    assert [backend.failures for backend in pool.status().backends] == [1, 0]
    assert (in_flight(pool), connections(pool)) == ([0, 0], {})


async def test_what_is_sent_first_meets_the_other_one(raw_server: MakeRawServer) -> None:
    """One task reads all the time, as in most protocols."""
    broken, good = raw_server(reset), raw_server(echo)
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    got: list[bytes] = []
    async with await connect(pool) as stream, anyio.create_task_group() as group:

        async def read() -> None:
            got.append(await stream.receive())

        group.start_soon(read)
        await until(lambda: in_flight(pool) == [0, 1])
        await stream.send(b"hello")
    assert got == [b"hello"]
    assert in_flight(pool) == [0, 0]


async def test_sent_alone_it_meets_the_other_one_too(raw_server: MakeRawServer) -> None:
    broken, good = raw_server(reset), raw_server(echo)
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    async with await connect(pool) as stream:
        await until(lambda: broken.accepted == 1 and broken.open == 0)
        if stream.extra(StreamAttribute.backend).url == tcp(broken):  # or the reset came while it connected
            await anyio.wait_readable(stream.extra(SocketAttribute.raw_socket))
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
    assert [backend.failures for backend in pool.status().backends] == [1, 0]


async def test_when_all_of_them_break_it_is_told(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(after(0.02, reset))) for _ in range(2)])
    async with await connect(pool) as stream:
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
    assert sum(backend.failures for backend in pool.status().backends) == 3
    assert in_flight(pool) == [0, 0]


async def test_closed_while_it_is_replaced_it_leaves_nothing_behind(raw_server: MakeRawServer) -> None:
    with full_backlog() as port:
        pool = Pool([tcp(raw_server(after(0.02, reset))), f"tcp://127.0.0.1:{port}"], algorithm="first")
        stream = await connect(pool, timeout=0.5)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
                    await stream.receive()

            group.start_soon(read)
            await until(lambda: in_flight(pool)[1] == 1)
            await stream.aclose()
    assert (in_flight(pool), connections(pool)) == ([0, 0], {})


async def test_what_replaced_it_is_closed_when_the_stream_was_meanwhile(raw_server: MakeRawServer) -> None:
    broken, good = raw_server(after(0.02, reset)), raw_server(named(b"alive"))
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    stream = await connect(pool)
    assert isinstance(stream, BackendStream)
    replace = stream._replace
    assert replace is not None

    async def slowly(ticket: Ticket, exc: OSError) -> BackendStream:
        other = await replace(ticket, exc)
        await stream.aclose()
        return other

    stream._replace = slowly
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()
    assert (in_flight(pool), connections(pool)) == ([0, 0], {})


async def test_a_drain_cuts_what_replaced_it(raw_server: MakeRawServer) -> None:
    broken, good = raw_server(after(0.02, reset)), raw_server(named(b"alive"))
    pool = Pool([tcp(broken), tcp(good)], algorithm="first")
    stream = await connect(pool)
    assert isinstance(stream, BackendStream)
    replace = stream._replace
    assert replace is not None

    async def drained_meanwhile(ticket: Ticket, exc: OSError) -> BackendStream:
        other = await replace(ticket, exc)
        fleet_of(pool).cut_now(tcp(good), "a drain")
        return other

    stream._replace = drained_meanwhile
    with pytest.raises(CutOff, match="a drain"):
        b"".join([part async for part in stream])
    await stream.aclose()
    assert (in_flight(pool), connections(pool)) == ([0, 0], {})


async def test_what_the_caller_does_is_nobody_s_fault(raw_server: MakeRawServer) -> None:
    server = raw_server(stall)
    pool = Pool([tcp(server)])
    stream = await connect(pool)
    with anyio.move_on_after(0.02) as scope:
        await stream.receive()
    assert scope.cancelled_caught
    await stream.aclose()
    await stream.aclose()
    for use in (stream.receive, stream.send_eof, lambda: stream.send(b"x")):
        with pytest.raises(anyio.ClosedResourceError):
            await use()
    status = pool.status().backends[0]
    assert (status.failures, status.in_flight) == (0, 0)


async def test_closing_wakes_whoever_reads(raw_server: MakeRawServer) -> None:
    stream = await connect(Pool([tcp(raw_server(stall))]))
    async with anyio.create_task_group() as group:

        async def read() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await stream.receive()

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        await stream.aclose()


async def test_back_pressure_reaches_the_sender(raw_server: MakeRawServer) -> None:
    stream = await connect(Pool([tcp(raw_server(stall))]))
    with anyio.move_on_after(0.2) as scope:
        await stream.send(b"x" * 50_000_000)
    assert scope.cancelled_caught
    await stream.aclose()


@pytest.mark.filterwarnings("always::ResourceWarning")
@pytest.mark.parametrize("kind", ["stream", "socket"])
async def test_what_is_dropped_is_given_back_with_a_warning(raw_server: MakeRawServer, kind: str) -> None:
    pool = Pool([tcp(raw_server(echo))])
    made: object = await connect(pool) if kind == "stream" else create_connection(pool)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del made
        gc.collect()
    assert any("never closed" in str(warning.message) for warning in caught)
    caught.clear()  # a warning holds on to its source
    assert in_flight(pool) == [0]
    assert connections(pool).get(pool.declared[0].url, 0) == 0


# TLS


async def test_tls_is_the_backend_s_own(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    server = raw_server(echo, tls=server_ssl_context)
    backend = Backend(f"tcp://127.0.0.1:{server.port}", host="x.lbclient.test")
    pool = Pool([backend], connect=Connect(verify=client_ssl_context))
    for tls in (True, client_ssl_context):
        async with await connect(pool, tls=tls) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            assert stream.extra(TLSAttribute.cipher)
            assert stream.extra(StreamAttribute.backend).url == backend.url
        with await anyio.to_thread.run_sync(lambda: create_connection(pool, tls=True)) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            assert sock.version() == "TLSv1.3"
            sock.sendall(b"hello")
            assert await anyio.to_thread.run_sync(lambda: sock.recv(5)) == b"hello"
            assert in_flight(pool) == [1]
    assert in_flight(pool) == [0]
    assert client_ssl_context.sslsocket_class is ssl.SSLSocket


async def test_a_handshake_that_fails_goes_elsewhere(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    plain = raw_server(greet(b"220 this is no TLS, and long enough to be read as some\r\n"))
    hanging_up = raw_server(reset)
    other = raw_server(echo, tls=server_ssl_context)
    good = raw_server(named(b"good"), tls=server_ssl_context)
    pool = Pool(
        [
            tcp(plain),
            tcp(hanging_up),
            Backend(tcp(other), host="other.example"),
            Backend(tcp(good), host="good.lbclient.test"),
        ],
        algorithm="first",
        retry=Retry(stop=stop_after_attempt(4)),
    )
    async with await connect(pool, tls=client_ssl_context) as stream:
        assert await stream.receive() == b"good\n"
        outcomes = [attempt.outcome for attempt in stream.extra(StreamAttribute.record).attempts]
    assert "certificate verify failed" in outcomes[2]
    with await anyio.to_thread.run_sync(lambda: create_connection(pool, tls=client_ssl_context)) as sock:
        assert await anyio.to_thread.run_sync(lambda: sock.recv(100)) == b"good\n"
    assert [backend.failures for backend in pool.status().backends] == [2, 2, 2, 0]
    assert in_flight(pool) == [0, 0, 0, 0]


async def test_closing_tls_does_not_wait_for_a_silent_peer(
    raw_server: MakeRawServer,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lbclient.l4.stream.GOODBYE_WITHIN", 0.05)
    server = raw_server(stall, tls=server_ssl_context)
    pool = Pool([Backend(tcp(server), host="localhost")])
    stream = await connect(pool, tls=client_ssl_context)
    with anyio.fail_after(5):
        await stream.aclose()
        await stream.aclose()
    assert in_flight(pool) == [0]


# Sockets


async def test_a_socket_is_in_flight_until_its_last_file_is_closed(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(named(b"me")))])

    def use() -> None:
        sock = create_connection(pool)
        assert sock.gettimeout() is None
        assert sock.backend.url == pool.declared[0].url  # type: ignore[attr-defined]
        with sock.makefile("rwb") as file:
            sock.close()
            assert file.readline() == b"me\n"
            assert in_flight(pool) == [1]
        assert in_flight(pool) == [0]
        sock.close()

    await anyio.to_thread.run_sync(use)


async def test_a_detached_socket_is_the_caller_s(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])
    sock = create_connection(pool)
    with socket.socket(fileno=sock.detach()) as own:
        assert in_flight(pool) == [0]
        own.sendall(b"hello")


async def test_a_socket_s_reset_counts_and_its_timeout_does_not(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(after_bytes(1, reset)))])

    def use() -> None:
        with create_connection(pool) as sock:
            sock.settimeout(0.02)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            assert pool.status().backends[0].failures == 0
            sock.settimeout(10)
            sock.send(b"x")
            buffer = bytearray(10)
            with pytest.raises(ConnectionResetError):
                sock.recv_into(buffer)
        assert pool.status().backends[0].failures == 1

    await anyio.to_thread.run_sync(use)


# Draining


@asynccontextmanager
async def draining(pool: Pool, url: str, grace: float) -> AsyncGenerator[list[object]]:
    reports: list[object] = []
    async with anyio.create_task_group() as group:

        async def carry_out() -> None:
            reports.append(await drain(pool, url, grace=grace))

        group.start_soon(carry_out)
        await until(lambda: any(b.admin == "draining" for b in pool.status().backends))
        yield reports


async def test_a_drain_waits_for_connections_to_end_by_themselves(raw_server: MakeRawServer) -> None:
    old, new = raw_server(echo), raw_server(echo)
    pool = Pool([tcp(old), tcp(new)], algorithm="first")
    stream = await connect(pool)
    async with draining(pool, tcp(old), 60.0) as reports:
        async with await connect(pool) as other:
            assert other.extra(StreamAttribute.backend).url == tcp(new)
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"
        assert not reports
        await stream.aclose()
    [report] = reports
    assert (report.drained, report.closed, report.in_flight_at_start) == (True, 0, 1)  # type: ignore[attr-defined]
    assert pool.status().backends[0].admin == "disabled"


async def test_what_is_left_after_the_grace_period_is_cut_off(raw_server: MakeRawServer) -> None:
    old, new = raw_server(stall), raw_server(echo)
    pool = Pool([tcp(old), tcp(new)], algorithm="first")
    stream = await connect(pool)
    seen: list[type[BaseException]] = []

    def use(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(1)
            except CutOff as exc:
                seen.append(type(exc))

    def use_into(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv_into(bytearray(1))
            except DrainTimeout as exc:
                seen.append(type(exc))

    async def read() -> None:
        with pytest.raises(CutOff, match=r"grace period of 0\.1 s"):
            await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")
        assert "cut off" in repr(stream)

    sockets = [create_connection(pool) for _ in range(3)]
    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(anyio.to_thread.run_sync, use, sockets[0])
        group.start_soon(anyio.to_thread.run_sync, use_into, sockets[1])
        report = await drain(pool, tcp(old), grace=0.1)
    assert (report.drained, report.closed) == (False, 4)
    with pytest.raises(CutOff):
        sockets[2].sendall(b"x")
    sockets[2].close()
    await stream.aclose()
    assert seen == [CutOff, CutOff]
    assert in_flight(pool) == [0, 0]
    assert sum(backend.failures for backend in pool.status().backends) == 0


async def test_who_connects_while_a_drain_ends_goes_elsewhere(raw_server: MakeRawServer) -> None:
    """The backend takes the connection only after the connections to it were closed."""
    new = raw_server(named(b"new"))
    old = raw_server(echo)
    pool = Pool([tcp(old), tcp(new)], algorithm="first")
    fleet = fleet_of(pool)
    cuts, fleet.cuts = fleet.cuts, lambda url: cuts(url) - (url == tcp(old))  # type: ignore[method-assign]
    async with await connect(pool) as stream:
        assert await stream.receive() == b"new\n"
        outcomes = [attempt.outcome for attempt in stream.extra(StreamAttribute.record).attempts]
    assert outcomes == ["leaving (a drain closed its connections)", "connected"]
    with create_connection(pool) as sock:
        assert sock.recv(4) == b"new\n"
    lonely = Pool([tcp(old)], retry=None)
    fleet = fleet_of(lonely)
    fleet.cuts = lambda url: -1  # type: ignore[method-assign]
    with pytest.raises(ConnectionAbortedError, match="drain"):
        await connect(lonely)
    assert (in_flight(pool), in_flight(lonely)) == ([0, 0], [0])
    assert pool.status().backends[0].failures == 0


async def test_one_change_at_a_time(raw_server: MakeRawServer) -> None:
    old, new = raw_server(echo), raw_server(echo)
    pool = Pool([tcp(old), tcp(new)], algorithm="first")
    stream = await connect(pool)
    async with draining(pool, tcp(old), 60.0):
        with pytest.raises(RuntimeError, match=r"a drain of .* is under way"):
            await drain(pool, tcp(old) + "/")
        with pytest.raises(RuntimeError, match="is under way"):
            await swap(pool, [tcp(new)])
        assert (await drain(pool, tcp(new), grace=0)).drained
        await stream.aclose()
    assert (await drain(pool, tcp(old), grace=0)).drained


async def test_a_swap_flips_the_set_and_drains_the_old_one(raw_server: MakeRawServer) -> None:
    blue, green = raw_server(stall), raw_server(named(b"green"))
    pool = Pool([tcp(blue)], probe=TcpProbe(interval=0.1, timeout=0.1))
    stream = await connect(pool)
    report = await swap(pool, [tcp(green)], grace=0.1)
    assert report.swapped
    assert [each.closed for each in report.drains] == [1]
    with pytest.raises(CutOff):
        await stream.receive()
    await stream.aclose()
    async with await connect(pool) as other:
        assert await other.receive() == b"green\n"
    assert await close(pool) == 0


# Probes and sources


async def test_a_pool_that_does_not_know_its_backends_yet_is_waited_for(raw_server: MakeRawServer) -> None:
    url = tcp(raw_server(named(b"me")))
    ready = threading.Event()

    class Slow(Source):
        async def watch(self) -> AsyncGenerator[list[str]]:
            await anyio.to_thread.run_sync(ready.wait, abandon_on_cancel=True)
            yield [url]

    pool = Pool(Slow())
    try:
        with pytest.raises(NoBackendAvailable, match="no set from Slow yet"):
            await connect(pool, timeout=0.05)
        async with anyio.create_task_group() as group:

            async def use() -> None:
                async with await connect(pool) as stream:
                    assert await stream.receive() == b"me\n"

            group.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            ready.set()
    finally:
        ready.set()
        await close(pool)


async def test_probes_run_in_the_block_and_keep_away_from_who_fails(raw_server: MakeRawServer) -> None:
    server = raw_server(echo)
    dead = refusing()
    pool = Pool([dead, tcp(server)], algorithm="first", probe=TcpProbe(interval=0.05, timeout=0.05))
    async with probing(pool):
        await wait_until_ready(pool)
        assert [backend.check for backend in pool.status().backends] == ["failing", "passing"]
        async with await connect(pool) as stream:
            assert len(stream.extra(StreamAttribute.record).attempts) == 1
    assert not fleet_of(pool).probing


async def test_connecting_starts_the_probes_in_a_thread_until_close(raw_server: MakeRawServer) -> None:
    server = raw_server(stall)
    pool = Pool([tcp(server)], probe=TcpProbe(interval=0.05, timeout=0.05))
    stream = await connect(pool)
    assert fleet_of(pool).probing
    with pytest.raises(TypeError, match="timeout is '10'; write a number of 0 or more"):
        await wait_until_ready(pool, "10")  # type: ignore[arg-type]
    await wait_until_ready(pool)
    names = [thread.name for thread in threading.enumerate()]
    assert any("probes of pool" in name for name in names)
    assert await close(pool) == 1
    assert not fleet_of(pool).probing
    with pytest.raises(CutOff, match="closed"):
        await stream.receive()
    await stream.aclose()


def test_a_fleet_lives_as_long_as_its_pool() -> None:
    pool = Pool(["tcp://127.0.0.1:1"])
    fleet = fleet_of(pool)
    assert fleet_of(pool) is fleet
    assert repr(fleet).startswith("<Fleet of <Pool 'default'")
    import weakref

    gone = weakref.ref(fleet)
    del fleet, pool
    gc.collect()
    assert gone() is None


# Arguments


async def test_wrong_arguments_say_what_to_write(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])
    with pytest.raises(TypeError, match="write a Pool"):
        await connect(["tcp://127.0.0.1:1"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="SSLContext"):
        await connect(pool, tls="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        await connect(pool, timeout=0)
    with pytest.raises(ValueError, match="UDPForwarder"):
        await connect(Pool(["udp://127.0.0.1:53"]))
    async with await connect(pool, tls=False) as stream:
        await stream.send(b"plain")


async def test_threads_and_loops_share_the_counts(raw_server: MakeRawServer) -> None:
    pool = Pool([tcp(raw_server(echo))])

    def elsewhere() -> None:
        async def main() -> None:
            async with await connect(pool) as stream:
                await stream.send(b"x")
                held.set()
                await anyio.to_thread.run_sync(release.wait)

        anyio.run(main)

    held, release = threading.Event(), threading.Event()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert await anyio.to_thread.run_sync(lambda: held.wait(10))
    try:
        async with await connect(pool):
            assert in_flight(pool) == [2]
            assert connections(pool) == {pool.declared[0].url: 2}
    finally:
        release.set()
        thread.join(10)
    assert in_flight(pool) == [0]
