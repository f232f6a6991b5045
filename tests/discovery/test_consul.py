"""Consul as a source: blocking queries and what answers say, against a double that Traefik follows too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from lbclient import AsyncBalancedTransport, BalancedTransport
from lbclient.discovery import Consul
from tests.conftest import MakeRawServer, SharedServers
from tests.discovery.sources import listening, until
from tests.servers import Connection, Server, free_port, start
from tests.servers.raw import respond
from tests.servers.traefik import Traefik

A, B, C = "http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://10.0.0.3:8080"
BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    """Most here is about what is heard; `BOTH` are the tests that are about how."""
    return "asyncio"


def instance(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"shop-{number}", "address": f"10.0.0.{number}", "port": 8080, **more}


class Double:
    """What tests tell it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def control(self, action: str, **body: Any) -> Any:
        url = f"{self.server.url}/ctl/{action}"
        response = httpx.post(url, json=body, trust_env=False)
        assert response.status_code == 200, response.text
        return response.json()

    def put(self, *instances: dict[str, Any], service: str = "shop") -> None:
        self.control("services", **{service: list(instances)})

    def asked(self) -> list[dict[str, str]]:
        """The queries for the health of a service."""
        return [
            dict(entry["query"]) for entry in self.control("log")["log"] if "health/service" in entry["path"]
        ]

    def source(self, **options: Any) -> Consul:
        return Consul("shop", url=self.server.url, **{"pause": 0, **options})


@pytest.fixture(scope="module")
def running() -> Iterator[Double]:
    with start("uvicorn", app="tests.servers.consul:app") as server:
        yield Double(server)


@pytest.fixture
def consul(running: Double) -> Double:
    """Empty, and as it is by default."""
    running.control("reset")
    return running


# Blocking queries


@BOTH
async def test_instances_that_come_change_and_go_are_followed(consul: Double) -> None:
    consul.put(instance(1))
    async with listening(consul.source()) as heard:
        for change in ((1, 2), (2, 3), (3,)):
            await until(lambda: len(consul.asked()) > len(heard.sets))
            consul.put(*map(instance, change))
            began = time.monotonic()
            await until(lambda change=change: heard.last == tuple(f"http://10.0.0.{n}:8080" for n in change))  # type: ignore[misc]
            print(f"seen after {1000 * (time.monotonic() - began):.0f} ms")
    first, *others = consul.asked()
    assert first == {"stale": "", "passing": "1"}
    assert all(int(query["index"]) > 0 and query["wait"] == "300s" for query in others)


