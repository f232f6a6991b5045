"""What the sync transport is made of: deadlines and cancellation for code that blocks, and the sockets below it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable

import httpcore
import pytest

from lbclient import Connect
from lbclient._sync import blocking
from lbclient._sync.blocking import Cancelled, CancelScope, Event, Wake
from lbclient._sync.connections import OPEN, Connections
from lbclient._sync.sockets import Network
from tests.conftest import MakeRawServer
from tests.servers import full_backlog
from tests.servers.raw import after_request, respond, stall

FOREVER = 30


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


# Deadlines


def test_a_deadline_ends_a_wait_and_says_so() -> None:
    with blocking.move_on_after(0.01) as scope:
        Event().wait()
        pytest.fail("it went on")
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError), blocking.fail_after(0.01):
        blocking.sleep(FOREVER)
    with blocking.move_on_after(None) as scope, blocking.fail_after(FOREVER):
        blocking.sleep(0)
    assert not scope.cancelled_caught


def test_the_outer_deadline_ends_the_inner_scope() -> None:
    with blocking.move_on_after(0.01) as outer:
        with blocking.move_on_after(FOREVER) as inner:
            blocking.sleep(FOREVER)
        pytest.fail("it went on")
    assert (outer.cancelled_caught, inner.cancelled_caught) == (True, False)


def test_a_shield_keeps_the_outer_deadline_out() -> None:
    with blocking.move_on_after(0.01) as outer:
        with CancelScope(shield=True):
            blocking.sleep(0.05)
        assert not outer.cancelled_caught
        blocking.sleep(FOREVER)
    assert outer.cancelled_caught


def test_a_deadline_ends_a_read_from_a_socket(raw_server: MakeRawServer) -> None:
    stream = Network().connect_tcp("127.0.0.1", raw_server(stall).port)
    with blocking.move_on_after(0.05) as scope:
        stream.read(1, timeout=FOREVER)
    assert scope.cancelled_caught
    with pytest.raises(httpcore.ReadTimeout):
        stream.read(1, timeout=0.01)
    stream.close()


# Cancelling, from another thread


def test_a_scope_can_be_cancelled_by_another_thread() -> None:
    scope, begun = CancelScope(), threading.Event()

    def wait() -> None:
        with scope:
            begun.set()
            Event().wait()

    thread = in_thread(wait)
    begun.wait()
    scope.cancel()
    thread.join(5)
    assert scope.cancelled_caught
    with scope, pytest.raises(Cancelled):
        blocking.sleep(0)


def test_a_cancelled_read_returns_at_once(raw_server: MakeRawServer) -> None:
    server = raw_server(stall)
    stream = Network().connect_tcp("127.0.0.1", server.port)
    scope = CancelScope()

    def read() -> None:
        with scope:
            stream.read(1)

    thread = in_thread(read)
    while not scope._interrupts:
        time.sleep(0.001)
    scope.cancel()
    thread.join(5)
    assert scope.cancelled_caught
    stream.close()


def test_the_first_failure_in_a_group_cancels_the_others_and_is_raised() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught, blocking.create_task_group() as group:  # noqa: PT012
        group.start_soon(blocking.sleep, FOREVER)
        group.start_soon(fail)
        blocking.sleep(FOREVER)
    assert [type(exc) for exc in caught.value.exceptions] == [ZeroDivisionError]


def test_what_is_raised_in_the_block_ends_the_group() -> None:
    with pytest.raises(ExceptionGroup) as caught, blocking.create_task_group() as group:  # noqa: PT012
        group.start_soon(blocking.sleep, FOREVER)
        raise KeyError
    assert [type(exc) for exc in caught.value.exceptions] == [KeyError]


def test_a_deadline_around_a_group_ends_its_tasks() -> None:
    with blocking.move_on_after(0.05) as scope, blocking.create_task_group() as group:
        group.start_soon(blocking.sleep, FOREVER)
    assert scope.cancelled_caught


def test_one_task_of_a_group_runs_at_a_time_and_changes_hands_only_when_it_blocks() -> None:
    running: list[int] = []
    switches: list[int] = []

    def run(number: int) -> None:
        for _ in range(20):
            running.append(number)
            for _ in range(1000):
                assert running == [number]
            running.remove(number)
            switches.append(number)
            blocking.sleep(0.0001)

    with blocking.create_task_group() as group, blocking.create_task_group() as inner:
        for number in range(3):
            group.start_soon(run, number)
            inner.start_soon(run, number + 3)
    assert sorted(switches) == sorted([*range(6)] * 20)


# Waking


def test_a_wake_before_the_wait_is_kept_and_many_count_as_one() -> None:
    wake = Wake()
    assert repr(wake) == "<Wake quiet>"
    wake.wake()
    wake.wake()
    assert repr(wake) == "<Wake raised>"
    wake.wait()
    with blocking.move_on_after(0.01) as scope:
        wake.wait()
    assert scope.cancelled_caught


def test_an_event_wakes_everybody_and_stays_set() -> None:
    event = Event()
    woken: list[int] = []

    def wait() -> None:
        event.wait()
        woken.append(1)

    threads = [in_thread(wait) for _ in range(5)]
    while len(event._gates) < 5:
        time.sleep(0.001)
    event.set()
    for thread in threads:
        thread.join(5)
    assert len(woken) == 5
    assert event.is_set()
    event.wait()


# Sockets


def test_closing_a_socket_wakes_who_reads_from_it(raw_server: MakeRawServer) -> None:
    stream = Network().connect_tcp("127.0.0.1", raw_server(stall).port)
    number = stream.get_extra_info("socket").fileno()
    failures: list[Exception] = []

    def read() -> None:
        try:
            stream.read(1)
        except httpcore.ReadError as exc:
            failures.append(exc)

    thread = in_thread(read)
    while not stream._users:  # type: ignore[attr-defined]
        time.sleep(0.001)
    stream.close()
    thread.join(5)
    assert "closed by us" in str(failures[0])
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.socket(fileno=number)
    assert stream.get_extra_info("is_readable")
    with pytest.raises(httpcore.WriteError):
        stream.write(b"x")


def test_a_connect_that_is_cancelled_ends() -> None:
    scope = CancelScope()
    with full_backlog() as port:

        def connect() -> None:
            with scope:
                Network().connect_tcp("127.0.0.1", port, timeout=FOREVER)

        thread = in_thread(connect)
        while not scope._interrupts:
            time.sleep(0.001)
        time.sleep(0.05)
        scope.cancel()
        thread.join(5)
        assert not thread.is_alive()
    assert scope.cancelled_caught


def test_what_cannot_be_connected_to_says_why(tmp_path: object) -> None:
    with pytest.raises(httpcore.ConnectError):
        Network().connect_tcp("127.0.0.1", 1, local_address="127.0.0.1")
    with pytest.raises(httpcore.ConnectError):
        Network().connect_tcp("no-such-host.invalid", 80)
    with pytest.raises(httpcore.ConnectError):
        Network().connect_unix_socket(f"{tmp_path}/none", socket_options=[])
    with full_backlog() as port, pytest.raises(httpcore.ConnectTimeout):
        Network().connect_tcp("127.0.0.1", port, timeout=0.05)


def test_tls_inside_tls_is_refused(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    server = raw_server(respond(), tls=server_ssl_context)
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    plain = Network().connect_tcp("localhost", server.port, socket_options=[option])
    assert plain.get_extra_info("ssl_object") is None
    secure = plain.start_tls(client_ssl_context, "localhost", 5)
    assert secure.get_extra_info("ssl_object").version().startswith("TLS")
    assert secure.get_extra_info("server_addr")[1] == server.port
    assert secure.get_extra_info("client_addr")[0]
    assert secure.get_extra_info("colour") is None
    with pytest.raises(RuntimeError, match="TLS inside TLS"):
        secure.start_tls(client_ssl_context)
    secure.close()


def test_a_peer_that_does_not_read_is_a_write_timeout(raw_server: MakeRawServer) -> None:
    stream = Network().connect_tcp("127.0.0.1", raw_server(after_request(stall)).port)
    with pytest.raises(httpcore.WriteTimeout):
        stream.write(b"x" * 50_000_000, timeout=0.05)
    stream.close()


# Connections, shared by threads


def test_a_waiter_that_is_cancelled_when_it_is_granted_passes_the_connection_on() -> None:
    book = Connections("b", Connect(max_connections=1))
    assert book.take(None) is OPEN
    scope, got = CancelScope(), []

    def first() -> None:
        with scope:
            book.take(None)

    def second() -> None:
        got.append(book.take(None))

    for number, task in enumerate((first, second), 1):
        in_thread(task)
        while len(book._waiters) < number:
            time.sleep(0.001)
    scope.cancel_called = True  # felt when it wakes
    book.give_back(OPEN)
    while not got:
        time.sleep(0.001)
    assert got == [OPEN]
    assert book.counts() == (1, 0)
