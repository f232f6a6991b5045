"""Nothing breaks while configuration, certificate and process are replaced; what a reload keeps, and what it refuses.

tests/soak/test_sidecar.py is the long form of the first part.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme
import yaml

from lbclient.sidecar import listening, traffic
from tests.conftest import SharedServers
from tests.faults.load import until
from tests.servers import CertFiles, free_port
from tests.sidecar.changing import reload_often, roll
from tests.sidecar.running import one_pool, replace, running, written


@pytest.mark.timeout(180)
async def test_reloads_under_load_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    ledger = await reload_often(7, 4, servers("uvicorn"), ca, client_ssl_context, tmp_path)
    assert ledger.lost == []
    assert len(ledger.answered) == 3


@pytest.mark.timeout(180)
async def test_processes_that_take_over_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    ledger = await roll(1, 4, servers("uvicorn"), ca, client_ssl_context, tmp_path)
    assert ledger.lost == []


# What a reload keeps


def edit(path: Path, **changes: Any) -> None:
    replace(path, yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


async def test_a_pool_that_has_not_changed_is_the_same_with_its_connections(
    servers: SharedServers, tmp_path: Path
) -> None:
    one, two = servers("uvicorn", 2)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url, two.url], algorithm="first"))
    async with running(path) as (sidecar, client, admin):
        await client.get("/whoami")
        pool = sidecar.traffic.pools["api"]
        pool.set_weight(two.url, 7)
        pool.disable(two.url)
        await admin.post("/reload", json={})
        edit(path, routes=[{"path": "/a", "to": "api"}], default="api")
        assert await sidecar.reload()
        assert sidecar.traffic.pools["api"] is pool
        assert sidecar.traffic.connections()[one.url] == (1, 1)
        status = pool.status().backends[1]
        assert (status.weight, status.admin) == (7, "disabled"), "as operators have left it"


async def test_what_the_file_says_anew_of_a_backend_counts(servers: SharedServers, tmp_path: Path) -> None:
    one, two, three = servers("uvicorn")
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url, two.url]))
    async with running(path) as (sidecar, client, _):
        pool = sidecar.traffic.pools["api"]
        pool.set_weight(one.url, 5)
        pool.set_weight(two.url, 5)
        changed = {"api": {"backends": [one.url, {"url": two.url, "weight": 2}, three.url]}}
        edit(path, pools=changed)
        assert await sidecar.reload()
        assert sidecar.traffic.pools["api"] is pool
        assert [status.weight for status in pool.status().backends] == [5, 2, 1]
        edit(path, pools=one_pool([three.url]))
        assert await sidecar.reload()
        assert (await client.get("/whoami")).text == three.name


async def test_a_pool_with_other_options_knows_what_the_one_before_knew(
    servers: SharedServers, tmp_path: Path
) -> None:
    one, two, three = servers("uvicorn")
    options: dict[str, Any] = {"affinity": {"kind": "cookie"}}
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url, two.url], **options))
    async with running(path) as (sidecar, client, admin):
        name = (await client.get("/whoami")).text
        before = sidecar.traffic.pools["api"]
        await admin.post("/pools/api/swap", json={"backends": [one.url, two.url, three.url], "wait": True})
        before.disable(three.url)
        edit(path, pools=one_pool([one.url, two.url], algorithm="random", **options))
        assert await sidecar.reload()
        pool = sidecar.traffic.pools["api"]
        assert pool is not before
        assert pool.status().algorithm == "random"
        assert {(await client.get("/whoami")).text for _ in range(8)} == {name}, "the session stays"
        assert [status.url for status in pool.status().backends] == [one.url, two.url, three.url], (
            "the swap stays"
        )
        assert pool.status().backends[2].admin == "disabled"


async def test_a_session_outlives_another_affinity_without_a_secret(
    servers: SharedServers, tmp_path: Path
) -> None:
    fleet = servers("uvicorn")
    urls = [server.url for server in fleet]
    path = written(tmp_path / "s.yaml", pools=one_pool(urls, affinity={"kind": "cookie"}))
    async with running(path) as (sidecar, client, _):
        name = (await client.get("/whoami")).text
        edit(path, pools=one_pool(urls, affinity={"kind": "cookie", "samesite": "strict"}))
        assert await sidecar.reload()
        assert {(await client.get("/whoami")).text for _ in range(8)} == {name}


async def test_splits_keep_what_operators_have_set_until_the_file_says_otherwise(
    servers: SharedServers, tmp_path: Path
) -> None:
    one, two = servers("uvicorn", 2)
    pools = {"old": {"backends": [one.url]}, "new": {"backends": [two.url]}}
    canary: dict[str, Any] = {"weights": {"old": 1, "new": 0}}
    path = written(tmp_path / "s.yaml", pools=pools, splits={"canary": canary}, default="canary")

    async with running(path) as (sidecar, _, admin):

        def weights() -> dict[str, float]:
            split = sidecar.traffic.generation.splits["canary"]
            return {pool.name: weight for pool, weight in split.weights.items()}

        split = sidecar.traffic.generation.splits["canary"]
        await admin.post("/splits/canary", json={"weights": {"old": 1, "new": 3}})
        assert await sidecar.reload()
        assert (sidecar.traffic.generation.splits["canary"] is split, weights()) == (
            True,
            {"old": 1, "new": 3},
        )
        edit(path, pools={**pools, "old": {"backends": [one.url], "slow_start": 1}})
        assert await sidecar.reload()
        assert weights() == {"old": 1, "new": 3}, "over another pool"
        edit(path, splits={"canary": {"weights": {"old": 1, "new": 1}}})
        assert await sidecar.reload()
        assert weights() == {"old": 1, "new": 1}
        edit(path, splits={"canary": {"weights": {"old": 1, "new": 1}, "sticky": True}})
        assert await sidecar.reload()
        assert sidecar.traffic.generation.splits["canary"].strip


async def test_connections_that_nobody_needs_any_more_are_closed_when_their_requests_end(
    servers: SharedServers, tmp_path: Path
) -> None:
    one, two = servers("uvicorn", 2)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]))
    async with running(path) as (sidecar, client, _):
        async with client.stream("GET", "/stream?chunks=1&delay=3") as response:
            old = sidecar.traffic.transport
            assert old is not None
            for number in range(3):
                edit(path, pools={f"next-{number}": {"backends": [two.url]}})
                assert await sidecar.reload()
            assert len(sidecar.traffic._before) == 3
            assert len(await response.aread()) == 1024
        await until(lambda: not sidecar.traffic._before)
        assert not old._left


async def test_a_pool_from_a_source_follows_it_and_keeps_its_members_through_reloads(
    servers: SharedServers, tmp_path: Path
) -> None:
    one, two = servers("uvicorn", 2)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(yaml.safe_dump([one.url]))
    discovery: dict[str, Any] = {"kind": "file", "path": "fleet.yaml", "interval": "50ms", "settle": 0}
    path = written(tmp_path / "s.yaml", pools={"api": {"discovery": discovery}})
    async with running(path) as (sidecar, client, _):

        def members() -> list[str]:
            return [backend.url for backend in sidecar.traffic.pools["api"].declared]

        assert (await client.get("/whoami")).text == one.name
        replace(fleet, yaml.safe_dump([two.url]))
        await until(lambda: members() == [two.url])
        assert (await client.get("/whoami")).text == two.name
        fleet.unlink()
        edit(path, pools={"api": {"discovery": discovery, "algorithm": "random"}})
        assert await sidecar.reload()
        assert members() == [two.url], "the source says nothing any more"
        assert (await client.get("/whoami")).text == two.name
        edit(path, pools=one_pool([one.url]))
        assert await sidecar.reload()
        assert (await client.get("/whoami")).text == one.name


async def test_listeners_come_and_go(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    admin_port = free_port()
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), listeners=addresses[:1])
    async with running(path) as (sidecar, client, admin):
        async with client.stream("GET", "/stream?chunks=3&delay=0.1") as response:
            edit(path, listeners=addresses[1:], admin={"bind": f"127.0.0.1:{admin_port}"})
            assert await sidecar.reload()
            async with httpx.AsyncClient() as other:
                assert (await other.get(f"http://{addresses[1]}/whoami")).text == one.name
                with pytest.raises(httpx.ConnectError):
                    await other.get(f"http://{addresses[0]}/whoami")
                assert (await other.get(f"http://127.0.0.1:{admin_port}/health")).text == "ok\n"
            assert len(await response.aread()) == 3 * 1024, "it had begun"
        edit(path, admin=False)
        assert await sidecar.reload()
        assert sidecar.admin is None
        with anyio.fail_after(10):
            while True:
                try:
                    await admin.get("/health")
                except httpx.TransportError:
                    break


async def test_a_drain_ends_as_it_was_asked_to_through_a_reload(
    servers: SharedServers, tmp_path: Path
) -> None:
    one, two = servers("uvicorn", 2)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url, two.url], algorithm="first"))
    async with running(path) as (sidecar, client, admin):
        async with client.stream("GET", "/stream?chunks=200&delay=0.1") as response:
            drain = {"url": one.url, "grace": 1}
            assert (await admin.post("/pools/api/drain", json=drain)).status_code == 202
            edit(path, pools=one_pool([one.url, two.url], algorithm="round_robin"))
            assert await sidecar.reload()
            assert {(await client.get("/whoami")).text for _ in range(4)} == {two.name}
            with anyio.fail_after(10), pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
        await until(lambda: sidecar.operations.newest[0].state == "done")
        assert sidecar.operations.newest[0].report["closed"] == 1
        states = {one.url: one for one in sidecar.traffic.pools["api"].status().backends}
        assert states[one.url].admin == "disabled"
        assert {(await client.get("/whoami")).text for _ in range(4)} == {two.name}


@pytest.mark.parametrize("leaves", ["the backend", "the pool"])
async def test_what_is_being_drained_may_leave_by_a_reload(
    servers: SharedServers, tmp_path: Path, leaves: str
) -> None:
    one, two = servers("uvicorn", 2)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url, two.url], algorithm="first"))
    async with running(path) as (sidecar, client, admin), anyio.create_task_group() as load:
        lost: list[object] = []

        async def customer() -> None:
            while True:
                response = await client.get("/whoami")
                if response.status_code != 200:
                    lost.append(response)

        async with client.stream("GET", "/stream?chunks=20&delay=0.05") as response:
            for _ in range(3):
                load.start_soon(customer)
            drain = {"url": one.url, "grace": 60}
            assert (await admin.post("/pools/api/drain", json=drain)).status_code == 202
            pools = one_pool([two.url], algorithm="first")
            edit(path, pools=pools if leaves == "the backend" else {"other": pools["api"]})
            assert await sidecar.reload()
            assert len(await response.aread()) == 20 * 1024, "it had begun"
        (drained,) = sidecar.operations.newest
        await until(lambda: drained.state == "done")
        assert drained.report["closed"] == 0
        await until(lambda: not sidecar.traffic._before)
        assert one.url not in sidecar.traffic.connections()
        load.cancel_scope.cancel()
    assert lost == []


async def test_a_listener_that_cannot_take_its_options_goes_on_and_the_rest_is_served(
    servers: SharedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = servers("uvicorn", 2)
    ports = [free_port() for _ in range(3)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), listeners=addresses[:1])
    async with running(path) as (sidecar, client, admin):

        async def fails(*_: object) -> None:
            raise OSError("no descriptors are left")

        monkeypatch.setattr(listening._Acceptor, "begin", fails)
        listeners = [{"bind": addresses[0], "keep_alive": 5}, addresses[1]]
        edit(path, pools=one_pool([other.url]), listeners=listeners, admin={"bind": addresses[2]})
        assert not await sidecar.reload()
        for said in (
            f"http on {addresses[0]} goes on as before: no descriptors are left",
            f"http on {addresses[1]} is not served: no descriptors are left",
            f"http on {addresses[2]} is not served: no descriptors are left",
        ):
            assert said in sidecar.trouble
        assert (await client.get("/whoami")).text == other.name
        assert sidecar.admin is None
        monkeypatch.undo()
        assert await sidecar.reload()
        assert (await admin.get(f"http://{addresses[2]}/health")).text == "ok\n"
        assert (await client.get(f"http://{addresses[1]}/whoami")).text == other.name
        assert sidecar.listeners[0].section.keep_alive == 5  # type: ignore[union-attr]


# What a reload refuses


@pytest.mark.parametrize(
    "changes", [{"log_level": "loud"}, {"listeners": "taken"}, {"access_log": {"path": "/"}}]
)
async def test_a_file_that_cannot_be_served_changes_nothing(
    servers: SharedServers, tmp_path: Path, changes: Any
) -> None:
    one, other = servers("uvicorn", 2)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]))
    with anyio.fail_after(30):
        async with running(path) as (sidecar, client, admin):
            assert sidecar.admin is not None
            if changes == {"listeners": "taken"}:
                changes = {"listeners": [f"127.0.0.1:{free_port()}", str(sidecar.admin.address)]}
            before = path.read_text()
            edit(path, pools=one_pool([other.url]), **changes)
            answer = await admin.post("/reload", json={})
            assert answer.status_code == 409
            trouble = (await admin.get("/status")).json()["configuration"]["trouble"]
            assert answer.json()["error"] == trouble
            assert trouble
            assert len(sidecar.listeners) == 1
            assert (await client.get("/whoami")).text == one.name
            replace(path, before)
            assert await sidecar.reload()
            assert sidecar.trouble == ""


async def test_a_listener_that_cannot_take_its_certificate_leaves_the_routes_alone(
    servers: SharedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = servers("uvicorn", 2)
    address = f"127.0.0.1:{free_port()}"
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), listeners=[address])
    async with running(path) as (sidecar, client, admin):

        def unreadable(_: object) -> listening.Options:
            raise OSError("the certificate was moved away between two looks")

        monkeypatch.setattr(listening.Options, "of", unreadable)
        edit(path, pools=one_pool([other.url]), listeners=[{"bind": address, "keep_alive": 5}])
        answer = await admin.post("/reload", json={})
        assert (answer.status_code, "moved away" in answer.json()["error"]) == (409, True)
        assert (await client.get("/whoami")).text == one.name
        monkeypatch.undo()
        assert await sidecar.reload()
        assert (await client.get("/whoami")).text == other.name


async def test_a_pool_that_is_being_swapped_keeps_its_options(servers: SharedServers, tmp_path: Path) -> None:
    one, two = servers("uvicorn", 2)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]))
    async with running(path) as (sidecar, _, admin):
        flip = {"backends": [two.url], "guard": {"window": 1}, "grace": 1}
        await admin.post("/pools/api/swap", json=flip)
        edit(path, pools=one_pool([one.url], algorithm="random"))
        assert not await sidecar.reload()
        assert "pool 'api' is being swapped" in sidecar.trouble
        await until(lambda: sidecar.operations.newest[0].state == "done")
        assert await sidecar.reload()
        assert [backend.url for backend in sidecar.traffic.pools["api"].declared] == [two.url]


# What is noticed by itself


async def test_a_changed_file_and_a_changed_certificate_are_noticed(
    servers: SharedServers, tmp_path: Path, server_cert_files: CertFiles
) -> None:
    one, two = servers("uvicorn", 2)
    for name, source in (("cert.pem", server_cert_files.cert), ("key.pem", server_cert_files.key)):
        shutil.copy(source, tmp_path / name)
    listeners = [
        "127.0.0.1:0",
        {"bind": f"127.0.0.1:{free_port()}", "tls": {"certificate": "cert.pem", "key": "key.pem"}},
    ]
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool([one.url]),
        listeners=listeners,
        reload={"watch": True, "interval": 0.05},
    )
    async with running(path) as (sidecar, client, _):
        edit(path, pools=one_pool([two.url]))
        await until(lambda: sidecar.reloads == 1)
        assert (await client.get("/whoami")).text == two.name
        (tmp_path / "cert.pem").unlink()
        await until(lambda: "cert.pem" in sidecar.trouble)
        shutil.copy(server_cert_files.cert, tmp_path / "cert.pem")
        await until(lambda: not sidecar.trouble)
        assert sidecar.reloads == 2
        edit(path, reload={"watch": False})
        await until(lambda: sidecar.reloads == 3)
        await asyncio.sleep(0.2)
        edit(path, pools=one_pool([one.url]))
        await asyncio.sleep(0.4)
        assert sidecar.reloads == 3


async def test_requests_that_take_too_long_are_cut_off_in_the_end_and_counted(
    servers: SharedServers, tmp_path: Path
) -> None:
    (one,) = servers("uvicorn", 1)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), shutdown={"linger": 0, "grace": 0.2})
    async with running(path) as (sidecar, client, _):
        slow = asyncio.create_task(client.get("/slow?seconds=30"))
        await until(lambda: sidecar.traffic.active == 1)
        assert await sidecar.stop() == 1
        with pytest.raises(httpx.TransportError):
            await slow


def test_nothing_is_served_before_there_is_a_configuration() -> None:
    with pytest.raises(RuntimeError, match="no configuration has been applied"):
        _ = traffic.Traffic().generation
