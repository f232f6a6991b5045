"""The proxy that misbehaves does what it is told, and nothing else."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol

import httpx
import pytest

from tests.conftest import MakeRawServer
from tests.servers.chaos import NONE, ChaosProxy, Cut, Fault
from tests.servers.raw import Connection, respond

BODY = bytes(range(256)) * 400
HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class MakeProxy(Protocol):
    def __call__(self, upstream: str, faults: Fault | Sequence[Fault] = ...) -> ChaosProxy: ...


@pytest.fixture
def chaos() -> Iterator[MakeProxy]:
    running: list[ChaosProxy] = []

    def make(upstream: str, faults: Fault | Sequence[Fault] = NONE) -> ChaosProxy:
        running.append(ChaosProxy(upstream, faults))
        return running[-1]

    yield make
    for proxy in running:
        proxy.stop()
        assert proxy.open == 0
        assert not proxy._threads


def connected(proxy: ChaosProxy, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout)


def exchange(proxy: ChaosProxy, data: bytes = HEAD) -> tuple[bytes, int | None]:
    """What came back until the end, and the errno that it ended with (None for a FIN)."""
    got = b""
    try:
        with closing(connected(proxy)) as sock:
            sock.sendall(data)
            while part := sock.recv(65536):
                got += part
    except OSError as exc:  # a RST may even arrive before connect() has returned
        return got, exc.errno
    return got, None


def test_what_is_not_told_to_misbehave_passes_unchanged(raw_server: MakeRawServer, chaos: MakeProxy) -> None:
    server = raw_server(respond(body=BODY))
    proxy = chaos(server.url)
    with httpx.Client(trust_env=False) as client:
        for _ in range(3):
            assert client.post(proxy.url, content=BODY).content == BODY
    assert proxy.accepted == server.accepted == 1
    assert server.requests[0].endswith(BODY)
    (passage,) = proxy.passages
    assert server.wait_until(lambda server: passage.passed["request"] == len(server.received))
    assert server.wait_until(lambda _: proxy.open == 0), "a client's close passes through"


def test_tls_passes_through_by_itself(
    raw_server: MakeRawServer,
    chaos: MakeProxy,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
) -> None:
    proxy = chaos(raw_server(tls=server_ssl_context).url)
    assert proxy.url.startswith("https://localhost:")
    assert httpx.get(proxy.url, verify=client_ssl_context, trust_env=False).text == "ok"


@pytest.mark.parametrize("at", [1, 20, 1000])
def test_a_response_is_reset_after_so_many_bytes(
    raw_server: MakeRawServer, chaos: MakeProxy, at: int
) -> None:
    proxy = chaos(raw_server(respond(body=BODY)).url, Fault(cut=Cut("reset", at=at)))
    got, error = exchange(proxy)
    assert (len(got), error) == (at, errno.ECONNRESET)


@pytest.mark.parametrize("how", ["fin", "half-close"])
@pytest.mark.parametrize("at", [0, 20])
def test_a_response_ends_after_so_many_bytes(
    raw_server: MakeRawServer, chaos: MakeProxy, how: str, at: int
) -> None:
    proxy = chaos(raw_server(respond(body=BODY)).url, Fault(cut=Cut(how, at=at)))  # type: ignore[arg-type]
    got, error = exchange(proxy)
    assert (len(got), error) == (at, None)


def test_after_a_half_close_the_other_direction_goes_on(raw_server: MakeRawServer, chaos: MakeProxy) -> None:
    server = raw_server()
    proxy = chaos(server.url, Fault(cut=Cut("half-close", at=5)))
    with closing(connected(proxy)) as sock:
        sock.sendall(HEAD)
        assert sock.recv(100) == b"HTTP/"
        assert sock.recv(100) == b""
        sock.sendall(HEAD)
        assert server.wait_until(lambda server: len(server.requests) == 2)


def test_a_request_is_cut_when_it_is_accepted_or_in_its_middle(
    raw_server: MakeRawServer, chaos: MakeProxy
) -> None:
    server = raw_server()
    faults = [Fault(cut=Cut("reset", of="request")), Fault(cut=Cut("reset", at=10, of="request")), Fault()]
    proxy = chaos(server.url, faults)
    for _ in range(2):
        got, error = exchange(proxy)
        assert got == b""
        assert error in (errno.ECONNRESET, errno.EPIPE)
    assert [bytes(connection.received) for connection in server.connections] == [b"", HEAD[:10]]
    assert httpx.get(proxy.url, trust_env=False).text == "ok"


def test_garbage_comes_between_and_the_rest_follows(raw_server: MakeRawServer, chaos: MakeProxy) -> None:
    proxy = chaos(raw_server(respond(close=True)).url, Fault(cut=Cut("garbage", at=9)))
    got, _ = exchange(proxy)
    assert got[:9] == b"HTTP/1.1 "
    assert got[49:] == b"200 Test\r\ncontent-length: 2\r\n\r\nok"
    again, _ = exchange(chaos(raw_server(respond(close=True)).url, Fault(cut=Cut("garbage", at=9))))
    assert again == got, "seeded"


def test_a_stall_holds_everything_back_until_it_is_lifted(
    raw_server: MakeRawServer, chaos: MakeProxy
) -> None:
    server = raw_server()
    proxy = chaos(server.url, Fault(stall=True))
    with closing(connected(proxy, timeout=0.1)) as sock:
        sock.sendall(HEAD)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert server.received == b""
        proxy.switch(Fault(), open_too=True)
        sock.settimeout(5)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_a_response_that_stalls_in_the_middle(raw_server: MakeRawServer, chaos: MakeProxy) -> None:
    proxy = chaos(raw_server().url, Fault(cut=Cut("stall", at=9)))
    with closing(connected(proxy, timeout=0.1)) as sock:
        sock.sendall(HEAD)
        assert sock.recv(100) == b"HTTP/1.1 "
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_latency_jitter_and_bandwidth_take_their_time(raw_server: MakeRawServer, chaos: MakeProxy) -> None:
    def took(fault: Fault) -> float:
        begun = time.monotonic()
        got, _ = exchange(chaos(raw_server(respond(body=BODY[:2000], close=True)).url, fault))
        assert got.endswith(BODY[:2000])
        return time.monotonic() - begun

    assert took(Fault(latency=0.05)) >= 0.1
    assert took(Fault(jitter=0.02)) > 0
    assert took(Fault(bytes_per_second=10_000)) >= 0.2


def test_a_switch_is_for_new_connections_or_for_the_open_ones_too(
    raw_server: MakeRawServer, chaos: MakeProxy
) -> None:
    proxy = chaos(raw_server().url)
    with httpx.Client(trust_env=False, timeout=0.2) as client:
        assert client.get(proxy.url).text == "ok"
        proxy.switch(Fault(cut=Cut("reset")))
        assert client.get(proxy.url).text == "ok"
        with pytest.raises(httpx.TransportError):
            httpx.get(proxy.url, trust_env=False)
        proxy.switch(Fault(stall=True), open_too=True)
        with pytest.raises(httpx.ReadTimeout):
            client.get(proxy.url)


def test_refusal_a_black_hole_and_back(raw_server: MakeRawServer, chaos: MakeProxy) -> None:
    proxy = chaos(raw_server().url)
    with httpx.Client(trust_env=False) as client:
        assert client.get(proxy.url).text == "ok"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        proxy.black_hole()
        with pytest.raises(TimeoutError):
            connected(proxy, timeout=0.1)
        assert client.get(proxy.url).text == "ok", "what was open goes on"
        proxy.listen()
        assert httpx.get(proxy.url, trust_env=False).text == "ok"
    with closing(connected(proxy)) as sock:
        sock.sendall(HEAD)
        assert sock.recv(1000).endswith(b"ok")
        proxy.reset_open()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_server_that_is_gone_looks_like_a_reset(raw_server: MakeRawServer, chaos: MakeProxy) -> None:
    server = raw_server()
    proxy = chaos(server.url)
    server.stop()
    assert exchange(proxy)[1] in (errno.ECONNRESET, errno.EPIPE)


def test_a_server_that_does_not_read_is_felt_by_the_client(
    raw_server: MakeRawServer, chaos: MakeProxy
) -> None:
    def silent(connection: Connection) -> None:
        connection.stall()

    with closing(connected(chaos(raw_server(silent).url), timeout=0.5)) as sock, pytest.raises(TimeoutError):
        sock.sendall(b"x" * 50_000_000)


def test_an_upstream_without_a_port_is_refused() -> None:
    with pytest.raises(ValueError, match="write a URL with a port"):
        ChaosProxy("http://localhost")
