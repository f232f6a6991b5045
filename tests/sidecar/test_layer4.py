"""Listeners at layer 4 in a sidecar: connections and datagrams, by server name, through reloads and drains."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from lbclient.sidecar import layer4
from lbclient.sidecar.sidecar import Sidecar
from tests.conftest import SharedServers
from tests.faults.load import until
from tests.servers import free_port
from tests.sidecar.documents import problems
from tests.sidecar.running import replace, running, written


@asynccontextmanager
async def echo(name: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that puts its name before every line; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):  # a drain cuts it
            while line := await reader.readline():
                writer.write(name.encode() + b" " + line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self) -> str:
        """Who is there."""
        self.writer.write(b"hello\n")
        return (await asyncio.wait_for(self._reader.readline(), 20)).decode().split(" ")[0]


async def connect(sidecar: Sidecar, at: int = 0, **options: Any) -> Client:
    address = sidecar.listeners[at].address
    return Client(*await asyncio.open_connection(address.host, address.port, **options))


def l4_only(path: Path, **configuration: Any) -> Path:
    return written(path, listeners=[], **configuration)


async def test_connections_are_forwarded_and_outlive_reloads(tmp_path: Path) -> None:
    async with echo("one") as one, echo("two") as two:
        path = tmp_path / "s.yaml"
        listener = {"bind": "127.0.0.1:0", "pool": "lines"}

        def pools(*addresses: str, **options: Any) -> dict[str, Any]:
            return {"lines": {"backends": [f"tcp://{address}" for address in addresses], **options}}

        l4_only(path, l4=[listener], pools=pools(one))
        sidecar = Sidecar(path)
        await sidecar.start()
        first = await connect(sidecar)
        assert await first.ask() == "one"
        assert sidecar.listeners[0].connections == 1
        port = sidecar.listeners[0].address.port
        l4_only(path, l4=[listener], pools=pools(two))
        assert await sidecar.reload()
        second = await connect(sidecar)
        assert (await first.ask(), await second.ask()) == ("one", "two")
        l4_only(path, l4=[{**listener, "idle_timeout": 100}], pools=pools(two, one, algorithm="first"))
        assert await sidecar.reload()
        third = await connect(sidecar)
        assert [await client.ask() for client in (first, second, third)] == ["one", "two", "two"]
        assert sidecar.listeners[0].address.port == port
        assert not await sidecar.listeners[0].serve(  # type: ignore[union-attr]
            sidecar.configuration.l4[0], sidecar.traffic.pools, 1
        )
        stopping = asyncio.create_task(sidecar.stop())
        await asyncio.sleep(0.2)
        for client in (first, second, third):
            client.writer.close()
        assert await stopping == 0


async def test_operators_drain_and_swap_what_serves_no_http(tmp_path: Path) -> None:
    async with echo("one") as one, echo("two") as two:
        path = l4_only(
            tmp_path / "s.yaml",
            l4=[{"bind": "127.0.0.1:0", "pool": "lines"}],
            pools={"lines": {"backends": [f"tcp://{one}", f"tcp://{two}"], "algorithm": "first"}},
        )
        async with running(path) as (sidecar, _, admin):
            client = await connect(sidecar)
            assert await client.ask() == "one"
            body = {"url": f"tcp://{one}", "grace": 0, "wait": True}
            drained = (await admin.post("/pools/lines/drain", json=body)).json()
            assert (drained["state"], drained["report"]["closed"]) == ("done", 1), drained
            client = await connect(sidecar)
            assert await client.ask() == "two"
            client.writer.close()
            await admin.post("/pools/lines/enable", json={"url": f"tcp://{one}"})
            flip = {"backends": [f"tcp://{one}"], "grace": 5, "wait": True}
            assert (await admin.post("/pools/lines/swap", json=flip)).json()["report"]["swapped"]
            client = await connect(sidecar)
            assert await client.ask() == "one"
            client.writer.close()
            assert (await admin.get("/status")).json()["listeners"][0]["name"].startswith("tcp on 127.0.0.1:")


async def test_a_pool_of_both_layers_is_drained_at_both(servers: SharedServers, tmp_path: Path) -> None:
    one, two = servers("uvicorn", 2)
    path = written(
        tmp_path / "s.yaml",
        l4=[{"bind": "127.0.0.1:0", "pool": "api"}],
        pools={"api": {"backends": [one.url, two.url], "algorithm": "first"}},
    )
    async with running(path) as (sidecar, client, admin):
        assert (await client.get("/whoami")).text == one.name
        connected = await connect(sidecar, at=1)
        connected.writer.write(b"GET /whoami HTTP/1.1\r\nhost: a\r\n\r\n")
        await until(lambda: sidecar.traffic.pools["api"].status().backends[0].in_flight == 1)
        body = {"url": one.url, "grace": 0, "wait": True}
        report = (await admin.post("/pools/api/drain", json=body)).json()["report"]
        assert (report["in_flight_at_start"], report["closed"]) == (1, 1)
        flip = {"backends": [one.url], "grace": 0, "wait": True}
        assert (await admin.post("/pools/api/swap", json=flip)).json()["report"]["swapped"]
        connected.writer.close()


async def test_tls_is_routed_by_server_name(
    tmp_path: Path, ca: trustme.CA, client_ssl_context: ssl.SSLContext
) -> None:
    contexts = {}
    for name in ("one.test", "two.test"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(name).configure_cert(context)
        contexts[name] = context
    async with echo("one", contexts["one.test"]) as one, echo("two", contexts["two.test"]) as two:
        path = l4_only(
            tmp_path / "s.yaml",
            l4=[{"bind": "127.0.0.1:0", "pool": "one", "tls_routes": [{"sni": ["two.test"], "to": "two"}]}],
            pools={"one": {"backends": [f"tcp://{one}"]}, "two": {"backends": [f"tcp://{two}"]}},
        )
        async with running(path) as (sidecar, _, _):
            for name in ("one", "two"):
                client = await connect(sidecar, ssl=client_ssl_context, server_hostname=f"{name}.test")
                assert await client.ask() == name
                client.writer.close()


async def test_datagrams_are_forwarded(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
            self.transport.sendto(b"got " + data, addr)

    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    path = l4_only(
        tmp_path / "s.yaml",
        l4=[{"bind": "127.0.0.1:0", "protocol": "udp", "pool": "dns", "responses": 1}],
        pools={"dns": {"backends": [f"udp://127.0.0.1:{port}"]}},
    )
    async with running(path) as (sidecar, _, _):
        address = sidecar.listeners[0].address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((address.host, address.port))
            client.send(b"this")
            assert await asyncio.wait_for(loop.sock_recv(client, 100), 20) == b"got this"
    transport.close()
    await asyncio.sleep(0.01)


async def test_they_stand_beside_listeners_for_http_and_go_when_the_file_says_so(
    servers: SharedServers, tmp_path: Path
) -> None:
    (one,) = servers("uvicorn", 1)
    port = free_port()
    async with echo("lines") as lines:
        pools = {"api": {"backends": [one.url]}, "lines": {"backends": [f"tcp://{lines}"]}}
        path = written(
            tmp_path / "s.yaml",
            pools=pools,
            default="api",
            l4=[{"bind": f"127.0.0.1:{port}", "pool": "lines"}],
        )
        async with running(path) as (sidecar, client, _):
            assert (await client.get("/whoami")).text == one.name
            connected = await connect(sidecar, at=1)
            assert await connected.ask() == "lines"
            before = path.read_text()
            written(path, pools={"api": pools["api"]})
            assert await sidecar.reload()
            assert len(sidecar.listeners) == 1
            assert await connected.ask() == "lines", "it may end by itself"
            connected.writer.close()
            await until(lambda: not sidecar._endings)
            replace(path, before)
            assert await sidecar.reload()
            connected = await connect(sidecar, at=1)
            assert await connected.ask() == "lines"
            connected.writer.close()


async def test_an_address_that_is_taken_is_no_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = l4_only(
            tmp_path / "s.yaml",
            l4=[{"bind": f"127.0.0.1:{port}", "pool": "lines"}],
            pools={"lines": {"backends": ["tcp://127.0.0.1:1"]}},
        )
        with pytest.raises(OSError, match="cannot listen on"):
            await Sidecar(path).start()


def test_http_is_not_routed_to_what_speaks_none() -> None:
    (found,) = problems("listeners: [':1']\ndefault: a\npools: {a: {backends: ['tcp://x:1']}}")
    assert "pools.a: has tcp://x:1, and HTTP is routed to it" in str(found)


async def test_a_listener_that_cannot_take_over_goes_on_as_before_and_the_others_change(
    servers: SharedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (http,) = servers("uvicorn", 1)
    async with echo("one") as one, echo("two") as two:
        path = tmp_path / "s.yaml"
        ports = [free_port(), free_port()]

        def write(lines: str, *l4: int, **more: Any) -> None:
            pools = {"api": {"backends": [http.url]}, "lines": {"backends": [f"tcp://{lines}"]}}
            listeners = [{"bind": f"127.0.0.1:{port}", "pool": "lines", **more} for port in l4]
            written(path, pools=pools, default="api", l4=listeners)

        write(one, ports[0])
        async with running(path) as (sidecar, _, admin):

            async def no_descriptors(_: object) -> socket.socket:
                raise OSError(errno.EMFILE, "Too many open files")

            monkeypatch.setattr(layer4._OnSocket, "_bind", no_descriptors)
            write(two, *ports, idle_timeout=50)
            answer = await admin.post("/reload", json={})
            assert answer.status_code == 409
            said = answer.json()["error"]
            assert f"tcp on 127.0.0.1:{ports[0]} goes on as before: " in said
            assert f"tcp on 127.0.0.1:{ports[1]} is not served: " in said
            assert said.count("Too many open files") == 2
            assert (await admin.get("/status")).json()["configuration"]["trouble"] == said
            assert [str(each) for each in sidecar.listeners[1:]] == [f"tcp on 127.0.0.1:{ports[0]}"]
            client = await connect(sidecar, at=1)
            assert await client.ask() == "two", "the pool is the same, and has changed"
            client.writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", ports[1])
            monkeypatch.undo()
            assert await sidecar.reload(), "all that was not done is tried again"
            assert sidecar.trouble == ""
            client = await connect(sidecar, at=2)
            assert await client.ask() == "two"
            client.writer.close()
            await until(lambda: not any(each.connections for each in sidecar.listeners[1:]))


async def test_a_start_without_one_of_its_listeners_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_descriptors(_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(layer4._OnSocket, "_bind", no_descriptors)
    lines = {"lines": {"backends": ["tcp://127.0.0.1:1"]}}
    path = l4_only(tmp_path / "s.yaml", l4=[{"bind": "127.0.0.1:0", "pool": "lines"}], pools=lines)
    with pytest.raises(OSError, match=r"is not served: .*Too many open files"):
        await Sidecar(path).start()


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ("{bind: 'unix:/x', pool: a}", "write an address and a port"),
        (
            "{bind: ':1', protocol: udp, pool: a, send_proxy: v1}",
            "protocol is 'udp', which has no send_proxy",
        ),
        ("{bind: ':1', pool: a, responses: 1}", "protocol is 'tcp', which has no responses"),
        ("{bind: ':1'}", "'pool' is missing"),
        ("{bind: ':1', pool: a, tls_routes: [{to: b}]}", "is 'b', which is no pool"),
        ("{bind: ':1', protocol: udp, pool: a}", "pool 'a' has tcp://x:1; write protocol: tcp"),
        ("{bind: ':1', pool: a, accept_proxy: [10.0.0.0/99]}", "10.0.0.0/99"),
        ("{bind: ':1', pool: a, idle_timeout: 0}", "write a number above 0"),
    ],
)
def test_what_does_not_belong_together_is_refused(listener: str, words: str) -> None:
    (found,) = problems(f"l4: [{listener}]\npools: {{a: {{backends: ['tcp://x:1']}}}}")
    assert words in found.message
