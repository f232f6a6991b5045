"""A sidecar under load while its configuration, its certificate and its process are replaced."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import trustme
from httpx_ws import AsyncWebSocketSession, aconnect_ws

from tests.faults.deploys import Ledger, ask
from tests.faults.load import until
from tests.servers import Server, free_port
from tests.sidecar.running import Process, one_pool, written

LONGEST = 0.3  # seconds that an answer streams


@asynccontextmanager
async def customers(url: str, verify: ssl.SSLContext, ledger: Ledger, count: int) -> AsyncIterator[None]:
    """So many clients with a connection each, who never try again: what fails is lost.

    Args:
        url: Of the sidecar.
        verify: Whom they trust.
        ledger: Where every answer is written down, and every failure.
        count: How many.
    """
    running = True

    async def live(seed: int) -> None:
        rng = random.Random(seed)
        async with httpx.AsyncClient(base_url=url, verify=verify, timeout=60) as client:
            while running:
                try:
                    name, protocol = await ask(client, rng, LONGEST)
                except (httpx.HTTPError, AssertionError) as exc:
                    ledger.lost.append(repr(exc))
                else:
                    ledger.answered[name] += 1
                    ledger.protocols.add(protocol)
                if seed % 2:
                    client.cookies.clear()  # every other one has no session
                await anyio.sleep(0.005)  # the sidecars want to start, too

    async with anyio.create_task_group() as group:
        for seed in range(count):
            group.start_soon(live, seed)
        yield
        running = False


def certificate(ca: trustme.CA, path: Path) -> str:
    """A new certificate in the place of the old one; its serial number."""
    issued = ca.issue_cert("localhost", "127.0.0.1")
    beside = path.with_suffix(".new")
    issued.private_key_and_cert_chain_pem.write_to_path(str(beside))
    beside.replace(path)
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode()).hex()


async def shown(port: int, verify: ssl.SSLContext) -> str:
    """The certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=verify, server_hostname="localhost")
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found.hex()


