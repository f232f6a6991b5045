"""The admin: what operators see and do, and who may."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import SharedServers
from tests.faults.load import until
from tests.servers import free_port
from tests.sidecar.running import one_pool, replace, running, written

TOKEN = "a-token-that-is-long-enough"


async def post(admin: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await admin.post(path, json=body)


def states(status: Any, pool: str = "api") -> dict[str, str]:
    found = next(each for each in status["pools"] if each["name"] == pool)
    return {backend["url"]: backend["state"] for backend in found["backends"]}


async def status(admin: httpx.AsyncClient) -> Any:
    return (await admin.get("/status")).raise_for_status().json()


async def test_the_status_tells_everything(servers: SharedServers, tmp_path: Path) -> None:
    one, two = servers("uvicorn", 2)
    dead = f"http://127.0.0.1:{free_port()}"
    pools = one_pool([dead, one.url], algorithm="first") | {"new": {"backends": [two.url]}}
    path = written(
        tmp_path / "s.yaml",
        pools=pools,
        splits={"canary": {"weights": {"api": 1, "new": 0}}},
        default="canary",
    )
    async with running(path) as (sidecar, client, admin):
        await client.get("/whoami")
        seen = await status(admin)
        assert seen["configuration"]["path"] == str(path)
        assert seen["listeners"][0]["connections"] == 1
        assert states(seen) == {dead: "available", one.url: "available"}
        assert seen["pools"][0]["retries"] == 1
        assert seen["splits"] == [{"name": "canary", "weights": {"api": 1, "new": 0}}]
        (decision,) = seen["decisions"]
        assert (decision["attempts"], decision["backend"], decision["status"]) == (2, one.url, 200)
        assert "connect" in decision["why"]
        brief = (await admin.get("/status?brief")).json()
        assert "decisions" not in brief
        assert repr(sidecar) == f"<Sidecar {path}, 1 listeners>"


async def test_a_drain_in_the_background_is_told_of(servers: SharedServers, tmp_path: Path) -> None:
    one, two = servers("uvicorn", 2)
    async with running(
        written(tmp_path / "s.yaml", pools=one_pool([one.url, two.url], algorithm="first"))
    ) as (
        _,
        client,
        admin,
    ):
        async with client.stream("GET", "/stream?chunks=1&delay=2") as response:
            begun = await post(admin, "/pools/api/drain", url=one.url, grace="30s")
            assert (begun.status_code, begun.json()["state"]) == (202, "running")
            assert states(await status(admin))[one.url] == "draining"
            again = await post(admin, "/pools/api/drain", url=one.url)
            assert again.status_code == 409
            assert "is under way" in again.json()["error"]
            assert (await client.get("/whoami")).text == two.name
            await response.aread()
        with anyio.fail_after(20):
            while (operation := (await status(admin))["operations"][0])["state"] == "running":
                await asyncio.sleep(0.05)
        assert operation["report"]["drained"]
        assert states(await status(admin))[one.url] == "disabled"
        assert (await post(admin, "/pools/api/enable", url=one.url)).status_code == 204
        assert (await client.get("/whoami")).text == one.name


async def test_operators_disable_weigh_swap_and_split(servers: SharedServers, tmp_path: Path) -> None:
    one, two, three = servers("uvicorn")
    pools = one_pool([one.url, two.url]) | {"new": {"backends": [three.url]}}
    path = written(
        tmp_path / "s.yaml",
        pools=pools,
        splits={"canary": {"weights": {"api": 1, "new": 0}}},
        default="canary",
    )
    async with running(path) as (_, client, admin):
        assert (await post(admin, "/pools/api/disable", url=one.url)).status_code == 204
        assert {(await client.get("/whoami")).text for _ in range(4)} == {two.name}
        assert (await post(admin, "/pools/api/enable", url=one.url)).status_code == 204
        assert (await post(admin, "/pools/api/weight", url=two.url, weight=0)).status_code == 204
        assert {(await client.get("/whoami")).text for _ in range(4)} == {one.name}
        flipped = await post(
            admin, "/pools/api/swap", backends=[three.url], wait=True, guard={"window": 0.1}, grace=1
        )
        assert flipped.json()["report"]["swapped"], flipped.text
        assert states(await status(admin)) == {three.url: "available"}
        assert (await post(admin, "/splits/canary", weights={"new": 1})).status_code == 204
        assert (await status(admin))["splits"][0]["weights"] == {"api": 0, "new": 1}


@pytest.mark.parametrize(
    ("path", "body", "code", "words"),
    [
        ("/pools/web/enable", {"url": "x"}, 404, "pool is 'web'; the pools are api"),
        ("/pools/web/drain", {"url": "x"}, 404, "pool is 'web'"),
        ("/pools/api/drain", {"url": "http://nobody"}, 400, "is not in pool 'api'; it has "),
        (
            "/pools/api/drain",
            {"url": "http://a", "graze": 1},
            400,
            "graze: is unknown; did you mean 'grace'?",
        ),
        ("/pools/api/drain", {}, 400, "'url' is missing"),
        ("/pools/api/weight", {"url": "http://a", "weight": -1}, 400, "write a number of at least 0"),
        ("/pools/api/swap", {"backends": []}, 400, "write at least 1"),
        ("/pools/api/swap", {"backends": ["ftp://x"]}, 400, "allowed are http"),
        ("/splits/none", {"weights": {}}, 404, "split is 'none'; the splits are none"),
        ("/status", {}, 405, "Method Not Allowed"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
async def test_what_cannot_be_done_is_said_in_words(
    tmp_path: Path, path: str, body: Any, code: int, words: str
) -> None:
    async with running(written(tmp_path / "s.yaml", pools=one_pool(["http://127.0.0.1:1"]))) as (_, _, admin):
        answer = await admin.post(path, json=body)
        assert (answer.status_code, words in answer.json()["error"]) == (code, True), answer.text


async def test_a_split_of_unknown_pools_and_bad_json_are_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool(["http://127.0.0.1:1"]),
        splits={"canary": {"weights": {"api": 1}}},
        default="canary",
    )
    async with running(path) as (_, _, admin):
        answer = await post(admin, "/splits/canary", weights={"web": 1})
        assert (answer.status_code, answer.json()["error"][:13]) == (404, "pool is 'web'")
        json_type = {"content-type": "application/json"}
        answer = await admin.post("/reload", content=b"{", headers=json_type)
        assert answer.json()["error"].startswith("the body is no JSON")


async def test_a_swap_that_fails_is_told_of(tmp_path: Path) -> None:
    pools = one_pool(["http://127.0.0.1:1"], probe={"interval": 1, "timeout": 1})
    async with running(written(tmp_path / "s.yaml", pools=pools)) as (_, _, admin):
        answer = await post(
            admin, "/pools/api/swap", backends=["http://127.0.0.1:2"], when_healthy_within=0.1, wait=True
        )
        assert answer.json()["report"]["reason"].startswith("not healthy within 0.1 s")


async def test_changes_come_at_once_to_those_who_watch(servers: SharedServers, tmp_path: Path) -> None:
    one, two = servers("uvicorn", 2)
    async with running(written(tmp_path / "s.yaml", pools=one_pool([one.url, two.url]))) as (
        sidecar,
        _,
        admin,
    ):
        seen: list[Any] = []

        async def watch() -> None:
            async with admin.stream("GET", "/events") as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        seen.append(json.loads(line.removeprefix("data: ")))  # noqa: PERF401  # it has no end

        watching = asyncio.create_task(watch())
        await until(lambda: bool(seen))
        sidecar.traffic.pools["api"].disable(one.url)
        await until(lambda: states(seen[-1])[one.url] == "disabled")
        assert any("disabled" in one["text"] for one in seen[-1]["happenings"])
        count = len(seen)
        await until(lambda: len(seen) > count)  # also when nothing happens
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_metrics_are_those_of_pools_and_process(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    async with running(written(tmp_path / "s.yaml", pools=one_pool([one.url]))) as (_, client, admin):
        for _ in range(3):
            await client.get("/whoami")
        await client.get("/status/404")
        text = (await admin.get("/metrics")).text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["lbclient_sidecar_requests_total", "api", "200"] == 3
    assert found["lbclient_sidecar_requests_total", "api", "404"] == 1
    assert found["lbclient_backend_latency_seconds_count", one.url, "api"] == 4
    assert found["lbclient_sidecar_configuration_refused",] == 0
    assert found["process_open_fds",] > 0


async def test_it_says_whether_it_lives_and_is_ready(servers: SharedServers, tmp_path: Path) -> None:
    (one,) = servers("uvicorn", 1)
    path = written(tmp_path / "s.yaml", pools=one_pool([one.url]), shutdown={"delay": 2, "linger": 0.1})
    async with running(path) as (sidecar, client, admin):
        assert (await admin.get("/health")).text == "ok\n"
        assert (await admin.get("/ready")).text == "ready\n"
        sidecar.traffic.pools["api"].disable(one.url)
        refused = await admin.get("/ready")
        assert (refused.status_code, refused.text) == (503, "nobody is available in api\n")
        sidecar.traffic.pools["api"].enable(one.url)
        stopping = asyncio.create_task(sidecar.stop())
        await asyncio.sleep(0.1)
        assert (await admin.get("/ready")).text == "leaving\n"
        answer = await client.get("/whoami")
        assert answer.headers["connection"] == "close"
        assert (await post(admin, "/reload")).json() == {"error": "the sidecar is about to end"}
        assert await stopping == 0


# Who may


async def test_without_a_token_only_our_own_names_and_json_are_taken(tmp_path: Path) -> None:
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool(["http://127.0.0.1:1"]),
        admin={"bind": "127.0.0.1:0", "hosts": ["admin.test"]},
    )
    async with running(path) as (_, _, admin):
        for host, code in (
            ("evil.test", 403),
            ("", 403),
            ("admin.test:80", 200),
            ("localhost", 200),
            ("[::1]:1", 200),
        ):
            assert (await admin.get("/status", headers={"host": host})).status_code == code, host
        body = {"url": "http://127.0.0.1:1"}
        plain = await admin.post(
            "/pools/api/disable", content=json.dumps(body), headers={"content-type": "text/plain"}
        )
        assert plain.status_code == 415
        assert states(await status(admin)) == {"http://127.0.0.1:1": "available"}


async def test_with_a_token_nothing_goes_without_it_but_the_empty_page(tmp_path: Path) -> None:
    path = written(
        tmp_path / "s.yaml",
        pools=one_pool(["http://127.0.0.1:1"]),
        admin={"bind": "127.0.0.1:0", "token": TOKEN},
    )
    async with running(path) as (sidecar, _, admin):
        for target in ("/status", "/events", "/metrics"):
            refused = await admin.get(target)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (await post(admin, "/reload")).status_code == 401
        wrong = {b"authorization": "Bearer nonsense-ä".encode()}
        assert (await admin.get("/status", headers=wrong)).status_code == 401
        for target in ("/", "/dashboard.js", "/dashboard.css", "/health", "/ready"):
            assert (await admin.get(target)).status_code == 200
        right = {"authorization": f"Bearer {TOKEN}", "host": "any.test"}
        assert (await admin.get("/status", headers=right)).status_code == 200
        replace(path, path.read_text().replace(TOKEN, "another-token-of-length"))
        assert await sidecar.reload()
        assert (await admin.get("/status", headers=right)).status_code == 401


async def test_a_unix_socket_is_guarded_by_its_permissions(tmp_path: Path) -> None:
    uds = tmp_path / "admin.sock"
    path = written(tmp_path / "s.yaml", pools=one_pool(["http://127.0.0.1:1"]), admin={"bind": f"unix:{uds}"})
    async with running(path):
        assert uds.stat().st_mode & 0o777 == 0o660
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(uds))) as admin:
            assert (await admin.get("http://whatever/status")).status_code == 200


async def test_the_page_brings_everything_with_it(tmp_path: Path) -> None:
    async with running(written(tmp_path / "s.yaml", pools=one_pool(["http://127.0.0.1:1"]))) as (_, _, admin):
        page = await admin.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        for part in (
            page.text,
            (await admin.get("/dashboard.css")).text,
            (await admin.get("/dashboard.js")).text,
        ):
            assert "://" not in part.replace("http://www.w3.org/2000/svg", "")


async def test_a_websocket_to_the_admin_is_refused(tmp_path: Path) -> None:
    async with running(written(tmp_path / "s.yaml", pools=one_pool(["http://127.0.0.1:1"]))) as (_, _, admin):
        headers = {
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-version": "13",
        }
        assert (await admin.get("/events", headers=headers)).status_code == 403