async def test_the_proxies_of_the_environment_are_not_asked(
    consul: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    consul.put(instance(1))
    async with listening(consul.source()) as heard:
        await until(lambda: heard.last == (A,))


async def test_an_answer_after_the_wait_says_the_same_again(consul: Double) -> None:
    consul.put(instance(1))
    async with listening(consul.source(wait=1)) as heard:
        await until(lambda: len(heard.sets) > 2)
    assert set(heard.sets) == {(A,)}


async def test_an_index_that_goes_back_starts_anew(consul: Double) -> None:
    consul.put(instance(1))
    async with listening(consul.source()) as heard:
        await until(lambda: heard.last == (A,) and len(consul.asked()) == 2)
        consul.control("index", index=3)
        await until(lambda: len(consul.asked()) >= 4)
        consul.put(instance(2))
        await until(lambda: heard.last == (B,))
    indices = [query.get("index") for query in consul.asked()]
    assert indices[0] is None
    assert indices[2:4] == [None, "3"]


async def test_an_index_of_zero_is_asked_for_as_one(raw_server: MakeRawServer) -> None:
    asked: list[bytes] = []

    def serve(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            asked.append(request.split(b" ")[1])
            if len(asked) > 2:
                connection.wait_for_client_close(60)
                return
            connection.respond(body=b"[]", headers=[("X-Consul-Index", "0")])

    async with listening(Consul("shop", url=raw_server(serve).url)):
        await until(lambda: len(asked) == 3)
    assert [b"index=1" in target for target in asked] == [False, True, True]


async def test_a_service_that_changes_all_the_time_is_asked_for_so_often_only(consul: Double) -> None:
    consul.put(instance(1))
    async with listening(consul.source(pause=0.3)) as heard:
        await until(lambda: heard.last == (A,))
        began = time.monotonic()
        while time.monotonic() - began < 1:
            consul.put(instance(1), instance(2))
        passed = time.monotonic() - began
        assert len(consul.asked()) <= 2 + passed / 0.3
        await until(lambda: heard.last == (A, B))


@BOTH
async def test_an_agent_that_is_away_costs_no_set(consul: Double) -> None:
    consul.put(instance(1))
    source = consul.source()
    source.longest_pause = 0.2
    async with AsyncBalancedTransport(source) as transport:
        await transport.wait_until_ready()
        pool = transport.pools["default"]
        consul.server.kill()
        await until(lambda: not pool.status().source.well)  # type: ignore[union-attr]
        assert [backend.url for backend in pool.declared] == [A]
        await anyio.to_thread.run_sync(consul.server.start)
        consul.put(instance(2))
        await until(lambda: [backend.url for backend in pool.declared] == [B])


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"leader": False}, "500 .*No cluster leader"), ({"token": "x"}, "403 .*Permission denied")],
)
async def test_a_refusal_is_trouble(consul: Double, settings: dict[str, Any], words: str) -> None:
    consul.control("settings", **settings)
    async with AsyncBalancedTransport(consul.source()) as transport:
        with pytest.raises(TimeoutError, match=words):
            await transport.wait_until_ready(0.5)


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"[]", [], "X-Consul-Index is None"),
        (b"{}", [("X-Consul-Index", "7")], "no JSON array"),
        (b"<html>", [("X-Consul-Index", "7")], "no JSON, but"),
    ],
)
async def test_what_is_no_answer_of_consul_s_is_trouble(
    raw_server: MakeRawServer, body: bytes, headers: list[tuple[str, str]], words: str
) -> None:
    url = raw_server(respond(200, body, headers)).url
    async with AsyncBalancedTransport(Consul("shop", url=url, allow_empty=True)) as transport:
        await until(lambda: words in transport.pools["default"].status().source.last_error)  # type: ignore[union-attr]


async def test_an_answer_cut_at_every_byte_is_survived(raw_server: MakeRawServer) -> None:
    body = b'[{"Node": {"Address": "10.0.0.1"}, "Service": {"Port": 8080}, "Checks": []}]'
    head = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = head + body
    for cut in range(0, len(answer), 3):
        served: list[int] = []

        def serve(connection: Connection, cut: int = cut, served: list[int] = served) -> None:
            if connection.read_request() is not None:
                served.append(cut)
                connection.send(answer[:cut] if len(served) == 1 else answer)
                if len(served) > 2:
                    connection.wait_for_client_close(60)

        source = Consul("shop", url=raw_server(serve).url, pause=0)
        source.longest_pause = 0.001
        async with AsyncBalancedTransport(source) as transport:
            await transport.wait_until_ready()
            assert [backend.url for backend in transport.pools["default"].declared] == [A]


# What answers say


async def heard_of(consul: Double, *instances: dict[str, Any], **options: Any) -> dict[str, Any]:
    consul.put(*instances)
    async with listening(consul.source(**options)) as heard:
        await until(lambda: bool(heard.sets))
        return heard.backends


async def test_an_instance_says_everything(consul: Double) -> None:
    found = await heard_of(
        consul,
        instance(1, tags=["v2", "blue"], meta={"shard": "7"}, weights={"Passing": 10, "Warning": 1}),
        instance(2, address="", node_meta={"zone": "eu-1"}, datacenter="dc2"),
        instance(3, address="fd00::1"),
    )
    assert sorted(found) == ["http://10.0.0.1:8080", "http://127.0.0.1:8080", "http://[fd00::1]:8080"]
    one = found[A]
    assert (one.weight, one.zone) == (10, "dc1")
    assert one.metadata == {"shard": "7", "id": "shop-1", "node": "node1", "tags": ("v2", "blue")}
    assert found["http://127.0.0.1:8080"].zone == "eu-1"


