"""The servers that the other tests lean on."""

import hashlib
import socket
import ssl
import time
from contextlib import AbstractContextManager

import httpx
import pytest
from httpx_ws import WebSocketDisconnect, WebSocketSession, connect_ws

from tests.conftest import MakeRawServer, SharedServers, StartServer
from tests.servers import ASGI_KINDS, KINDS, CertFiles, Kind, Server, free_port, full_backlog
from tests.servers import raw as raw_servers

RESET = (httpx.ReadError, httpx.RemoteProtocolError)
"""A RST that a write has consumed, or that came over TLS, reads like an end of file."""


def get(server: Server, path: str) -> httpx.Response:
    return httpx.get(server.url + path, trust_env=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_server_refuses_and_comes_back_on_the_same_port(
    kind: Kind, start_server: StartServer
) -> None:
    server = start_server(kind, name="alpha")
    url, pid = server.url, server.pid
    assert get(server, "/whoami").text == "alpha"
    assert get(server, "/some/path").json() == {"server": "alpha", "path": "/some/path"}

    server.kill()
    assert not server.running
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)

    server.restart()
    assert server.url == url
    assert server.pid != pid
    assert get(server, "/whoami").text == "alpha"

    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_suspended_server_is_silent_until_it_resumes(kind: Kind, start_server: StartServer) -> None:
    server = start_server(kind)
    server.suspend()
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(server.url, timeout=0.2, trust_env=False)
    server.resume()
    assert get(server, "/whoami").text == server.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_suspended_server_can_be_closed(kind: Kind, start_server: StartServer) -> None:
    server = start_server(kind)
    server.suspend()
    begun = time.monotonic()
    server.close()
    assert not server.running
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("kind", KINDS)
def test_tls_over_loopback(
    kind: Kind,
    start_server: StartServer,
    server_cert_files: CertFiles,
    client_ssl_context: ssl.SSLContext,
) -> None:
    server = start_server(kind, tls=server_cert_files)
    response = httpx.get(server.url + "/whoami", verify=client_ssl_context, trust_env=False)
    assert response.text == server.name


@pytest.mark.parametrize("kind", ["hypercorn", "hypercorn-trio", "granian", "nginx", "haproxy"])
def test_http2_by_alpn(kind: Kind, start_server: StartServer, server_cert_files: CertFiles) -> None:
    server = start_server(kind, tls=server_cert_files, http2=True)
    context = ssl.create_default_context(cafile=server_cert_files.cert)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with httpx.Client(http2=True, verify=context, trust_env=False) as client:
        response = client.get(server.url + "/whoami")
    assert (response.text, response.http_version) == (server.name, "HTTP/2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_unix_socket(
    kind: Kind, start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("s") / "socket")
    start_server(kind, uds=path, name="local")
    with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        assert client.get("http://local/whoami").text == "local"


@pytest.mark.parametrize("kind", ASGI_KINDS)
def test_the_application(kind: Kind, servers: SharedServers) -> None:
    server, *_ = servers(kind, 2)
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        body = b"0123456789" * 20_000
        echo = client.post("/echo?a=1&a=2", content=body, headers=[("x-pair", "1"), ("x-pair", "2")]).json()
        assert echo["method"] == "POST"
        assert echo["query"] == "a=1&a=2"
        assert [value for name, value in echo["headers"] if name == "x-pair"] == ["1", "2"]
        assert (echo["length"], echo["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert client.get("/status/418").status_code == 418
        assert client.get("/status/204").status_code == 204
        assert client.get("/slow?seconds=0.01").text == "slow"
        assert len(client.get("/stream?chunks=3&size=1000").content) == 3000
        assert client.get("/redirect?to=/elsewhere").headers["location"] == "/elsewhere"
        assert client.get("/set-cookie?flavour=oat").cookies["flavour"] == "oat"
        assert server.count() == 7

        assert client.get("/health").status_code == 200
        client.post("/health/503")
        assert client.get("/health").status_code == 503
        (again, *_) = servers(kind, 2)
        assert again is server
        assert client.get("/health").status_code == 200
        assert server.count() == 0

    session: AbstractContextManager[WebSocketSession] = connect_ws(server.url + "/ws")
    with session as ws:
        ws.send_text("name")
        assert ws.receive_text() == server.name
        ws.send_bytes(b"\0\1")
        assert ws.receive_bytes() == b"\0\1"
        ws.send_text("close")
        with pytest.raises(WebSocketDisconnect) as closed:
            ws.receive_text()
        assert closed.value.code == 4001


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "granian"])
def test_an_idle_connection_is_closed_after_its_keep_alive(kind: Kind, start_server: StartServer) -> None:
    server = start_server(kind, keep_alive=0.2)
    with socket.create_connection((server.host, server.port), 5) as sock:
        sock.sendall(b"GET /whoami HTTP/1.1\r\nhost: a\r\n\r\n")
        while sock.recv(65536):
            pass


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_a_reload_finishes_what_is_under_way(kind: Kind, start_server: StartServer) -> None:
    app = start_server("uvicorn", name="app")
    server = start_server(kind, name="front", upstream=app.url)
    assert get(server, "/whoami").text == "front"
    assert get(server, "/").json()["server"] == "app"
    with httpx.stream("GET", server.url + "/stream?chunks=10&delay=0.03", trust_env=False) as response:
        server.reload()
        assert len(response.read()) == 10 * 1024
    assert get(server, "/whoami").text == "front"


