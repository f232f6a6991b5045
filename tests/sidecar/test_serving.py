"""A sidecar serves: by its routes, with its limits, over TLS and Unix sockets, and says what became of each request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage

from lbclient.cli import main
from lbclient.sidecar import protocol
from lbclient.sidecar.document import ConfigurationError
from lbclient.sidecar.sidecar import Sidecar
from tests.asgi.conftest import answer_or_not
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import CertFiles, free_port
from tests.sidecar.running import Process, one_pool, running, written


async def test_requests_go_by_the_routes(servers: SharedServers, tmp_path: Path) -> None:
    one, two = servers("uvicorn", 2)
    path = written(
        tmp_path / "sidecar.yaml",
        pools={"left": {"backends": [one.url]}, "right": {"backends": [two.url]}},
        routes=[{"path": "/whoami", "methods": ["GET"], "to": "left"}],
        default="right",
    )
    async with running(path) as (_, client, _):
        assert (await client.get("/whoami")).text == one.name
        assert (await client.post("/whoami")).text == two.name
        echo = (await client.post("/echo?a=%2F", content=b"x" * 100_000)).json()
        assert (echo["length"], echo["query"]) == (100_000, "a=%2F")


async def test_a_split_shares_and_keeps_its_clients(servers: SharedServers, tmp_path: Path) -> None:
    one, two = servers("uvicorn", 2)
    path = written(
        tmp_path / "sidecar.yaml",
        pools={"old": {"backends": [one.url]}, "new": {"backends": [two.url]}},
        splits={"canary": {"weights": {"old": 1, "new": 1}, "sticky": True}},
        default="canary",
    )
    async with running(path) as (_, client, _):
        names = {(await client.get("/whoami")).text for _ in range(10)}
        assert len(names) == 1
        client.cookies.clear()
        answers = set()
        for _ in range(4):
            answers.add((await client.get("/whoami")).text)
            client.cookies.clear()
        assert answers == {one.name, two.name}


async def test_a_websocket_goes_through(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    async with running(written(tmp_path / "s.yaml", pools=one_pool([one.url]))) as (sidecar, _, _):
        address = sidecar.listeners[0].address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        ws = WSConnection(ConnectionType.CLIENT)
        writer.write(ws.send(Request(host="shop", target="/ws")))
        events: list[Any] = []
        while not any(isinstance(event, TextMessage) for event in events):
            ws.receive_data(await asyncio.wait_for(reader.read(4096), 10))
            for event in ws.events():
                events.append(event)
                if isinstance(event, AcceptConnection):
                    writer.write(ws.send(TextMessage("name")))
        assert [event.data for event in events if isinstance(event, TextMessage)] == [one.name]
        writer.close()


async def test_limits_answer_429(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool([one.url]),
        rate_limits={"limits": [{"requests": 2, "per": 3600, "path": "/whoami"}]},
    )
    async with running(path) as (sidecar, client, _):
        statuses = [(await client.get("/whoami")).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert (await client.get("/echo")).status_code == 200
        assert await sidecar.reload()
        assert (await client.get("/whoami")).status_code == 429, "a reload fills no buckets"


@pytest.mark.parametrize("bind", ["unix", "fd", "ipv6", "all"])
async def test_it_listens_in_many_ways(servers: SharedServers, tmp_path: Path, bind: str) -> None:
    (one,) = servers("uvicorn", 1)
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        uds = str(tmp_path / "s.sock")
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(uds)
        stale.close()  # the file stays: somebody was killed
        address = {"unix": f"unix:{uds}", "fd": f"fd:{inherited.fileno()}", "ipv6": "[::1]:0", "all": ":0"}[
            bind
        ]
        path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), listeners=[address])
        sidecar = Sidecar(path)
        await sidecar.start()
        port = inherited.getsockname()[1] if bind == "fd" else sidecar.listeners[0].address.port
        base = f"http://[::1]:{port}" if bind == "ipv6" else f"http://127.0.0.1:{port}"
        transport = httpx.AsyncHTTPTransport(uds=uds) if bind == "unix" else None
        async with httpx.AsyncClient(base_url=base, transport=transport) as client:
            assert (await client.get("/whoami")).text == one.name
        await sidecar.stop()
        assert not Path(uds).exists() or bind != "unix"


async def test_tls_ends_here_and_certificates_go_by_name(
    servers: SharedServers,
    tmp_path: Path,
    server_cert_files: CertFiles,
    client_ssl_context: ssl.SSLContext,
    ca: Any,
) -> None:
    (one,) = servers("uvicorn", 1)
    other = ca.issue_cert("shop.example")
    other.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "shop.pem"))
    tls = {
        "certificate": server_cert_files.cert,
        "key": server_cert_files.key,
        "sni": {"*.example": {"certificate": "shop.pem"}},
    }
    path = written(
        tmp_path / "s.yaml", pools=one_pool([one.url]), listeners=[{"bind": "127.0.0.1:0", "tls": tls}]
    )
    async with running(path) as (sidecar, _, _):
        port = sidecar.listeners[0].address.port
        async with httpx.AsyncClient(verify=client_ssl_context) as client:
            assert (await client.get(f"https://localhost:{port}/whoami")).text == one.name
            extensions = {"sni_hostname": "shop.example"}
            response = await client.get(f"https://127.0.0.1:{port}/whoami", extensions=extensions)
            assert response.text == one.name
            echo = (await client.get(f"https://localhost:{port}/echo")).json()
            assert ["x-forwarded-proto", "https"] in echo["headers"]


async def test_clients_may_have_to_show_a_certificate(
    servers: SharedServers,
    tmp_path: Path,
    server_cert_files: CertFiles,
    client_ssl_context: ssl.SSLContext,
    ca: Any,
) -> None:
    (one,) = servers("uvicorn", 1)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = {
        "certificate": server_cert_files.cert,
        "key": server_cert_files.key,
        "client_ca": "ca.pem",
        "min_version": "1.3",
    }
    listener = {"bind": "127.0.0.1:0", "tls": tls}
    async with running(written(tmp_path / "s.yaml", pools=one_pool([one.url]), listeners=[listener])) as (
        sidecar,
        _,
        _,
    ):
        url = f"https://localhost:{sidecar.listeners[0].address.port}/whoami"
        async with httpx.AsyncClient(verify=client_ssl_context) as nobody:
            with pytest.raises(httpx.TransportError):
                await nobody.get(url)
        known = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(known)
        ca.issue_cert("client@example").configure_cert(known)
        async with httpx.AsyncClient(verify=known) as somebody:
            assert (await somebody.get(url)).text == one.name


@pytest.mark.parametrize("form", ["text", "json"])
async def test_every_request_is_a_line_in_the_access_log(
    servers: SharedServers, tmp_path: Path, form: str
) -> None:
    (one,) = servers("uvicorn", 1)
    log = tmp_path / "access.log"
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool([one.url]),
        access_log={"path": "access.log", "format": form},
        proxy={"trusted": ["127.0.0.1"]},
    )
    async with running(path) as (sidecar, client, _):
        await client.get('/echo?a="b"', headers={"x-forwarded-for": "203.0.113.9"})
        await client.post("/status/503", content=b"x")
        log.rename(tmp_path / "access.log.1")
        sidecar.reopen_log()
        await client.get("/whoami")
    first, second = (tmp_path / "access.log.1").read_text().splitlines()
    (third,) = log.read_text().splitlines()
    if form == "json":
        facts = json.loads(first)
        assert (facts["client"], facts["status"], facts["backend"]) == ("203.0.113.9", 200, one.url)
        assert facts["target"] == "/echo?a=%22b%22"
        assert json.loads(second)["status"] == 503
        assert json.loads(third)["bytes"] == len(one.name)
    else:
        assert '203.0.113.9 "GET /echo?a=%22b%22 HTTP/1.1" 200 ' in first
        assert f" {one.url} 1" in first
        assert ' "POST /status/503 HTTP/1.1" 503 ' in second


async def test_the_access_log_goes_to_standard_output(
    servers: SharedServers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (one,) = servers("uvicorn", 1)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), access_log={"path": "-"})
    async with running(path) as (_, client, _):
        await client.get("/whoami")
        await asyncio.sleep(0.5)
        assert '"GET /whoami HTTP/1.1" 200 ' in capsys.readouterr().out


UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\n"


async def test_what_the_server_refuses_itself_is_in_the_access_log_too(
    servers: SharedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN", 0.5)
    (one,) = servers("uvicorn", 1)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), access_log={"path": "access.log"})
    ok = b"GET /whoami HTTP/1.1\r\nhost: a\r\n\r\n"
    answers: list[bytes] = []
    async with running(path) as (sidecar, _, admin):
        address = sidecar.listeners[0].address
        for said in (
            b"nonsense\r\n\r\n",
            b"GET /cut?a HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
            b"GET /large HTTP/1.1\r\nhost: a\r\nx-large: " + b"a" * 100_000,
            b"GET /late HTTP/1.1\r\nhost:",
            ok + b"\x00\r\n\r\n",
            b"GET /ws HTTP/1.1\r\nhost: a\r\n" + UPGRADE + b"sec-websocket-version: 13\r\n\r\n",
            b"GET /ws?old HTTP/1.1\r\nhost: a\r\n" + UPGRADE + b"sec-websocket-version: 8\r\n\r\n",
            b"POST /ws HTTP/1.1\r\nhost: a\r\n" + UPGRADE + b"sec-websocket-version: 8\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(said)
            answers.append((await asyncio.wait_for(reader.read(), 10))[9:12])
            writer.close()
        metrics = (await admin.get("/metrics")).text
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "access.log").read_text().splitlines()]
    refused = [line for line in lines if "/whoami" not in line]
    assert [line.rsplit(" ", 4)[0] for line in refused] == [
        '"- - HTTP/1.1" 400',
        '"GET /cut?a HTTP/1.1" 400',
        '"GET /large HTTP/1.1" 431',
        '"GET /late HTTP/1.1" 0',
        '"- - HTTP/1.1" 400',
        '"GET /ws HTTP/1.1" 400',
        '"GET /ws?old HTTP/1.1" 426',
        '"POST /ws HTTP/1.1" 400',
    ]
    assert answers == [b"400", b"400", b"431", b"", b"400", b"400", b"426", b"400"], "and so it was"
    assert 'lbclient_sidecar_requests_total{pool="",status="400"} 5.0' in metrics
    assert 'lbclient_sidecar_requests_total{pool="",status="426"} 1.0' in metrics


async def test_more_connections_than_allowed_are_in_the_access_log_too(
    servers: SharedServers, tmp_path: Path
) -> None:
    (one,) = servers("uvicorn", 1)
    listeners = [{"bind": "127.0.0.1:0", "max_connections": 1}]
    path = written(
        tmp_path / "s.yaml", listeners=listeners, pools=one_pool([one.url]), access_log={"path": "access.log"}
    )
    async with running(path) as (_, client, _):
        assert (await client.get("/whoami")).status_code == 503
    assert '"GET /whoami HTTP/1.1" 503 19 ' in (tmp_path / "access.log").read_text()


async def test_informational_responses_reach_the_client(raw_server: MakeRawServer, tmp_path: Path) -> None:
    server = raw_server(answer_or_not)
    async with running(written(tmp_path / "s.yaml", pools=one_pool([server.url]))) as (sidecar, _, _):
        address = sidecar.listeners[0].address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        for version, expected in (
            (b"1.1", [b"102 Processing", b"103 Early Hints", b"103 Early Hints", b"200 OK"]),
            (b"1.0", [b"200 OK"]),
        ):
            writer.write(b"GET /raw/hints HTTP/%s\r\nhost: a\r\nconnection: keep-alive\r\n\r\n" % version)
            heads = [await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) for _ in expected]
            assert [head.split(b"\r\n")[0][9:] for head in heads] == expected
            if len(heads) > 1:
                assert heads[1].split(b"\r\n", 1)[1] == b"link: </a.css>; rel=preload\r\n\r\n"
            length = int(heads[-1].lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()


async def test_a_head_that_is_too_large_is_refused(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    async with running(written(tmp_path / "s.yaml", pools=one_pool([one.url]))) as (sidecar, client, _):
        assert (await client.get("/whoami", headers={"x-large": "a" * 60_000})).status_code == 200
        address = sidecar.listeners[0].address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nx-large: " + b"a" * 200_000)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_who_does_not_finish_a_head_is_not_waited_for(
    servers: SharedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN", 0.2)
    (one,) = servers("uvicorn", 1)
    async with running(written(tmp_path / "s.yaml", pools=one_pool([one.url]))) as (sidecar, client, _):
        address = sidecar.listeners[0].address
        for said in (b"", b"GET / HTTP/1.1\r\nhost:"):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(said)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /whoami HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n" + one.name.encode()), 10)
        writer.write(b"GET /who")  # the second head of the connection
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        assert (await client.get("/slow?seconds=0.5")).status_code == 200


async def test_a_body_that_breaks_off_ends_the_connection(
    servers: SharedServers, tmp_path: Path, start_server: Any
) -> None:
    server = start_server("uvicorn")
    async with (
        running(written(tmp_path / "s.yaml", pools=one_pool([server.url]))) as (_, client, _),
        client.stream("GET", "/stream?chunks=100&delay=0.1") as response,
    ):
        parts = response.aiter_bytes()
        await anext(parts)
        server.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in parts:
                pass


# The process


@pytest.mark.timeout(180)
def test_it_serves_until_it_is_told_to_end(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    port, admin = free_port(), free_port()
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool([one.url]),
        listeners=[f"127.0.0.1:{port}"],
        admin={"bind": f"127.0.0.1:{admin}"},
        shutdown={"linger": 0.1},
    )
    with Process(path, measured=True) as process:
        assert httpx.get(f"http://127.0.0.1:{port}/whoami").text == one.name
        written(path, pools=one_pool(["http://127.0.0.1:1"]), admin={"bind": f"127.0.0.1:{admin}"}, log_level="info",
                listeners=[f"127.0.0.1:{port}"], shutdown={"linger": 0.1})  # fmt: skip
        process.signal(signal.SIGHUP)
        while not process.status()["configuration"]["reloads"]:
            pass
        assert httpx.get(f"http://127.0.0.1:{port}/whoami").status_code == 502
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log()
        assert "leaving: finishing 0 requests" in process.log()


@pytest.mark.timeout(180)
def test_asked_twice_it_ends_at_once(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    admin = free_port()
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool([one.url]),
        admin={"bind": f"127.0.0.1:{admin}"},
        shutdown={"delay": 60},
    )
    with Process(path) as process:
        process.signal(signal.SIGINT)
        while process.admin.get("/ready").status_code == 200:
            pass
        process.signal(signal.SIGINT)
        assert process.wait() == 1


def test_what_cannot_be_served_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("pools: {}")
    assert main(["serve", str(path)]) == 1
    assert f"{path}:1: pools: is a mapping; write at least 1" in capsys.readouterr().err


def test_an_address_that_is_taken_ends_with_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = written(tmp_path / "s.yaml", pools=one_pool(["http://x"]), listeners=[f"127.0.0.1:{port}"])
        assert main(["serve", str(path)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capfd.readouterr().err


async def test_a_second_sidecar_does_not_take_the_socket_of_the_first(
    servers: SharedServers, tmp_path: Path
) -> None:
    (one,) = servers("uvicorn", 1)
    uds = f"unix:{tmp_path}/s.sock"
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), listeners=["127.0.0.1:0", uds])
    async with running(path):
        with pytest.raises(OSError, match="cannot listen on unix:"):
            await Sidecar(path).start()
        assert os.path.exists(uds.removeprefix("unix:"))  # noqa: PTH110


async def test_a_file_that_is_wrong_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        await Sidecar(tmp_path / "none.yaml").start()
