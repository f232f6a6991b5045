"""HTTP/2 from threads: each request has a connection to itself, and what a server says means what it always means."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import trustme
from h2.errors import ErrorCodes

from lbclient import BalancedTransport, Connect, Record
from tests.conftest import MakeRawServer, StartServer
from tests.servers import CertFiles
from tests.servers.raw_h2 import Peer, speak


def balanced(*urls: str, **connect: object) -> BalancedTransport:
    return BalancedTransport(urls, algorithm="first", connect=Connect(http2=True, **connect))  # type: ignore[arg-type]


def outcomes(response: httpx.Response) -> list[str]:
    record = response.extensions["lbclient"]
    assert isinstance(record, Record)
    return [attempt.outcome.partition(" ")[0] for attempt in record.attempts]


@pytest.mark.parametrize("kind", ["hypercorn", "nginx"])
def test_eight_threads_over_tls(
    start_server: StartServer, ca: trustme.CA, server_cert_files: CertFiles, kind: str
) -> None:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(trusting)
    upstream = start_server("uvicorn").url if kind == "nginx" else None
    server = start_server(kind, tls=server_cert_files, http2=True, upstream=upstream)  # type: ignore[arg-type]
    body = b"x" * 100_000
    transport = balanced(server.url, verify=trusting, max_connections=4)
    with httpx.Client(transport=transport, base_url="https://orders") as http:

        def ask(number: int) -> tuple[str, int]:
            response = http.post("/echo", content=body, params={"n": number})
            return response.http_version, response.json()["length"]

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(ask, range(80))) == {("HTTP/2", len(body))}
        opened, idle = transport.connections()[server.url]
        assert 1 <= opened == idle <= 4


def test_what_was_not_processed_goes_elsewhere_with_any_method(raw_server: MakeRawServer) -> None:
    def refuse(peer: Peer) -> None:
        peer.reset(peer.request(), ErrorCodes.REFUSED_STREAM)
        peer.wait_until_closed()

    def answer(peer: Peer) -> None:
        peer.answer(peer.request())
        peer.wait_until_closed()

    refusing, answering = raw_server(speak(refuse)), raw_server(speak(answer))
    with httpx.Client(transport=balanced(refusing.url, answering.url, http1=False)) as http:
        response = http.post("http://orders", content=b"x")
    assert outcomes(response) == ["refused", "200"]


def test_after_a_goaway_the_answer_is_read_and_the_next_request_has_another_connection(
    raw_server: MakeRawServer,
) -> None:
    def leave(peer: Peer) -> None:
        stream = peer.request()
        peer.goaway(stream)
        peer.answer(stream)
        peer.wait_until_closed()

    server = raw_server(speak(leave))
    with httpx.Client(transport=balanced(server.url, http1=False)) as http:
        for _ in range(3):
            assert outcomes(http.get("http://orders")) == ["200"]
    assert server.accepted == 3


def test_a_silent_server_is_a_read_timeout(raw_server: MakeRawServer) -> None:
    def say_nothing(peer: Peer) -> None:
        peer.request()
        peer.wait_until_closed()

    server = raw_server(speak(say_nothing))
    transport = balanced(server.url, http1=False)
    with httpx.Client(transport=transport, timeout=httpx.Timeout(5, read=0.1)) as http:
        with pytest.raises(httpx.ReadTimeout, match="nothing came for this request"):
            http.post("http://orders", content=b"x")
        assert transport.pools["default"].status().backends[0].failures == 1
