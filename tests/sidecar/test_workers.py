"""Several processes behind one address: kept, reloaded, told what to do and ended as if they were one."""

from __future__ import annotations

import os
import signal
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lbclient.asgi.types import Receive, Scope, Send
from lbclient.sidecar.configuration import read
from lbclient.sidecar.everywhere import Everywhere
from lbclient.sidecar.supervisor import Supervisor
from lbclient.sidecar.worker import Worker
from tests.conftest import SharedServers
from tests.servers import free_port
from tests.sidecar.changing import reload_several, roll
from tests.sidecar.documents import problems
from tests.sidecar.running import Process, one_pool, replace, written

WITHIN = 30.0


def until(condition: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + WITHIN
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    return found


class Several(Process):
    """Two workers."""

    def status_of(self, worker: int) -> Any:
        answer = self.admin.get("/status", params={"worker": worker})
        return answer.json() if answer.status_code == 200 else None

    def all(self) -> list[Any]:
        """The status of each, once all of them serve."""
        return [until(lambda n=number: self.status_of(n)) for number in (1, 2)]  # type: ignore[misc]

    def backends(self) -> list[dict[str, str]]:
        return [{one["url"]: one["admin"] for one in status["pools"][0]["backends"]} for status in self.all()]


def two(home: Path, urls: list[str], **more: Any) -> Path:
    return written(
        home / "s.yaml",
        listeners=[f"127.0.0.1:{free_port()}"],
        pools=one_pool(urls, affinity={"kind": "cookie"}),
        admin={"bind": f"127.0.0.1:{free_port()}"},
        workers=2,
        **more,
    )


def test_what_is_done_is_done_by_all_and_who_dies_is_replaced(servers: SharedServers, tmp_path: Path) -> None:
    fleet = servers("uvicorn", 2)
    one, other = (server.url for server in fleet)
    path = two(tmp_path, [one, other])
    url = f"http://{yaml.safe_load(path.read_text())['listeners'][0]}"
    with Several(path, measured=True) as process:
        first, second = process.all()
        assert [status["worker"] for status in (first, second)] == [
            {"number": 1, "of": 2},
            {"number": 2, "of": 2},
        ]
        assert len({os.getpid(), first["pid"], second["pid"]}) == 3
        assert process.status()["pid"] == first["pid"]

        with httpx.Client() as session:
            names = {session.get(f"{url}/whoami", headers={"connection": "close"}).text for _ in range(40)}
        assert len(names) == 1, "a session is known to all of them"
        metrics = process.admin.get("/metrics").text
        for worker in (1, 2):
            (line,) = [
                line
                for line in metrics.splitlines()
                if line.startswith("lbclient_sidecar_requests_total") and f'worker="{worker}"' in line
            ]
            assert float(line.split(" ")[1]) > 0, "the system deals connections out"
        assert metrics.count("# TYPE lbclient_sidecar_requests_total counter") == 1

        drained = process.admin.post("/pools/api/drain", json={"url": one, "grace": 0.2, "wait": True})
        assert drained.status_code == 200
        assert process.backends() == [{one: "disabled", other: "active"}] * 2
        refused = process.admin.post("/pools/none/enable", json={"url": one})
        assert (refused.status_code, refused.json()["error"][:14]) == (404, "pool is 'none'")
        assert process.admin.get("/status?worker=3").status_code == 404
        assert process.admin.post("/pools/api/enable", json={"url": one}).status_code == 204

        configuration = yaml.safe_load(path.read_text())
        replace(path, yaml.safe_dump({**configuration, "pools": one_pool([one])}))
        process.signal(signal.SIGHUP)
        until(lambda: [status["configuration"]["reloads"] for status in process.all()] == [1, 1])
        assert process.backends() == [{one: "active"}] * 2
        replace(path, yaml.safe_dump({**configuration, "workers": 3}))
        answer = process.admin.post("/reload", json={})
        assert answer.status_code == 409
        assert "workers is 3, and 2 serve; that takes a restart" in answer.json()["error"]
        replace(path, yaml.safe_dump(configuration))

        os.kill(second["pid"], signal.SIGKILL)
        until(lambda: (process.status_of(2) or second)["pid"] != second["pid"])
        assert process.status_of(1)["pid"] == first["pid"]
        assert "worker 2 has ended by itself" in process.log()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log()


async def test_their_end_breaks_no_request(servers: SharedServers, tmp_path: Path) -> None:
    (server,) = servers("uvicorn", 1)
    path = two(tmp_path, [server.url])
    url = f"http://{yaml.safe_load(path.read_text())['listeners'][0]}"
    with await anyio.to_thread.run_sync(Several(path).__enter__) as process:
        workers = await anyio.to_thread.run_sync(process.all)
        bodies: list[bytes] = []

        async def stream() -> None:
            async with httpx.AsyncClient(timeout=60) as client:
                bodies.append((await client.get(f"{url}/stream?chunks=20&delay=0.1")).content)

        def busy() -> bool:
            return all(process.status_of(number)["active"] for number in (1, 2))

        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(stream)
            await anyio.to_thread.run_sync(until, busy)
            process.signal(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(process.wait) == 0, process.log()
        assert [len(body) for body in bodies] == [20 * 1024] * 16
        for worker in workers:
            with pytest.raises(ProcessLookupError):
                os.kill(worker["pid"], 0)


def test_without_who_keeps_them_they_end_by_themselves(servers: SharedServers, tmp_path: Path) -> None:
    (server,) = servers("uvicorn", 1)
    with Several(two(tmp_path, [server.url])) as process:
        workers = process.all()
        process.signal(signal.SIGKILL)
        for worker in workers:
            until(lambda pid=worker["pid"]: not alive(pid))  # type: ignore[misc]
        assert "leaving: finishing" in process.log()
        assert "Traceback" not in process.log()


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody has waited for does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.timeout(180)
async def test_reloads_of_several_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    ledger = await reload_several(4, 4, servers("uvicorn"), ca, client_ssl_context, tmp_path)
    assert ledger.lost == []
    assert ledger.answered


@pytest.mark.timeout(180)
async def test_processes_of_several_that_take_over_lose_nothing(
    servers: SharedServers, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    ledger = await roll(1, 4, servers("uvicorn"), ca, client_ssl_context, tmp_path, workers=2)
    assert ledger.lost == []


def test_connections_are_dealt_out_too(servers: SharedServers, tmp_path: Path) -> None:
    (server,) = servers("uvicorn", 1)
    address = f"127.0.0.1:{free_port()}"
    path = two(tmp_path, [server.url], default="api", l4=[{"bind": address, "pool": "lines"}])
    configuration = yaml.safe_load(path.read_text())
    configuration["pools"]["lines"] = {"backends": [f"tcp://127.0.0.1:{server.port}"]}
    replace(path, yaml.safe_dump(configuration))
    with Several(path) as process, ExitStack() as stack:
        process.all()
        for _ in range(20):
            client = stack.enter_context(httpx.Client(base_url=f"http://{address}"))
            assert client.get("/whoami").text == server.name
        counts = [status["listeners"][1]["connections"] for status in process.all()]
        assert (sum(counts), min(counts) > 0) == (20, True)


def test_an_address_that_is_taken_is_no_start(servers: SharedServers, tmp_path: Path) -> None:
    (server,) = servers("uvicorn", 1)
    path = two(tmp_path, [server.url])
    changed = {**yaml.safe_load(path.read_text()), "listeners": [f"127.0.0.1:{server.port}"]}
    replace(path, yaml.safe_dump(changed))
    process = Several(path)
    assert process.wait() == 1
    assert "cannot listen on" in process.log()
    assert "worker" not in process.log()


async def test_without_a_process_to_be_had_there_is_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = two(tmp_path, ["http://127.0.0.1:1"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    assert await Supervisor(path, read(path)).run() == 1
    assert "worker 1 cannot begin" in caplog.text


def test_one_that_cannot_start_ends_the_others(servers: SharedServers, tmp_path: Path) -> None:
    (server,) = servers("uvicorn", 1)
    process = Several(two(tmp_path, [server.url], access_log={"path": "/"}))
    assert process.wait() == 1
    assert "Is a directory" in process.log()


# Whom the first worker asks


async def own_admin(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    if request.url.path == "/metrics":
        status = 200 if request.headers.get("authorization") == "Bearer t" else 401
        await Response("# TYPE a_total counter\na_total 1.0\n", status)(scope, receive, send)
    else:
        await JSONResponse({"said": (await request.body()).decode()}, 202)(scope, receive, send)


async def test_one_that_does_not_answer_is_told_of(tmp_path: Path) -> None:
    everywhere = Everywhere(own_admin, Worker(1, 2, str(tmp_path), "secret", -1))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(everywhere), base_url="http://admin") as admin:
        answer = await admin.post("/pools/a/drain", json={})
        assert answer.status_code == 502
        assert answer.json()["error"].startswith("worker 2: it does not answer: ")
        assert answer.json()["error"].endswith("; others have done it")
        assert (await admin.get("/metrics")).status_code == 401
        metrics = (await admin.get("/metrics", headers={"authorization": "Bearer t"})).text
        assert 'a_total{worker="1"} 1.0' in metrics
        assert 'lbclient_sidecar_worker_up{worker="1"} 1.0' in metrics
        assert 'lbclient_sidecar_worker_up{worker="2"} 0.0' in metrics
        assert (await admin.get("/status?worker=1")).status_code == 202
        assert (await admin.get("/status?worker=2")).status_code == 502
        assert (await admin.get("/status?worker=x")).json() == {
            "error": "worker is 'x'; the workers are 1, 2"
        }
    await everywhere.aclose()


async def test_what_all_say_is_said_once(tmp_path: Path) -> None:
    worker = Worker(1, 1, str(tmp_path), "secret", -1)
    everywhere = Everywhere(own_admin, worker)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(everywhere), base_url="http://admin") as admin:
        answer = await admin.post("/pools/a/drain", json={"wait": True})
        assert (answer.status_code, answer.json()) == (202, {"said": '{"wait":true}'})
    await everywhere.aclose()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("listeners: ['unix:/x']", "listeners[0]: is 'unix:/x', which workers cannot share"),
        ("listeners: ['127.0.0.1:0']", "write an address and a port"),
        (
            "listeners: [':1']\nrate_limits: {limits: [{requests: 1}]}",
            "rate_limits: each worker would count by itself; write a store",
        ),
        ("listeners: [':1']\nworkers: 0", "workers"),
    ],
)
def test_what_several_cannot_share_is_refused(more: str, words: str) -> None:
    workers = "" if "workers" in more else "workers: 2\n"
    (found,) = problems(f"{workers}pools: {{a: {{backends: ['http://x:1']}}}}\n{more}")
    assert words in str(found)
