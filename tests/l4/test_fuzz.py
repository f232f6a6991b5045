"""Whatever clients begin with, nothing that is no hello or no header reaches a backend, crashes or hangs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lbclient import Pool
from lbclient.l4 import (
    ClientHelloError,
    ClientHelloReader,
    ProxyHeader,
    ProxyHeaderError,
    ProxyHeaderReader,
    TCPForwarder,
    TLSRouter,
)
from lbclient.l4.proxy_protocol import SIGNATURE
from tests.l4.peers import client_hello, dial, tcp
from tests.servers import RawServer
from tests.servers.raw import Connection

HELLO = client_hello()
WITHIN = 0.3  # seconds for a hello, and so for a client that never ends its own


def count(connection: Connection) -> None:
    """A backend that says that it was reached."""
    connection.send(b"reached")
    connection.wait_for_client_close()


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """A forwarder that wants ClientHellos, and one that wants PROXY headers, in an event loop of their own."""
    with RawServer(count) as server, start_blocking_portal() as portal:
        pool = Pool([tcp(server)])
        tls = TCPForwarder(TLSRouter([], default=pool), "127.0.0.1", 0, hello_timeout=WITHIN)
        proxy = TCPForwarder(pool, "127.0.0.1", 0, hello_timeout=WITHIN, accept_proxy=True)
        with (
            portal.wrap_async_context_manager(tls) as first,
            portal.wrap_async_context_manager(proxy) as second,
        ):
            yield {"tls": first.port, "proxy": second.port}

            def settled() -> bool:
                return not tls.stats.open and not proxy.stats.open

            async def settle() -> None:
                with anyio.fail_after(20):
                    while not settled():
                        await anyio.sleep(0.01)

            portal.call(settle)
            assert sum(backend.in_flight for backend in pool.status().backends) == 0


def reaches(port: int, data: bytes, step: int) -> bool:
    """Whether a client that begins like this, and then says that it is done, is answered by the backend."""
    with dial(port) as client:
        try:
            for at in range(0, len(data), step):
                client.sendall(data[at : at + step])
            client.shutdown(socket.SHUT_WR)
            return client.recv(7, socket.MSG_WAITALL) == b"reached"
        except TimeoutError:
            raise  # it hangs
        except OSError:
            return False  # it was reset


def is_hello(data: bytes) -> bool:
    with suppress(ClientHelloError):
        return ClientHelloReader().feed(data) is not None
    return False


def is_header(data: bytes) -> bool:
    with suppress(ProxyHeaderError):
        return ProxyHeaderReader().feed(data) is not None
    return False


fuzzing = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzzing
@example(HELLO, 7)
@example(HELLO[:-1], 100)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(min_size=1, max_size=200).map(lambda data: HELLO[: len(data)] + data),
        st.builds(
            lambda at, byte: HELLO[:at] + bytes([byte]) + HELLO[at + 1 :],
            st.integers(0, len(HELLO) - 1),
            st.integers(0, 255),
        ),
    ),
    st.integers(1, 200),
)
def test_only_client_hellos_reach_a_backend(ports: dict[str, int], data: bytes, step: int) -> None:
    assert reaches(ports["tls"], data, step) == is_hello(data)


@fuzzing
@example(ProxyHeader().encode("v1"), 1)
@example(ProxyHeader().encode("v2"), 1)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text("TCP46UNKOW 0123456789.:\r\n", max_size=60).map(lambda text: b"PROXY " + text.encode()),
        st.binary(max_size=60).map(lambda data: SIGNATURE + b"\x21\x11" + data),
    ),
    st.integers(1, 200),
)
def test_only_proxy_headers_reach_a_backend(ports: dict[str, int], data: bytes, step: int) -> None:
    assert reaches(ports["proxy"], data, step) == is_header(data)