def test_payments_are_counted_by_name(servers: SharedServers) -> None:
    (server,) = servers(count=1)
    for name in ("a", "b", "a"):
        assert httpx.post(f"{server.url}/pay/{name}", content=b"1", trust_env=False).status_code == 204
    assert server.payments() == {"a": 2, "b": 1}


async def test_async_tests_run_on_both_loops(anyio_backend: str, servers: SharedServers) -> None:
    import sniffio

    assert sniffio.current_async_library() == anyio_backend
    server, *_ = servers(count=1)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(server.url + "/whoami")).text == server.name


def test_a_free_port_refuses() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free_port()), 1)


def test_a_full_backlog_times_out() -> None:
    with full_backlog() as port, pytest.raises(httpx.ConnectTimeout):
        httpx.get(f"http://127.0.0.1:{port}", timeout=0.2, trust_env=False)


def test_a_raw_server_follows_its_script(raw_server: MakeRawServer) -> None:
    server = raw_server(
        [
            raw_servers.reset_on_accept,
            raw_servers.reset_before_headers,
            raw_servers.fin_before_headers,
            raw_servers.reset_mid_body,
            raw_servers.fin_mid_body,
            raw_servers.never_answer,
            raw_servers.reply(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nraw"),
            raw_servers.respond(201, b"created", close=True),
        ]
    )
    url = server.url

    def ask() -> httpx.Response:
        return httpx.post(url, content=b"body", timeout=0.5, trust_env=False)

    with pytest.raises((httpx.ConnectError, *RESET)):  # it may even arrive before connect() has returned
        ask()
    with pytest.raises(httpx.ReadError):
        ask()
    with pytest.raises(httpx.RemoteProtocolError):
        ask()
    with pytest.raises(httpx.ReadError):
        ask()
    with pytest.raises(httpx.RemoteProtocolError):
        ask()
    with pytest.raises(httpx.ReadTimeout):
        ask()
    assert ask().text == "raw"
    assert ask().status_code == 201
    assert ask().status_code == 201

    assert server.accepted == 9
    assert server.wait_until(lambda s: s.open == 0)
    assert server.requests[0].endswith(b"\r\n\r\nbody")
    assert len(server.requests) == 8  # all but the one reset on accept

    server.stop()
    with pytest.raises(httpx.ConnectError):
        ask()
    server.start()
    assert ask().status_code == 201


def test_a_raw_server_that_never_accepts(raw_server: MakeRawServer) -> None:
    server = raw_server(accept=False)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(server.url, timeout=0.2, trust_env=False)
    assert server.accepted == 0


def test_a_raw_server_keeps_connections_and_reads_chunked_bodies(raw_server: MakeRawServer) -> None:
    server = raw_server()
    with httpx.Client(trust_env=False) as client:
        for _ in range(3):
            assert client.post(server.url, content=iter([b"one", b"two"])).text == "ok"
        assert (server.accepted, server.open, len(server.requests)) == (1, 1, 3)
    assert server.wait_until(lambda s: s.open == 0)


def test_a_raw_server_speaks_tls(
    raw_server: MakeRawServer, server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    server = raw_server([raw_servers.respond(), raw_servers.reset_before_headers], tls=server_ssl_context)
    assert httpx.get(server.url, verify=client_ssl_context, trust_env=False).text == "ok"
    with pytest.raises(RESET):
        httpx.get(server.url, verify=client_ssl_context, trust_env=False)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)
    assert server.wait_until(lambda s: bool(s.errors))


def test_a_wrong_handler_fails_its_test(raw_server: MakeRawServer) -> None:
    def wrong(connection: raw_servers.Connection) -> None:
        raise KeyError("bug")

    server = raw_server(wrong)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url, trust_env=False)
    with pytest.raises(KeyError, match="bug"):
        server.stop()
