"""What other proxies do with headers and framing, case by case; where this one differs on purpose the test says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbclient.asgi import ReverseProxy
from lbclient.asgi.forwarding import Client, Trust, client_of, forwarded_headers, without_port
from lbclient.asgi.headers import RequestFields, end_to_end, via
from tests.asgi.conftest import Serve
from tests.asgi.hosting import RawClient, Reply, ask
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import Connection
from tests.servers.raw import Handler

VECTORS = Path(__file__).parents[1] / "vectors"
Check = Callable[[dict[str, Any], dict[str, Any]], None]


def cases(name: str) -> dict[str, Any]:
    return {case["id"]: case for case in json.loads((VECTORS / f"{name}.json").read_text())["cases"]}


FORWARDING, FRAMING = cases("forwarding_headers"), cases("http_framing_upgrade")


def scope(peer: str, headers: list[tuple[str, str]] = [], **more: Any) -> dict[str, Any]:  # noqa: B006
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    return {"type": "http", "client": (peer, 1), "headers": raw, **more}


def told(sent: dict[str, Any], trusted: list[str]) -> dict[bytes, bytes]:
    """What a backend is told of the client."""
    client = client_of(sent, Trust(trusted))
    return dict(forwarded_headers(RequestFields(sent["headers"]).passed, client, client.host, b"", False))


# Forwarding headers


def envoy(case: dict[str, Any], expect: dict[str, Any]) -> None:
    """Envoy counts hops from the right, here the hops have addresses.

    `use_remote_address: false` means that the peer is trusted. Envoy then sends on what came; here the peer is always
    added. And of a peer that is not trusted nothing is sent on, where Envoy appends.
    """
    chain = [] if case["xff"] is None else case["xff"].split(", ")
    trusted = [case["peer"]] if chain and not case["use_remote_address"] else []
    hops = [*chain, case["peer"]] if case["use_remote_address"] else chain
    trusted += hops[len(hops) - case["trusted_hops"] :] if case["trusted_hops"] else []
    asked = scope(case["peer"], [] if case["xff"] is None else [("x-forwarded-for", case["xff"])])
    assert client_of(asked, Trust(trusted)).ip == expect["trusted_client"]
    sent = told(asked, trusted)[b"x-forwarded-for"].decode()
    assert sent == ", ".join([*(chain if trusted else []), case["peer"]])
    if case["use_remote_address"] and trusted:
        assert sent == expect["xff_sent"]


def caddy_host(case: dict[str, Any], expect: dict[str, Any]) -> None:
    sent = told(scope("192.0.2.1", [("host", case["host"]), ("x-forwarded-host", "spoofed")]), [])
    assert sent[b"x-forwarded-host"].decode() == expect["x_forwarded_host"]


def caddy_zone(case: dict[str, Any], expect: dict[str, Any]) -> None:
    assert without_port(case["peer"]) == expect["xff_sent"]
    assert told(scope("fe80::1%eth0"), [])[b"x-forwarded-for"].decode() == expect["xff_sent"]


def hop_by_hop(case: dict[str, Any], expect: dict[str, Any]) -> None:
    headers = [(name.encode(), b"x") for name in [*expect["removed_both_ways"], "X-Kept"]]
    assert end_to_end(headers) == RequestFields([(name.lower(), value) for name, value in headers]).passed
    assert end_to_end(headers) == [(b"x-kept", b"x")]


def te(case: dict[str, Any], expect: dict[str, Any]) -> None:
    assert RequestFields([(b"te", case["te"].encode())]).passed == [(b"te", expect["te_sent"].encode())]
    assert RequestFields([(b"te", b"gzip")]).passed == []


def no_user_agent(case: dict[str, Any], expect: dict[str, Any]) -> None:
    assert b"user-agent" not in told(scope("192.0.2.1"), [])


def caddy_via(case: dict[str, Any], expect: dict[str, Any]) -> None:
    assert via(case["request_version"], "Caddy") == (b"via", expect["request_via"].encode())


def nginx_default(case: dict[str, Any], expect: dict[str, Any]) -> None:
    names = [name.partition(" ")[0].lower().encode() for name in expect["not_forwarded"]]
    assert RequestFields([(name, b"x") for name in names]).passed == []


def haproxy_two_lines(case: dict[str, Any], expect: dict[str, Any]) -> None:
    """HAProxy adds a line, which is to be read like the one line that is sent here: the peer is last."""
    sent = told(
        scope("192.0.2.1", [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]), ["192.0.2.1"]
    )
    assert sent[b"x-forwarded-for"] == b"1.1.1.1, 2.2.2.2, 192.0.2.1"


def underscores(case: dict[str, Any], expect: dict[str, Any]) -> None:
    headers = [(name, "spoofed") for name in case["headers"]]
    for trusted in ([], ["192.0.2.1"]):
        assert not [
            value for value in told(scope("192.0.2.1", headers), trusted).values() if value == b"spoofed"
        ]


def traefik_cidr(case: dict[str, Any], expect: dict[str, Any]) -> None:
    peer = without_port(case["peer"])
    sent = told(scope(peer, [("x-forwarded-for", case["xff"])]), case["trusted"])
    assert sent[b"x-forwarded-for"].decode() == f"{expect['xff']}, {peer}"


def traefik_ws(case: dict[str, Any], expect: dict[str, Any]) -> None:
    sent = told(scope("192.0.2.1", scheme="wss" if case["tls"] else "ws"), [])
    assert sent[b"x-forwarded-proto"].decode() == expect["x_forwarded_proto"]


CHECKS: dict[str, Check] = {
    **{case: envoy for case in FORWARDING if case.startswith("envoy")},
    "caddy-xfh": caddy_host,
    "caddy-ipv6-zone": caddy_zone,
    "caddy-hop-by-hop-set": hop_by_hop,
    "caddy-te-trailers": te,
    "haproxy-te-trailers": te,
    "caddy-no-user-agent-added": no_user_agent,
    "caddy-via": caddy_via,
    "nginx-default-request-headers": nginx_default,
    "haproxy-xff-appended-as-new-line": haproxy_two_lines,
    "traefik-untrusted-strips-underscore": underscores,
    "traefik-trusted-cidr": traefik_cidr,
    "traefik-proto-ws": traefik_ws,
}

ELSEWHERE = {
    "caddy-101-strips": "the handshake has two ends of its own: tests/asgi/test_websocket.py",
    "host-header-defaults": "proxies disagree; here it is the backend's, or the client's with preserve_host=True",
    "haproxy-xff-except": "an option of HAProxy's that there is not",
    "req-te-and-cl-haproxy": "NGINX refuses what HAProxy forwards; here it is refused",
    "res-nginx-cl-and-te": "NGINX refuses what HAProxy forwards as chunks, and so do we (RFC 9112, 6.3)",
    "res-nginx-te-and-cl": "likewise",
    "ws-ok": "tests/asgi/test_websocket.py",
    "ws-no-accept": "tests/asgi/test_websocket.py",
    "ws-h2-client-bad-accept": "no ASGI server has WebSockets over HTTP/2 but hypercorn, and the scope is the same",
    "ws-h2-client-ok": "likewise",
    "h2-authority-vs-host": "tests/asgi/test_hosts.py",
    "h2-bad-method": "tests/asgi/test_hosts.py",
    "h2-bad-path": "tests/asgi/test_hosts.py",
    "trailers-forwarded-when-enabled": "tests/asgi/test_hosts.py",
}


@pytest.mark.parametrize("name", [name for name in FORWARDING if name not in ELSEWHERE])
def test_forwarding_headers(name: str) -> None:
    CHECKS[name](FORWARDING[name]["input"], FORWARDING[name]["expect"])


# Framing


@pytest.fixture(params=["h11", "httptools"])
def parser(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def request_with(*lines: str, version: str = "1.1", body: str = "") -> bytes:
    return "\r\n".join([f"POST /echo HTTP/{version}", *lines, "", body]).encode()


CHUNKS = "3\r\nabc\r\n0\r\n\r\n"
REQUESTS = {
    "req-te-and-cl-nginx": request_with(
        "Host: h", "Transfer-Encoding: chunked", "Content-Length: 31", body=CHUNKS
    ),
    "req-te-http10-nginx": request_with("Host: h", "Transfer-Encoding: chunked", version="1.0", body=CHUNKS),
    "req-te-haproxy-chunked-chunked": request_with(
        "Host: h", "Transfer-Encoding: chunked, chunked", body=CHUNKS
    ),
    "req-te-haproxy-chunked-gzip-chunked": request_with(
        "Host: h", "Transfer-Encoding: chunked, gzip, chunked", body=CHUNKS
    ),
    "req-host-missing-11": request_with("Content-Length: 0"),
    "expect-unknown": request_with("Host: h", "Expect: unknown", "Content-Length: 0"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_ambiguous_requests_are_refused(
    serve: Serve, raw_server: MakeRawServer, parser: str, name: str
) -> None:
    backend = raw_server()
    refused = ask(serve(ReverseProxy([backend.url]), http=parser).port, REQUESTS[name]).status
    assert refused == FRAMING[name]["expect"]["status"] or (
        name.startswith("req-te-haproxy") and refused == 501
    )
    assert not backend.received


def raw(head: str, body: str = "") -> Handler:
    """A server that answers with just these bytes."""

    def handler(connection: Connection) -> None:
        connection.read_request()
        connection.send(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}".encode())

    return handler


RESPONSES: dict[str, Handler] = {
    "res-te-haproxy-chunked-chunked": raw("Transfer-Encoding: chunked, chunked", CHUNKS),
    "res-te-haproxy-gzip": raw("Transfer-Encoding: gzip", "abc"),
    "res-nginx-invalid-length": raw("Content-Length: three", "abc"),
    "res-nginx-duplicate-length": raw("Content-Length: 3\r\nContent-Length: 4", "abcd"),
    "res-nginx-unknown-te": raw("Transfer-Encoding: mine", "abc"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_ambiguous_responses_are_a_bad_gateway(serve: Serve, raw_server: MakeRawServer, name: str) -> None:
    host = serve(ReverseProxy([raw_server(RESPONSES[name]).url]))
    assert (
        ask(host.port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").status
        == FRAMING[name]["expect"]["client_status"]
    )


def asked(serve: Serve, handler: Handler, raw_server: MakeRawServer) -> Reply:
    return ask(serve(ReverseProxy([raw_server(handler).url])).port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")


def test_chunks_next_to_a_length(serve: Serve, raw_server: MakeRawServer) -> None:
    case = FRAMING["res-te-and-cl-haproxy"]["expect"]
    reply = asked(serve, raw("Transfer-Encoding: chunked\r\nContent-Length: 30", "0\r\n\r\n"), raw_server)
    assert reply.values(b"content-length") == []
    assert case["content_length_to_client"] is None
    assert len(reply.body) == case["body_length"]


def test_the_same_length_twice_is_one(serve: Serve, raw_server: MakeRawServer) -> None:
    reply = asked(serve, raw("Content-Length: 3\r\nContent-Length: 3", "abc"), raw_server)
    assert (reply.value(b"content-length"), reply.body) == (b"3", b"abc")


def test_a_truncated_response_gets_no_ending(serve: Serve, raw_server: MakeRawServer) -> None:
    assert FRAMING["res-truncated-no-final-chunk"]["expect"]["final_chunk_sent"] is False
    assert not asked(serve, raw("Transfer-Encoding: chunked", "3\r\nabc\r\n"), raw_server).whole


@pytest.mark.parametrize("name", ["expect-100", "expect-100-http10"])
def test_who_waits_for_a_word(serve: Serve, servers: SharedServers, parser: str, name: str) -> None:
    case = FRAMING[name]
    (server,) = servers("uvicorn", 1)
    head = request_with(
        "Host: h", f"Expect: {case['input']['Expect']}", "Content-Length: 3", version=case["input"]["version"]
    )
    with RawClient(serve(ReverseProxy([server.url]), http=parser).port) as client:
        client.say(head if case["expect"]["interim"] else head + b"abc")
        said = client.socket.recv(12)
        if parser == "httptools" and not case["expect"]["interim"]:
            return  # uvicorn's: it says 100 to HTTP/1.0 too
        assert said == (b"HTTP/1.1 100" if case["expect"]["interim"] else b"HTTP/1.1 200")
        client.say(b"abc")


def test_every_case_has_its_place() -> None:
    framing = {*REQUESTS, *RESPONSES, "res-te-and-cl-haproxy", "res-truncated-no-final-chunk", "expect-100"}
    placed = {*CHECKS, *framing, "expect-100-http10", *ELSEWHERE}
    assert {*FORWARDING, *FRAMING} == placed


def test_only_a_known_client_is_told() -> None:
    client = Client(None, None, False, b"http", b"")
    assert forwarded_headers([], client, b"", b"", True) == [
        (b"x-forwarded-proto", b"http"),
        (b"forwarded", b"for=unknown;proto=http"),
    ]
