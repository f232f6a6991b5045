"""Kubernetes as a source: every rule of EndpointSlices and of watches, against a double that Traefik follows too."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme
import yaml

from lbclient import AsyncBalancedTransport, BalancedTransport
from lbclient.discovery import Kubernetes
from lbclient.discovery.kubernetes_api import Access, of_kubeconfig, of_service_account
from tests.conftest import MakeRawServer, SharedServers, StartServer
from tests.discovery.clusters import Cluster, a_slice, endpoint
from tests.discovery.sources import listening, until
from tests.servers import Connection
from tests.servers.traefik import Traefik

A, B, C = "http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://10.0.0.3:8080"
ONE, TWO, THREE = endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("10.0.0.3")
BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    """Most here is about what is heard; `BOTH` are the tests that are about how."""
    return "asyncio"


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    from tests.servers import start

    with start("uvicorn", app="tests.servers.kubernetes:app") as server:
        yield Cluster(server)


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    """Empty, and as it is by default."""
    running.control("reset")
    return running


# Watching


@BOTH
async def test_slices_that_come_change_and_go_are_followed(cluster: Cluster) -> None:
    cluster.put(a_slice("shop-1", ONE), a_slice("other-1", THREE, service="other"))
    async with listening(cluster.source()) as heard:
        await until(lambda: heard.last == (A,))
        cluster.put(a_slice("shop-2", TWO))
        await until(lambda: heard.last == (A, B))
        cluster.put(a_slice("shop-1", THREE))
        await until(lambda: heard.last == (B, C))
        cluster.delete("shop-2")
        await until(lambda: heard.last == (C,))
    listed, watched = cluster.asked()
    assert listed == {"labelSelector": "kubernetes.io/service-name=shop", "limit": "500"}
    assert (watched["watch"], watched["allowWatchBookmarks"]) == ("1", "true")
    assert 240 <= int(watched["timeoutSeconds"]) <= 360


@BOTH
@pytest.mark.parametrize("abort", [False, True], ids=["ended", "aborted"])
async def test_a_watch_goes_on_where_it_ended(cluster: Cluster, abort: bool) -> None:
    cluster.put(a_slice("shop-1", ONE))
    async with listening(cluster.source()) as heard:
        await until(lambda: heard.last == (A,) and len(cluster.asked()) == 2)
        cluster.put(a_slice("shop-2", TWO))
        await until(lambda: heard.last == (A, B))
        cluster.control("cut", **({"abort": 1} if abort else {}))
        cluster.put(a_slice("shop-3", THREE))
        await until(lambda: heard.last == (A, B, C))
    assert ["watch" in query for query in cluster.asked()] == [False, True, True]
    assert heard.troubles == []


async def test_bookmarks_move_the_version_on(cluster: Cluster) -> None:
    cluster.put(a_slice("shop-1", ONE))
    async with listening(cluster.source()) as heard:
        await until(lambda: heard.last == (A,) and len(cluster.asked()) == 2)
        cluster.put(a_slice("other-1", TWO, service="other"))
        sets = len(heard.sets)
        cluster.control("bookmark")
        await until(lambda: len(heard.sets) > sets)  # the same set: it is still true
        cluster.control("compact")
        cluster.control("cut")
        cluster.put(a_slice("shop-2", TWO))
        await until(lambda: heard.last == (A, B))
    assert len(cluster.asked()) == 3, "the bookmark's version was not compacted away: nobody listed again"


@pytest.mark.parametrize("gone", ["event", "status"])
async def test_a_version_that_is_gone_is_listed_anew(cluster: Cluster, gone: str) -> None:
    cluster.settings(gone=gone)
    cluster.put(a_slice("shop-1", ONE))
    async with listening(cluster.source()) as heard:
        await until(lambda: heard.last == (A,) and len(cluster.asked()) == 2)
        cluster.put(a_slice("other-1", TWO, service="other"))
        cluster.control("compact")
        cluster.control("cut")
        cluster.put(a_slice("shop-2", TWO))
        await until(lambda: heard.last == (A, B))
    assert ["watch" in query for query in cluster.asked()] == [False, True, True, False, True]
    assert heard.troubles == []


async def test_a_list_comes_in_pages(cluster: Cluster) -> None:
    cluster.settings(page=2)
    cluster.put(*[a_slice(f"shop-{n}", endpoint(f"10.0.0.{n}")) for n in range(1, 6)])
    async with listening(cluster.source()) as heard:
        await until(lambda: len(heard.last) == 5)
    assert sum("watch" not in query for query in cluster.asked()) == 3


async def test_pages_of_a_version_that_is_gone_are_listed_anew(raw_server: MakeRawServer) -> None:
    first = {"metadata": {"resourceVersion": "5", "continue": "more"}, "items": [a_slice("shop-1", ONE)]}
    whole = {"metadata": {"resourceVersion": "9"}, "items": [a_slice("shop-2", TWO)]}
    answers = [(200, first), (410, {"reason": "Expired"}), (200, whole)]

    def serve(connection: Connection) -> None:
        while connection.read_request() is not None and answers:
            status, body = answers.pop(0)
            connection.respond(status, json.dumps(body).encode())

    async with listening(Kubernetes("shop", server=raw_server(serve).url)) as heard:
        await until(lambda: bool(heard.sets))
        assert heard.sets[0] == (B,)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"code": 500, "reason": "InternalError", "message": "etcd is away"}, "InternalError: etcd is away"),
        ({"code": 504, "reason": "Timeout", "message": "too large resource version"}, "Timeout: too large"),
    ],
)
async def test_an_error_event_that_is_no_410_is_trouble_when_it_comes_again_and_again(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch, error: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr("lbclient.discovery.list_watch.FIRST_PAUSE", 0.001)
    listed = {"metadata": {"resourceVersion": "5"}, "items": [a_slice("shop-1", ONE)]}

    def serve(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            event = {"type": "ERROR", "object": error}
            body = event if b"watch=1" in request else listed
            connection.respond(body=json.dumps(body).encode() + b"\n")

    for streams in (False, True):
        source = Kubernetes("shop", server=raw_server(serve).url, send_initial_events=streams)
        async with AsyncBalancedTransport(source) as transport:
            await until(lambda pool=transport.pools["default"]: words in pool.status().source.last_error)  # type: ignore[misc]


async def test_the_list_may_come_as_a_stream(cluster: Cluster) -> None:
    cluster.put(a_slice("shop-1", ONE), a_slice("shop-2", TWO))
    async with listening(cluster.source(send_initial_events=True)) as heard:
        await until(lambda: heard.last == (A, B))
        cluster.put(a_slice("shop-3", THREE))
        await until(lambda: heard.last == (A, B, C))
    first = cluster.asked()[0]
    assert (first["sendInitialEvents"], first["resourceVersionMatch"]) == ("true", "NotOlderThan")
    assert all("watch" in query for query in cluster.asked())
    assert len({len(said) for said in heard.sets}) == 2, "no part of the list is a set"


async def test_a_server_that_cannot_stream_a_list_is_asked_for_one(cluster: Cluster) -> None:
    cluster.settings(streams=False)
    cluster.put(a_slice("shop-1", ONE))
    async with listening(cluster.source(send_initial_events=True)) as heard:
        await until(lambda: heard.last == (A,))
        await until(lambda: len(cluster.asked()) == 3)
    assert [query.get("sendInitialEvents") for query in cluster.asked()] == ["true", None, None]


@BOTH
async def test_a_refusal_is_trouble_and_the_token_is_sent(cluster: Cluster) -> None:
    cluster.settings(token="secret")
    cluster.put(a_slice("shop-1", ONE))
    async with AsyncBalancedTransport(cluster.source(token="wrong")) as transport:
        with pytest.raises(TimeoutError, match="401 Unauthorized"):
            await transport.wait_until_ready(0.5)
    async with listening(cluster.source(token="secret")) as heard:
        await until(lambda: heard.last == (A,))


async def test_a_server_that_is_away_costs_no_set(cluster: Cluster) -> None:
    cluster.put(a_slice("shop-1", ONE))
    source = cluster.source()
    source.longest_pause = 0.2
    async with AsyncBalancedTransport(source) as transport:
        await transport.wait_until_ready()
        pool = transport.pools["default"]
        cluster.server.kill()
        await until(lambda: not pool.status().source.well)  # type: ignore[union-attr]
        assert [backend.url for backend in pool.declared] == [A]
        await anyio.to_thread.run_sync(cluster.server.start)
        cluster.put(a_slice("shop-2", TWO))
        await until(lambda: [backend.url for backend in pool.declared] == [B])


async def test_a_service_without_endpoints_is_nobody_unless_it_is_not_to_be(cluster: Cluster) -> None:
    cluster.put(a_slice("shop-1", ONE))
    for allow_empty, left in [(True, []), (False, [A])]:
        cluster.put(a_slice("shop-1", ONE))
        async with AsyncBalancedTransport(cluster.source(allow_empty=allow_empty)) as transport:
            await transport.wait_until_ready()
            pool = transport.pools["default"]
            cluster.put(a_slice("shop-1"))
            await until(lambda pool=pool: pool.status().source.sets + (not pool.status().source.well) > 1)  # type: ignore[misc]
            await anyio.sleep(0.05)
            assert [backend.url for backend in pool.declared] == left


def test_a_sync_client_follows_it_too(cluster: Cluster, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    cluster.put(a_slice("shop-1", endpoint("127.0.0.1"), ports=[{"port": server.port}]))
    with httpx.Client(transport=BalancedTransport(cluster.source()), base_url="http://shop") as http:
        assert http.get("/whoami").text == server.name


# What slices say


async def heard_of(
    cluster: Cluster, *slices: Any, port: int | str | None = None, **options: Any
) -> dict[str, Any]:
    cluster.put(*slices)
    async with listening(cluster.source(port=port, **options)) as heard:
        await until(lambda: bool(heard.everything))
        assert not heard.troubles, heard.troubles
        return heard.backends


async def test_conditions(cluster: Cluster) -> None:
    leaving = {"serving": True, "terminating": True}
    found = await heard_of(
        cluster,
        a_slice(
            "shop-1",
            endpoint("10.0.0.1", ready=None),
            endpoint("10.0.0.2", ready=False),
            endpoint("10.0.0.3", ready=False, conditions=leaving),
            endpoint("10.0.0.4", ready=False, conditions={"serving": False, "terminating": True}),
            endpoint("10.0.0.5", ready=False, conditions={"serving": True}),
            {"addresses": ["10.0.0.6"]},
        ),
    )
    assert {url: backend.draining for url, backend in found.items()} == {
        A: False,
        C: True,
        "http://10.0.0.6:8080": False,
    }


async def test_where_nobody_is_ready_those_that_terminate_serve(cluster: Cluster) -> None:
    leaving = endpoint("10.0.0.1", ready=False, conditions={"serving": True, "terminating": True})
    found = await heard_of(cluster, a_slice("shop-1", leaving, endpoint("10.0.0.2", ready=False)))
    assert {url: backend.draining for url, backend in found.items()} == {A: False}


async def test_an_endpoint_in_two_slices_is_one_and_serves_if_either_says_so(cluster: Cluster) -> None:
    leaving = endpoint("10.0.0.1", ready=False, conditions={"serving": True, "terminating": True})
    found = await heard_of(cluster, a_slice("shop-1", leaving, TWO), a_slice("shop-2", ONE, TWO))
    assert {url: backend.draining for url, backend in found.items()} == {A: False, B: False}


async def test_zones_are_those_of_the_hints(cluster: Cluster) -> None:
    hints = {"forZones": [{"name": "b"}, {"name": "c"}]}
    slices = a_slice(
        "shop-1",
        endpoint("10.0.0.1", zone="a", nodeName="n1", targetRef={"kind": "Pod", "name": "shop-x"}),
        endpoint("10.0.0.2", zone="a", hints=hints),
        endpoint("10.0.0.3", zone="a", hints={"forZones": []}),
    )
    found = await heard_of(cluster, slices)
    assert [backend.zone for backend in found.values()] == ["a", "b", "a"]
    assert found[A].metadata == {"pod": "shop-x", "node": "n1", "zone": "a"}
    found = await heard_of(cluster, slices, zone="c")
    assert [backend.zone for backend in found.values()] == ["a", "c", "a"]


PORTS = [
    {"name": "http", "port": 8080},
    {"name": "admin", "port": 9090},
    {"name": "dns", "port": 53, "protocol": "UDP"},
]


@pytest.mark.parametrize(
    ("ports", "port", "options", "url"),
    [
        (PORTS, "admin", {}, "http://10.0.0.1:9090"),
        (PORTS, 8080, {}, A),
        (PORTS, None, {"scheme": "udp"}, "udp://10.0.0.1:53"),
        (PORTS[:1], None, {"scheme": "https", "path": "/v1"}, "https://10.0.0.1:8080/v1"),
        ([{"port": None}], 7070, {}, "http://10.0.0.1:7070"),
        ([], 7070, {}, "http://10.0.0.1:7070"),
    ],
)
async def test_ports(cluster: Cluster, ports: Any, port: Any, options: Any, url: str) -> None:
    found = await heard_of(
        cluster, a_slice("shop-1", ONE, ports=ports), port=port, host="shop.example", **options
    )
    assert list(found) == [url]
    assert found[url].host == "shop.example"


@pytest.mark.parametrize(
    ("ports", "port"), [(PORTS, "grpc"), (PORTS, 7070), ([], None), ([{"port": None}], None)]
)
async def test_a_port_that_is_not_there_is_nobody(cluster: Cluster, ports: Any, port: Any) -> None:
    assert await heard_of(cluster, a_slice("shop-1", ONE, ports=ports), port=port) == {}


async def test_several_ports_and_none_named_is_trouble(cluster: Cluster) -> None:
    cluster.put(a_slice("shop-1", ONE, ports=PORTS))
    async with listening(cluster.source()) as heard:
        await until(lambda: bool(heard.troubles))
    assert heard.troubles[0].endswith("has the ports 'http' (8080), 'admin' (9090); write port=")


@pytest.mark.parametrize(
    ("family", "hosts"),
    [
        ("any", ["10.0.0.1", "[fd00::1]", "a.example"]),
        ("prefer_ipv4", ["10.0.0.1", "a.example"]),
        ("prefer_ipv6", ["[fd00::1]", "a.example"]),
        ("ipv6", ["[fd00::1]", "a.example"]),
    ],
)
async def test_dual_stack_and_names_of_hosts(cluster: Cluster, family: str, hosts: list[str]) -> None:
    found = await heard_of(
        cluster,
        a_slice("shop-1", ONE),
        a_slice("shop-2", endpoint("fd00::1"), kind="IPv6"),
        a_slice("shop-3", endpoint("a.example"), kind="FQDN"),
        family=family,
    )
    assert sorted(found) == sorted(f"http://{host}:8080" for host in hosts)


async def test_the_other_family_where_the_preferred_one_is_missing(cluster: Cluster) -> None:
    empty = a_slice("shop-1", endpoint("10.0.0.1", ready=False))
    found = await heard_of(cluster, empty, a_slice("shop-2", endpoint("fd00::1"), kind="IPv6"))
    assert list(found) == ["http://[fd00::1]:8080"]


async def test_another_namespace(cluster: Cluster) -> None:
    cluster.put(a_slice("shop-1", ONE), a_slice("shop-1", TWO, namespace="blue"))
    async with listening(cluster.source("blue/shop")) as heard:
        await until(lambda: heard.last == (B,))


# A stream cut at every byte

STEP = 17  # bytes; tests/soak leaves none out


async def test_a_watch_cut_at_every_byte_is_survived(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbclient.discovery.list_watch.FIRST_PAUSE", 0.001)

    def event(kind: str, name: str, version: int, address: str) -> bytes:
        item = {"metadata": {"name": name, "resourceVersion": str(version)}, "ports": [{"port": 8080}]}
        return (
            json.dumps({"type": kind, "object": {**item, "endpoints": [{"addresses": [address]}]}}).encode()
            + b"\n"
        )

    listed = json.dumps({"metadata": {"resourceVersion": "5"}, "items": []}).encode()
    events = [
        event("ADDED", "x", 6, "10.0.0.1"),
        event("ADDED", "y", 7, "10.0.0.2"),
        event("DELETED", "x", 8, "10.0.0.1"),
    ]
    stream = b"".join(events)
    ends = {at + more for at, byte in enumerate(stream) if byte == 10 for more in range(3)}
    for cut in sorted({*range(0, len(stream), STEP), *ends} - {len(stream) + 1, len(stream) + 2}):
        asked: list[int] = []

        def serve(connection: Connection, cut: int = cut, asked: list[int] = asked) -> None:
            while (request := connection.read_request()) is not None:
                if b"watch=1" not in request:
                    connection.respond(body=listed)
                    continue
                asked.append(int(request.partition(b"resourceVersion=")[2].split(b" ")[0].split(b"&")[0]))
                rest = b"".join(events[asked[-1] - 5 :])
                connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                sent = rest[:cut] if len(asked) == 1 else rest
                connection.send(b"%x\r\n%b" % (len(rest), sent))
                if len(asked) > 1:
                    connection.wait_for_client_close(60)
                return

        async with listening(Kubernetes("shop", server=raw_server(serve).url)) as heard:
            await until(lambda heard=heard, asked=asked: heard.last == (B,) and len(asked) == 2)  # type: ignore[misc]
        assert asked == [5, 5 + stream[:cut].count(b"\n")]
        assert heard.troubles == []


# Whom to ask, and how


def test_the_service_account_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert of_service_account(tmp_path) is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert of_service_account(tmp_path) is None
    (tmp_path / "token").write_text("one")
    access = of_service_account(tmp_path)
    ca, token = str(tmp_path / "ca.crt"), tmp_path / "token"
    assert access == Access("https://[fd00::1]:6443", ca, "default", token_file=token)
    (tmp_path / "namespace").write_text("blue\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    access = of_service_account(tmp_path)
    assert access == Access("https://10.0.0.1:6443", ca, "blue", token_file=token)


async def test_in_a_pod_over_tls_with_a_token_that_is_replaced(
    start_server: StartServer,
    server_cert_files: Any,
    ca: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(start_server("uvicorn", app="tests.servers.kubernetes:app", tls=server_cert_files))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "namespace").write_text("default")
    (tmp_path / "token").write_text("one\n")
    monkeypatch.setattr(
        "lbclient.discovery.kubernetes.of_service_account", lambda: of_service_account(tmp_path)
    )
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.server.port))
    import ssl

    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))

    def control(action: str, body: Any) -> None:
        url = f"https://127.0.0.1:{cluster.server.port}/ctl/{action}"
        httpx.post(url, json=body, verify=context, trust_env=False).raise_for_status()

    control("settings", {"token": "one"})
    control("objects", {"items": [a_slice("shop-1", ONE)]})
    async with listening(Kubernetes("shop")) as heard:
        await until(lambda: heard.last == (A,))
        (tmp_path / "token").write_text("two\n")
        control("settings", {"token": "two"})
        control("cut", None)
        control("objects", {"items": [a_slice("shop-2", TWO)]})
        await until(lambda: heard.last == (A, B))


def kubeconfig(
    path: Path, cluster: dict[str, Any], user: dict[str, Any] | None = None, **context: Any
) -> Path:
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u" if user else None, **context}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def test_a_kubeconfig(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    cluster.settings(token="secret")
    cluster.put(a_slice("shop-1", ONE, namespace="blue"))
    path = kubeconfig(
        tmp_path / "config", {"server": f"{cluster.url}/"}, {"token": "secret"}, namespace="blue"
    )
    async with listening(Kubernetes("shop", kubeconfig=path)) as heard:
        await until(lambda: heard.last == (A,))
    monkeypatch.setenv("KUBECONFIG", f"{path}:/nowhere")
    async with listening(Kubernetes("shop")) as heard:
        await until(lambda: heard.last == (A,))


def test_what_a_kubeconfig_may_say(tmp_path: Path, ca: trustme.CA, server_cert_files: Any) -> None:
    path = tmp_path / "config"
    authority = b64encode(ca.cert_pem.bytes()).decode()
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    files = {"client-certificate": server_cert_files.cert, "client-key": server_cert_files.key}
    kubeconfig(path, {"server": "https://a", "certificate-authority-data": authority}, files)
    access = of_kubeconfig(path)
    assert access.certificate == Path(server_cert_files.cert).read_text()
    access._ssl_context()  # the certificate and its key fit
    kubeconfig(path, {"server": "https://a", "insecure-skip-tls-verify": True}, {"tokenFile": "t"})
    assert of_kubeconfig(path) == Access("https://a", False, token_file=tmp_path / "t")
    kubeconfig(path, {"server": "https://a"}, {"username": "me", "password": "x"})
    assert of_kubeconfig(path) == Access("https://a", login=("me", "x"))
    kubeconfig(path, {"server": "https://a", "certificate-authority": "ca.pem"})
    assert of_kubeconfig(path).login is None


async def test_a_login_is_sent(cluster: Cluster) -> None:
    async with Access(cluster.url, login=("me", "x")).client(5) as client:
        response = await client.get("/version")
        assert response.request.headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is no kubeconfig"),
        ("current-context: x", "has no context 'x'"),
        ("{contexts: [{name: x, context: {cluster: c}}], current-context: x}", "has no cluster 'c'"),
    ],
)
def test_what_a_kubeconfig_lacks_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ValueError, match=words):
        of_kubeconfig(tmp_path / "config")


def test_what_is_not_supported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kubeconfig(tmp_path / "config", {"server": "https://a"}, {"exec": {"command": "x"}})
    with pytest.raises(ValueError, match="'exec' is not supported; write one with a token"):
        of_kubeconfig(path)
    with pytest.raises(ValueError, match="cluster 'c' has no server"):
        of_kubeconfig(kubeconfig(path, {}))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(FileNotFoundError):
        of_kubeconfig()


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("",), {}, "write its name, or 'namespace/name'"),
        (("/shop",), {}, "write its name"),
        (("a/b/c",), {}, "write its name"),
        (("shop", True), {}, "write the name or the number"),
        (("shop", 0), {}, "port is 0; write a whole number from 1 to 65535"),
        (("shop",), {"family": "ipv5"}, "write one of any, ipv4"),
        (("shop",), {"token": "x"}, "token belongs to server"),
        (("shop",), {"server": "10.0.0.1"}, "has no scheme"),
        (("shop",), {"scheme": "ftp"}, "scheme 'ftp'"),
        (("shop",), {"timeout": 0}, "timeout is 0"),
    ],
)
def test_bad_arguments_are_worded(arguments: Any, options: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        Kubernetes(*arguments, **options)
    assert str(Kubernetes("blue/shop", "http")) == "Kubernetes service blue/shop:http"


# Honest


async def test_traefik_follows_the_double_too(cluster: Cluster, servers: SharedServers) -> None:
    """Its client is Kubernetes' own (client-go): what it understands is the API."""
    fleet = servers("uvicorn", 2)
    slices = [
        a_slice("shop-1", endpoint("127.0.0.1"), ports=[{"name": "http", "port": s.port}]) for s in fleet
    ]
    where = {"namespace": "default", "name": "shop"}
    service = {
        "clusterIP": "10.1.0.1",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
    }
    backend = {"service": {"name": "shop", "port": {"number": 80}}}
    rule = {"host": "shop.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    cluster.put(
        {"kind": "Service", "metadata": {**where}, "spec": service},
        {"kind": "Ingress", "metadata": {**where}, "spec": {"rules": [rule]}},
        slices[0],
    )
    provider = "--providers.kubernetesingress"
    options = [
        f"{provider}.endpoint={cluster.url}",
        f"{provider}.token=x",
        f"{provider}.throttleduration=50ms",
    ]

    async with httpx.AsyncClient(headers={"host": "shop.test"}, trust_env=False) as http:

        async def answered_by(url: str, name: str) -> None:
            with anyio.fail_after(30):
                while (await http.get(f"{url}/whoami")).text != name:
                    await anyio.sleep(0.05)

        with Traefik(*options) as traefik:
            async with listening(cluster.source()) as heard:
                for number, server in enumerate(fleet):
                    cluster.put(slices[number])
                    await answered_by(traefik.url, server.name)
                    await until(lambda server=server: heard.last == (f"http://127.0.0.1:{server.port}",))  # type: ignore[misc]
    assert any("watch" in query for query in cluster.asked("ingresses"))