async def test_an_instance_without_a_port_does_not_hide_the_others(
    consul: Double, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(await heard_of(consul, instance(1, port=0), instance(2))) == [B]
    assert "shop-1 is no backend" in caplog.text


async def test_the_worst_check_says_how_an_instance_is(consul: Double) -> None:
    weights = {"Passing": 10, "Warning": 2}
    fleet = [
        instance(1, weights=weights),
        instance(2, weights=weights, statuses=["passing", "warning"]),
        instance(3, weights=weights, statuses=["warning", "critical", "passing"]),
        instance(4, weights=weights, statuses=[]),
    ]
    passing = await heard_of(consul, *fleet)
    assert sorted(passing) == [A, "http://10.0.0.4:8080"]
    both = await heard_of(consul, *fleet, statuses=["passing", "warning"])
    assert {url: backend.weight for url, backend in both.items()} == {A: 10, B: 2, "http://10.0.0.4:8080": 10}


async def test_tags_the_datacenter_and_the_rest_are_asked_for(consul: Double) -> None:
    consul.control("settings", token="secret")
    fleet = [instance(1, tags=["v2", "blue"]), instance(2, tags=["v2"])]
    found = await heard_of(
        consul,
        *fleet,
        tags=["v2", "blue"],
        datacenter="dc2",
        namespace="team",
        partition="part",
        stale=False,
        token="secret",
        scheme="https",
        path="/v1",
    )
    assert list(found) == ["https://10.0.0.1:8080/v1"]
    assert consul.asked()[0] == {
        "dc": "dc2",
        "ns": "team",
        "partition": "part",
        "tag": "blue",
        "passing": "1",
    }


def test_a_sync_client_follows_it_too(consul: Double, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    consul.put(instance(1, address="127.0.0.1", port=server.port))
    with httpx.Client(transport=BalancedTransport(consul.source()), base_url="http://shop") as http:
        assert http.get("/whoami").text == server.name


def test_the_environment_says_where_consul_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, url in [
        ("CONSUL_HTTP_ADDR", "consul.example:8500", "http://consul.example:8500"),
        ("CONSUL_HTTP_ADDR", "https://consul.example", "https://consul.example"),
        ("CONSUL_HTTP_ADDR", "", "http://127.0.0.1:8500"),
    ]:
        monkeypatch.setenv(name, value)
        assert Consul("shop")._url == url
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "secret")
    assert Consul("shop")._token == "secret"


@pytest.mark.parametrize(
    ("service", "options", "words"),
    [
        ("", {}, "write the name of a service"),
        ("a/b", {}, "write the name of a service"),
        ("a", {"tags": "v2"}, "write a list"),
        ("a", {"statuses": ["up"]}, "write a list of some of passing, warning, critical"),
        ("a", {"statuses": "passing"}, "write a list of some"),
        ("a", {"wait": 0}, "wait is 0"),
        ("a", {"wait": 601}, "wait is 601"),
        ("a", {"pause": -1}, "pause is -1"),
        ("a", {"timeout": 0}, "timeout is 0"),
        ("a", {"url": "127.0.0.1"}, "has no scheme"),
        ("a", {"scheme": "ftp"}, "scheme 'ftp'"),
    ],
)
def test_bad_arguments_are_worded(service: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        Consul(service, **options)


# Honest


async def test_traefik_follows_the_double_too(consul: Double, servers: SharedServers) -> None:
    """Its client is Consul's own: what it understands is the API."""
    fleet = servers("uvicorn", 2)
    provider = "--providers.consulcatalog"
    options = [
        f"{provider}.endpoint.address=127.0.0.1:{consul.server.port}",
        f"{provider}.watch=true",
        f"{provider}.defaultrule=Host(`shop.test`)",
    ]
    consul.put(instance(1, address="127.0.0.1", port=fleet[0].port))

    async with httpx.AsyncClient(headers={"host": "shop.test"}, trust_env=False) as http:

        async def answered_by(url: str, name: str) -> None:
            with anyio.fail_after(30):
                while (await http.get(f"{url}/whoami")).text != name:
                    await anyio.sleep(0.05)

        with Traefik(*options) as traefik:
            async with listening(consul.source()) as heard:
                for number, server in enumerate(fleet, 1):
                    consul.put(instance(number, address="127.0.0.1", port=server.port))
                    await answered_by(traefik.url, server.name)
                    await until(lambda server=server: heard.last == (server.url,))  # type: ignore[misc]