async def reload_often(
    times: int, clients: int, fleet: list[Server], ca: trustme.CA, verify: ssl.SSLContext, home: Path
) -> Ledger:
    """Reload so often, each time with something else in the file or another certificate, under load.

    Looked at on the way: a WebSocket and a session that began with the first configuration go on with the last; every
    new certificate is shown to the next connection.
    """
    ledger = Ledger()
    port, admin = free_port(), free_port()
    serial = certificate(ca, home / "cert.pem")
    stays, *others = [server.url for server in fleet]

    def write(turn: int) -> Path:
        members = [stays, *others[: turn % (len(others) + 1)]]
        pool: dict[str, Any] = {
            "affinity": {"kind": "cookie"},
            "algorithm": ["round_robin", "least_connections", "adaptive"][turn // 4 % 3],
            "probe": {"path": "/health", "interval": 5 + turn % 2, "timeout": 5},
        }
        return written(
            home / "sidecar.yaml",
            listeners=[
                {
                    "bind": f"127.0.0.1:{port}",
                    "tls": {"certificate": "cert.pem"},
                    "keep_alive": 60 + turn // 3,
                }
            ],
            pools=one_pool(members, **pool)
            | {"side": {"backends": [fleet[-1].url], "slow_start": turn // 6}},
            splits={"canary": {"weights": {"api": 9, "side": turn % 3}}},
            routes=[{"path": "/echo", "to": "canary"}, {"path": f"/turn/{turn}", "to": "side"}],
            default="api",
            admin={"bind": f"127.0.0.1:{admin}"},
        )

    path = write(0)
    base = f"https://localhost:{port}"
    with await anyio.to_thread.run_sync(Process(path).__enter__) as process:
        async with (
            httpx.AsyncClient(base_url=base, verify=verify, timeout=60) as session,
            httpx.AsyncClient(verify=verify, timeout=60) as sockets,
            AsyncExitStack() as stack,
        ):
            ws: AsyncWebSocketSession = await stack.enter_async_context(
                aconnect_ws(f"wss://localhost:{port}/ws", sockets)
            )
            tied = await tie(session, fleet[0].name)
            talks_to = await talk(ws)
            async with customers(base, verify, ledger, clients):
                for turn in range(1, times + 1):
                    write(turn)
                    if turn % 2:
                        serial = certificate(ca, home / "cert.pem")
                    await reloaded(process, turn)
                    assert await shown(port, verify) == serial
                    assert (await session.get("/whoami")).text == tied
                    assert await talk(ws) == talks_to
        assert process.status()["configuration"]["trouble"] == ""
        process.signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait) == 0, process.log()
    return ledger


async def reload_several(
    times: int, clients: int, fleet: list[Server], ca: trustme.CA, verify: ssl.SSLContext, home: Path
) -> Ledger:
    """The same with two workers: both have to take every configuration, and no request may be lost."""
    ledger = Ledger()
    port, admin = free_port(), free_port()
    certificate(ca, home / "cert.pem")

    def write(turn: int) -> Path:
        members = [server.url for server in fleet[: 1 + turn % len(fleet)]]
        listener = {"bind": f"127.0.0.1:{port}", "tls": {"certificate": "cert.pem"}, "keep_alive": 60 + turn}
        return written(
            home / "sidecar.yaml",
            listeners=[listener],
            pools=one_pool(members, algorithm=["round_robin", "adaptive"][turn // 2 % 2]),
            admin={"bind": f"127.0.0.1:{admin}"},
            workers=2,
        )

    with await anyio.to_thread.run_sync(Process(write(0)).__enter__) as process:

        def reloads(worker: int) -> int:
            found: int = process.status(worker)["configuration"]["reloads"]
            return found

        await until(lambda: process.admin.get("/status?worker=2").status_code == 200)
        async with customers(f"https://localhost:{port}", verify, ledger, clients):
            for turn in range(1, times + 1):
                write(turn)
                process.signal(signal.SIGHUP)
                await until(lambda turn=turn: min(map(reloads, (1, 2))) == turn)  # type: ignore[misc]
        process.signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait) == 0, process.log()
    return ledger


async def tie(session: httpx.AsyncClient, name: str) -> str:
    """A session at the server of this name."""
    while (await session.get("/whoami")).text != name:
        session.cookies.clear()
    return name


async def talk(ws: AsyncWebSocketSession) -> str:
    """Who is at the other end."""
    await ws.send_text("name")
    return await ws.receive_text()


async def reloaded(process: Process, turn: int) -> None:
    process.signal(signal.SIGHUP)
    with anyio.fail_after(60):
        while process.status()["configuration"]["reloads"] < turn:
            await anyio.sleep(0.02)


async def roll(
    times: int,
    clients: int,
    fleet: list[Server],
    ca: trustme.CA,
    verify: ssl.SSLContext,
    home: Path,
    *,
    workers: int = 1,
) -> Ledger:
    """Replace the process so often, under load: the next starts on the same socket before the old is told to end."""
    ledger = Ledger()
    certificate(ca, home / "cert.pem")
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        port = listening.getsockname()[1]

        async def start(turn: int) -> Process:
            path = written(
                home / f"sidecar-{turn}.yaml",
                listeners=[{"bind": f"fd:{listening.fileno()}", "tls": {"certificate": "cert.pem"}}],
                pools=one_pool([server.url for server in fleet]),
                admin={"bind": f"127.0.0.1:{free_port()}"},
                shutdown={"delay": 0.2, "linger": 2.0, "grace": 60},
                workers=workers,
            )
            return await anyio.to_thread.run_sync(Process(path, inherited=[listening.fileno()]).__enter__)

        old = await start(0)
        try:
            async with customers(f"https://localhost:{port}", verify, ledger, clients):
                for turn in range(1, times + 1):
                    new = await start(turn)
                    old.signal(signal.SIGTERM)
                    code = await anyio.to_thread.run_sync(old.wait, 90)
                    assert code == 0, old.log()
                    old.__exit__(None, None, None)
                    old = new
        finally:
            old.__exit__(None, None, None)
    return ledger
