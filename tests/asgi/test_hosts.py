"""The reverse proxy under every ASGI server: what they do differently must not show."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from tests.asgi.conftest import Hosted
from tests.asgi.hosting import RawClient, ask
from tests.servers import ASGI_KINDS, Kind

CASES = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "vectors/http_framing_upgrade.json").read_text())[
        "cases"
    ]
}


@pytest.fixture(params=ASGI_KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    name: Kind = request.param
    return name


def test_what_every_server_has_to_carry(hosted: Callable[[Kind], Hosted], kind: Kind) -> None:
    host = hosted(kind)
    body = b"0123456789" * 100_000
    with httpx.Client(base_url=host.url, timeout=30) as client:
        echoed = client.post("/echo?a=%20b&&", content=body).json()
        assert echoed["sha256"] == hashlib.sha256(body).hexdigest()
        assert echoed["query"] == "a=%20b&&"
        assert client.post("/echo", content=(body[:70_000] for _ in range(10))).json()["length"] == 700_000
        assert len(client.get("/stream?chunks=100&size=10000").content) == 1_000_000
        assert client.get("/set-cookie?a=1&b=2").headers.get_list("set-cookie") == [
            "a=1; Path=/",
            "b=2; Path=/",
        ]
        assert client.head("/echo").status_code == 200
        assert client.get("/status/204").status_code == 204
    answer = ask(host.port, b"GET /echo/a%2Fb/../%7e HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    assert json.loads(answer.body)["raw_path"] == "/echo/a%2Fb/../%7e"


def test_every_server_cuts_off_what_broke_off(hosted: Callable[[Kind], Hosted], kind: Kind) -> None:
    assert not ask(hosted(kind).port, b"GET /raw/broken HTTP/1.1\r\nhost: h\r\n\r\n").whole


def test_every_server_says_when_the_client_has_left(hosted: Callable[[Kind], Hosted], kind: Kind) -> None:
    host = hosted(kind)
    with RawClient(host.port) as client:
        client.say(b"GET /raw/silent HTTP/1.1\r\nhost: h\r\n\r\n")
        assert host.raw.wait_until(lambda server: b"/raw/silent" in server.received)
    silent = [each for each in host.raw.connections if b"/raw/silent" in each.received]
    assert host.raw.wait_until(lambda server: all(each.closed.is_set() for each in silent), within=3.0)


# HTTP/2: hypercorn


class H2:
    """A connection over which any stream of HTTP/2 can be opened."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        configuration = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(configuration)
        self.connection.initiate_connection()

    def __enter__(self) -> H2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, headers: list[tuple[str, str]], body: bytes | None = None) -> list[h2.events.Event]:
        """What comes for a stream, until it ends."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, headers, end_stream=body is None)
        if body is not None:
            self.connection.send_data(stream, body, end_stream=True)
        self.socket.sendall(self.connection.data_to_send())
        came: list[h2.events.Event] = []
        ends = (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)
        while not any(isinstance(event, ends) for event in came):
            data = self.socket.recv(65536)
            if not data:
                break
            came += self.connection.receive_data(data)
            with contextlib.suppress(BrokenPipeError):
                self.socket.sendall(self.connection.data_to_send())
        return came


def status_of(events: list[h2.events.Event]) -> str | None:
    for event in events:
        if isinstance(event, h2.events.ResponseReceived):
            return dict(event.headers)[b":status"].decode()
    return None


def pseudo(**more: str) -> list[tuple[str, str]]:
    wanted = {"method": "GET", "scheme": "http", "authority": "hostname", "path": "/raw/x"} | more
    return [(f":{name}", value) for name, value in wanted.items()]


def test_http2(hosted: Callable[[Kind], Hosted]) -> None:
    host = hosted("hypercorn")
    before = len(host.raw.requests)
    with H2(host.port) as client:
        crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]
        assert status_of(client.ask([*pseudo(path="/raw/get"), *crumbs])) == "200"
        assert status_of(client.ask(pseudo(method="POST", path="/raw/post"), b"abc")) == "200"
        assert (
            status_of(client.ask([*pseudo(method="POST", path="/raw/0"), ("content-length", "0")])) == "200"
        )
    got, posted, empty = host.raw.requests[before:]
    assert b"\r\ncookie: a=1; b=2\r\n" in got
    assert b"\r\nx-forwarded-host: hostname\r\n" in got
    assert b"\r\nvia: 2 lbclient\r\n" in got
    assert b"transfer-encoding" not in got
    assert b"content-length" not in got
    assert b"\r\ntransfer-encoding: chunked\r\n" in posted
    assert posted.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert b"\r\ncontent-length: 0\r\n" in empty


def test_trailers(hosted: Callable[[Kind], Hosted]) -> None:
    """Vector trailers-forwarded-when-enabled: over HTTP/2, which is where ASGI servers carry them."""
    assert CASES["trailers-forwarded-when-enabled"]["expect"]["client_gets_trailer"] is True
    host = hosted("hypercorn")
    with H2(host.port) as client:
        came = client.ask([*pseudo(path="/raw/trailers"), ("te", "trailers")])
    (trailers,) = [event for event in came if isinstance(event, h2.events.TrailersReceived)]
    assert trailers.headers == [(b"x-sum", b"294")]
    with httpx.Client(base_url=host.url) as http:
        assert http.get("/raw/trailers").text == "abc", "over HTTP/1.1 the rest arrives all the same"


def test_early_hints(hosted: Callable[[Kind], Hosted]) -> None:
    host = hosted("hypercorn")
    with H2(host.port) as client:
        came = client.ask(pseudo(path="/raw/hints"))
    hints = [event for event in came if isinstance(event, h2.events.InformationalResponseReceived)]
    assert [dict(hint.headers or ())[b"link"] for hint in hints] == [b"</a.css>; rel=preload", b"</b.js>"]
    assert status_of(came) == "200"


@pytest.mark.parametrize("kind", ["uvicorn", "granian"])
def test_a_server_that_takes_no_hints_gets_the_answer(hosted: Callable[[Kind], Hosted], kind: Kind) -> None:
    reply = ask(hosted(kind).port, b"GET /raw/hints HTTP/1.1\r\nhost: h\r\n\r\n")
    assert (reply.status, reply.whole) == (200, True)


def test_http2_that_would_be_two_things_in_http1(hosted: Callable[[Kind], Hosted]) -> None:
    """Vectors h2-authority-vs-host (there the authority goes on, here nothing does), h2-bad-method, h2-bad-path."""
    host = hosted("hypercorn")
    before = len(host.raw.requests)
    for headers in (
        [*pseudo(), ("host", "other_host")],
        pseudo(method="GET?"),
        pseudo(path="hello-world"),
        pseudo(path="/raw/a b"),
        pseudo(path="/raw/a#b"),
        pseudo(authority="a/b"),
        [*pseudo(), ("transfer-encoding", "chunked")],
        [*pseudo(method="POST"), ("content-length", "5"), ("content-length", "6")],
        [*pseudo(), ("connection", "close")],
        [*pseudo(), ("x-a", "a\r\nx-b: c")],
        [*pseudo(), ("x-a", "a\0b")],
        [*pseudo(), ("x a", "b")],
    ):
        with H2(host.port) as client:
            status = status_of(client.ask(headers))
        assert status is None or status.startswith(("4", "5")), headers
    assert host.raw.requests[before:] == []
