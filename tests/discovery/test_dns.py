"""The domain name system as a source, against a real name server."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, BalancedTransport, HttpProbe, Pool
from lbclient.core.source import Trouble
from lbclient.discovery import Dns
from tests.conftest import SharedServers
from tests.discovery.sources import listening, until
from tests.servers.named import TTL, ZONE, Named
from tests.servers.named import named as named

MANY = [f"127.0.1.{number}" for number in range(1, 101)]


@pytest.fixture
def anyio_backend() -> str:
    """Most here is about what is heard; `BOTH` are the tests that are about how."""
    return "asyncio"


BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


def of(named: Named, name: str = "api", port: int | None = 8080, **options: Any) -> Dns:
    return Dns(f"{name}.{ZONE}", port, nameservers=[f"127.0.0.1:{named.port}"], **options)


def http(*addresses: str, port: int = 8080) -> tuple[str, ...]:
    return tuple(f"http://{address}:{port}" for address in addresses)


# Addresses


@BOTH
async def test_the_addresses_of_a_name_are_followed(named: Named) -> None:
    named.addresses("api", ["127.0.0.2", "127.0.0.10"])
    async with listening(of(named)) as heard:
        await until(lambda: heard.last == http("127.0.0.2", "127.0.0.10"))
        backend = heard.backends["http://127.0.0.2:8080"]
        assert (backend.host, backend.weight, backend.priority) == (f"api.{ZONE}:8080", 1, 0)
        changed = time.monotonic()
        named.addresses("api", ["127.0.0.2", "127.0.0.3"])
        await until(lambda: heard.last == http("127.0.0.2", "127.0.0.3"))
        print(f"seen {time.monotonic() - changed:.2f} s after the change, at a TTL of {TTL} s")


@BOTH
async def test_a_hundred_addresses_come_over_tcp(named: Named) -> None:
    named.addresses("api", MANY)
    async with listening(of(named)) as heard:
        await until(lambda: heard.last == http(*MANY))


@pytest.mark.parametrize(
    ("family", "both", "only_v6"),
    [
        ("any", ("127.0.0.1", "[::1]"), ("[::1]",)),
        ("ipv4", ("127.0.0.1",), ()),
        ("ipv6", ("[::1]",), ("[::1]",)),
        ("prefer_ipv4", ("127.0.0.1",), ("[::1]",)),
        ("prefer_ipv6", ("[::1]",), ("[::1]",)),
    ],
)
async def test_families(named: Named, family: str, both: tuple[str, ...], only_v6: tuple[str, ...]) -> None:
    named.addresses("both", ["127.0.0.1", "::1"])
    named.addresses("six", ["::1"])
    async with listening(of(named, "both", family=family)) as heard:
        await until(lambda: heard.last == http(*both))
    async with listening(of(named, "six", family=family)) as heard:
        await until(lambda: bool(heard.everything))
        if only_v6:
            assert heard.last == http(*only_v6)
        else:
            assert "no A records" in heard.troubles[0]


async def test_the_schemes_port_and_a_path(named: Named) -> None:
    named.addresses("api", ["127.0.0.1"])
    async with listening(of(named, port=None, scheme="https", path="/v1")) as heard:
        await until(lambda: heard.last == ("https://127.0.0.1:443/v1",))
        assert heard.backends["https://127.0.0.1:443/v1"].host == f"api.{ZONE}"


async def test_an_alias_holds_as_long_as_the_shortest_of_its_records(named: Named) -> None:
    named.addresses("api", ["127.0.0.1"], ttl=300)
    named.update(f"add www.{ZONE} {TTL} CNAME api.{ZONE}.", f"add v2.{ZONE} {TTL} A 127.0.0.2")
    async with listening(of(named, "www")) as heard:
        await until(lambda: heard.last == http("127.0.0.1"))
        named.update(f"delete www.{ZONE} CNAME", f"add www.{ZONE} {TTL} CNAME v2.{ZONE}.")
        await until(lambda: heard.last == http("127.0.0.2"))


async def test_search_domains_complete_a_name(named: Named) -> None:
    named.addresses("api", ["127.0.0.1"])
    source = Dns("api", 8080, nameservers=[f"127.0.0.1:{named.port}"], search=[f"missing.{ZONE}", ZONE])
    async with listening(source) as heard:
        await until(lambda: heard.last == http("127.0.0.1"))


# SRV


@BOTH
async def test_srv_records_say_ports_priorities_and_weights(named: Named) -> None:
    named.update(
        f"add a.{ZONE} {TTL} A 127.0.0.1",
        f"add b.{ZONE} {TTL} A 127.0.0.2",
        f"add b.{ZONE} {TTL} A 127.0.0.3",
        f"add _http._tcp.{ZONE} {TTL} SRV 0 3 8001 a.{ZONE}.",
        f"add _http._tcp.{ZONE} {TTL} SRV 0 0 8002 b.{ZONE}.",
        f"add _http._tcp.{ZONE} {TTL} SRV 10 1 8003 a.{ZONE}.",
    )
    async with listening(of(named, "_http._tcp", None)) as heard:
        await until(lambda: bool(heard.sets))
        found = {url: (b.weight, b.priority, b.host) for url, b in heard.backends.items()}
        assert found == {
            "http://127.0.0.1:8001": (3, 0, f"a.{ZONE}:8001"),
            "http://127.0.0.2:8002": (0.01, 0, f"b.{ZONE}:8002"),
            "http://127.0.0.3:8002": (0.01, 0, f"b.{ZONE}:8002"),
            "http://127.0.0.1:8003": (1, 10, f"a.{ZONE}:8003"),
        }
        named.update(
            f"delete _http._tcp.{ZONE} SRV 0 3 8001 a.{ZONE}.",
            f"add c.{ZONE} {TTL} A 127.0.0.4",
            f"add _http._tcp.{ZONE} {TTL} SRV 0 5 8004 c.{ZONE}.",
        )
        await until(lambda: "http://127.0.0.4:8004" in heard.last)
        assert "http://127.0.0.1:8001" not in heard.last


async def test_weights_that_are_all_zero_are_all_alike(named: Named) -> None:
    named.update(f"add a.{ZONE} {TTL} A 127.0.0.1")
    named.update(*[f"add _http._tcp.{ZONE} {TTL} SRV 0 0 {8000 + n} a.{ZONE}." for n in range(100)])
    async with listening(of(named, "_http._tcp", None)) as heard:
        await until(lambda: len(heard.last) == 100)
        assert {backend.weight for backend in heard.backends.values()} == {1}


async def test_targets_that_nobody_answers_for_do_not_hide_the_others(named: Named) -> None:
    named.update(
        f"add a.{ZONE} {TTL} A 127.0.0.1",
        f"add _http._tcp.{ZONE} {TTL} SRV 0 1 8001 a.{ZONE}.",
        f"add _http._tcp.{ZONE} {TTL} SRV 0 1 0 a.{ZONE}.",
        f"add _http._tcp.{ZONE} {TTL} SRV 0 1 8002 missing.{ZONE}.",
        f"add _http._tcp.{ZONE} {TTL} SRV 0 1 8003 refused.elsewhere.test.",
    )
    async with listening(of(named, "_http._tcp", None)) as heard:
        await until(lambda: heard.last == http("127.0.0.1", port=8001))
        named.update(f"delete a.{ZONE} A")
        await until(lambda: any("no target" in words for words in heard.troubles))


async def test_a_target_of_nothing_says_that_there_is_no_such_service(named: Named) -> None:
    named.update(f"add _http._tcp.{ZONE} {TTL} SRV 0 0 0 .")
    async with listening(of(named, "_http._tcp", None)) as heard:
        await until(lambda: bool(heard.troubles))
        assert "says that there is no such service" in heard.troubles[0]


# Trouble


async def test_what_is_gone_is_trouble_and_no_set(named: Named) -> None:
    named.addresses("api", ["127.0.0.1"])
    async with listening(of(named)) as heard:
        await until(lambda: heard.last == http("127.0.0.1"))
        named.addresses("api", [])
        await until(lambda: any("exist" in words for words in heard.troubles))  # NXDOMAIN
        named.update(f"add api.{ZONE} {TTL} TXT here")
        await until(lambda: any("has no A or AAAA records" in words for words in heard.troubles))
        named.addresses("api", ["127.0.0.2"])
        await until(lambda: heard.last == http("127.0.0.2"))
    assert all(heard.sets)


@BOTH
async def test_a_name_server_that_is_gone_for_a_while_costs_no_set(named: Named) -> None:
    named.addresses("api", ["127.0.0.1"])
    async with AsyncBalancedTransport(of(named, timeout=0.5)) as transport:
        await transport.wait_until_ready()
        pool = transport.pools["default"]
        named.kill()
        await until(lambda: not _status(pool).well)
        assert [backend.url for backend in pool.declared] == ["http://127.0.0.1:8080"]
        await anyio.to_thread.run_sync(named.start)
        named.addresses("api", ["127.0.0.2"])
        await until(lambda: [backend.url for backend in pool.declared] == ["http://127.0.0.2:8080"])
        assert _status(pool).well


def _status(pool: Pool) -> Any:
    return pool.status().source


# Doubts


@BOTH
async def test_when_half_of_the_pool_is_down_it_asks_at_once(named: Named) -> None:
    named.addresses("api", ["127.0.0.1", "127.0.0.2"], ttl=300)
    async with AsyncBalancedTransport(of(named, floor=0.2)) as transport:
        await transport.wait_until_ready()
        pool = transport.pools["default"]
        named.addresses("api", ["127.0.0.3"], ttl=300)
        pool.report_probe("http://127.0.0.1:8080", False)
        await until(lambda: [backend.url for backend in pool.declared] == ["http://127.0.0.3:8080"])


# Both homes, real requests


def test_a_sync_client_follows_it_too(named: Named, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    named.addresses("api", ["127.0.0.1"])
    with httpx.Client(
        transport=BalancedTransport(of(named, port=server.port)), base_url="http://shop"
    ) as http:
        assert http.get("/whoami").text == server.name


async def test_requests_and_probes_reach_what_the_name_stands_for(
    named: Named, servers: SharedServers
) -> None:
    fleet = servers("uvicorn", 2)
    named.update(f"add a.{ZONE} {TTL} A 127.0.0.1")
    named.update(*[f"add _http._tcp.{ZONE} {TTL} SRV 0 1 {server.port} a.{ZONE}." for server in fleet])
    source = of(named, "_http._tcp", None)
    transport = AsyncBalancedTransport(source, algorithm="round_robin", probe=HttpProbe("/health"))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        await transport.wait_until_ready()
        names = {(await http.get("/whoami")).text for _ in range(30)}
    assert names == {server.name for server in fleet}


# Without dnspython


@pytest.fixture
def without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbclient.discovery.dns.find_spec", lambda name: None)


@pytest.mark.usefixtures("without_dnspython")
async def test_the_operating_system_looks_names_up_without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(*args: object, **kwargs: object) -> Iterable[Any]:
        return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.1", "::1", "fe80::1%eth0")]

    async with listening(Dns("localhost", 8080, interval=0.05)) as heard:
        await until(lambda: len(heard.sets) > 2)
        assert heard.last in (http("127.0.0.1"), http("[::1]"))
    monkeypatch.setattr("lbclient.discovery.lookups.anyio.getaddrinfo", both)
    for family, expected in [
        ("any", ("127.0.0.1", "[::1]")),
        ("prefer_ipv6", ("[::1]",)),
        ("ipv4", ("127.0.0.1",)),
    ]:
        async with listening(Dns("localhost", 8080, family=family)) as heard:
            await until(lambda: bool(heard.sets))
            assert heard.last == http(*expected)


@pytest.mark.usefixtures("without_dnspython")
async def test_and_what_it_does_not_find_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(Dns("does-not-exist.invalid", 80)) as heard:
        await until(lambda: bool(heard.troubles))

    async def slow(*args: object, **kwargs: object) -> Iterable[Any]:
        await anyio.sleep(60)
        return []

    async def six(*args: object, **kwargs: object) -> Iterable[Any]:
        return [(0, 0, 0, "", ("::1", 0))]

    monkeypatch.setattr("lbclient.discovery.lookups.anyio.getaddrinfo", slow)
    async with listening(Dns("localhost", 80, timeout=0.05)) as heard:
        await until(lambda: heard.everything[:1] == [Trouble("no answer within 0.05 s")])
    monkeypatch.setattr("lbclient.discovery.lookups.anyio.getaddrinfo", six)
    async with listening(Dns("localhost", 80, family="ipv4")) as heard:
        await until(lambda: heard.everything[:1] == [Trouble("localhost has no A records")])


@pytest.mark.usefixtures("without_dnspython")
@pytest.mark.parametrize(
    ("name", "options"),
    [("_http._tcp.shop.test", {}), ("a", {"nameservers": ["::1"]}), ("a", {"search": ["b"]})],
)
def test_what_needs_dnspython_says_what_to_install(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ImportError, match=r"pip install 'lbclient\[dns\]'"):
        Dns(name, **options)


# Construction


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("http://shop.test",), {}, "write a name such as 'shop.example', without scheme and port"),
        (("",), {}, "name is ''"),
        (("_http._tcp.shop.test", 80), {}, "SRV records, which have ports of their own"),
        (("a", 80), {"family": "ipv5"}, "family is 'ipv5'; write one of any, ipv4"),
        (("a", 0), {}, "port is 0; write a whole number from 1 to 65535"),
        (("a", "80"), {}, "port is '80'; write a whole number from 1 to 65535"),
        (("a",), {"scheme": "tcp"}, "port is None, and tcp has no usual one"),
        (("a",), {"scheme": "ftp"}, "scheme 'ftp'"),
        (("a",), {"floor": 0}, "floor is 0"),
        (("a",), {"floor": 5, "ceiling": 1}, "ceiling is 1"),
        (("a",), {"timeout": 0}, "timeout is 0"),
        (("a",), {"interval": -1}, "interval is -1"),
        (("a",), {"nameservers": []}, "nameservers is empty"),
        (("a",), {"nameservers": ["ns.shop.test"]}, "write an IP address such as"),
        (("a",), {"nameservers": ["127.0.0.1:0"]}, "port 0 is none"),
        (("a",), {"nameservers": ["[::1]:x"]}, r"a name server is '\[::1\]:x'"),
    ],
)
def test_bad_arguments_are_worded(arguments: tuple[Any, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        Dns(*arguments, **options)


def test_name_servers_may_have_ports() -> None:
    Dns("a", nameservers=["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]:5353", "[::1]"])
    assert str(Dns("shop.test", 8080)) == "DNS shop.test:8080"
    assert str(Dns("_http._tcp.shop.test", scheme="tcp")) == "DNS _http._tcp.shop.test"
