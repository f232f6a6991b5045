"""Sticky sessions and routes as a user of httpx sees them, on real servers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from lbclient import (
    AppCookieAffinity,
    AsyncBalancedTransport,
    CookieAffinity,
    HttpProbe,
    NoRoute,
    Pool,
    Route,
    Router,
    Split,
)
from tests.conftest import MakeRawServer, SharedServers
from tests.servers import Connection


def client(transport: AsyncBalancedTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://orders", **options)


async def test_one_transport_keeps_the_sessions_of_many_clients_apart(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    transport = AsyncBalancedTransport(
        [server.url for server in fleet], algorithm="round_robin", affinity=CookieAffinity()
    )
    homes = []
    for _ in range(12):
        http = client(transport)
        responses = [await http.get("/whoami") for _ in range(4)]
        assert len({response.text for response in responses}) == 1
        assert ["set-cookie" in response.headers for response in responses] == [True, False, False, False]
        assert [response.extensions["lbclient"].sticky for response in responses] == [False, True, True, True]
        homes.append(responses[0].text)
    assert len(set(homes)) == 3
    await transport.aclose()


async def test_the_balancers_cookie_is_not_sent_on_and_others_are(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url], affinity=CookieAffinity())
    async with client(transport, cookies={"theirs": "1"}) as http:
        await http.get("/whoami")
        headers = dict((await http.get("/echo")).json()["headers"])
        assert headers["cookie"] == "theirs=1"
        assert "LBCLIENT" in http.cookies


@pytest.mark.parametrize("junk", ["forged", "x" * 8192, "", "\x7f"])
async def test_a_forged_cookie_selects_nobody_and_is_replaced(servers: SharedServers, junk: str) -> None:
    fleet = servers("uvicorn")
    transport = AsyncBalancedTransport([server.url for server in fleet], affinity=CookieAffinity())
    async with client(transport) as http:
        response = await http.get("/whoami", headers={"cookie": f"LBCLIENT={junk}"})
    assert response.status_code == 200
    assert not response.extensions["lbclient"].sticky
    assert "set-cookie" in response.headers


async def test_the_cookie_is_secure_where_the_logical_url_is(servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    transport = AsyncBalancedTransport([server.url], affinity=CookieAffinity())
    async with httpx.AsyncClient(transport=transport, base_url="https://orders") as http:
        assert "; Secure" in (await http.get("/whoami")).headers["set-cookie"]


async def test_an_applications_cookie_is_learned_and_left_alone(raw_server: MakeRawServer) -> None:
    def app(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            new = (
                b""
                if b"JSESSIONID" in request
                else b"Set-Cookie: JSESSIONID=%d; Path=/\r\n" % connection.index
            )
            connection.send(b"HTTP/1.1 200 OK\r\n" + new + b"Content-Length: 0\r\n\r\n")

    fleet = [raw_server(app) for _ in range(3)]
    transport = AsyncBalancedTransport(
        [server.url for server in fleet], algorithm="round_robin", affinity=AppCookieAffinity()
    )
    async with client(transport) as http:
        backends = [(await http.get("/")).extensions["lbclient"].backend for _ in range(6)]
    assert len(set(backends)) == 1
    (home,) = (server for server in fleet if server.url == backends[0])
    assert b"Cookie: JSESSIONID=" in home.requests[1]


async def test_routes_send_each_kind_of_request_to_its_pool(servers: SharedServers) -> None:
    one, two, three = servers("uvicorn")
    api = Pool([one.url, two.url], name="api", probe=HttpProbe("/health"))
    static = Pool([three.url], name="static")
    transport = AsyncBalancedTransport(
        Router([Route(path="/status/*", to=static), Route(methods=["GET"], path="/*", to=api)])
    )
    assert set(transport.pools) == {"api", "static"}
    async with client(transport) as http:
        await transport.wait_until_ready()
        assert (await http.get("/status/204")).extensions["lbclient"].pool == "static"
        assert {(await http.get("/whoami")).text for _ in range(12)} == {one.name, two.name}
        named = await http.get("/whoami", extensions={"lbclient": {"pool": "static"}})
        assert named.text == three.name
        with pytest.raises(NoRoute, match="no route takes POST of path '/echo' at host 'orders'"):
            await http.post("/echo")
        assert set(transport.connections()) == {one.url, two.url, three.url}


async def test_a_sticky_canary_keeps_its_clients(servers: SharedServers) -> None:
    old, new = servers("uvicorn", 2)
    split = Split(
        {Pool([old.url], name="old"): 3, Pool([new.url], name="new"): 1}, sticky=True, secret="s" * 16
    )
    transport = AsyncBalancedTransport(Router([], default=split))
    sides: list[str] = []
    for _ in range(8):
        http = client(transport)
        seen = {(await http.get("/whoami")).text for _ in range(4)}
        assert len(seen) == 1
        sides.extend(seen)
    assert (sides.count(old.name), sides.count(new.name)) == (6, 2)
    await transport.aclose()


async def test_readiness_waits_for_every_pool_and_names_who_is_missing(
    servers: SharedServers, raw_server: MakeRawServer
) -> None:
    (server,) = servers("uvicorn", 1)
    silent = raw_server(lambda connection: connection.stall())
    probe = HttpProbe("/health")
    router = Router(
        [Route(path="/a/*", to=Pool([server.url], name="a", probe=probe))],
        default=Pool([silent.url], name="b", probe=probe),
    )
    transport = AsyncBalancedTransport(router)
    async with client(transport):
        with pytest.raises(TimeoutError, match=silent.url):
            await transport.wait_until_ready(0.3)


async def test_a_split_is_a_target_by_itself(servers: SharedServers) -> None:
    one, other = (Pool([server.url], name=server.name) for server in servers("uvicorn", 2))
    split = Split({one: 3, other: 1})
    transport = AsyncBalancedTransport(split)
    assert set(transport.pools) == {one.name, other.name}
    async with client(transport) as http:
        names = [(await http.get("/whoami")).text for _ in range(8)]
        assert sorted(names) == sorted([one.name] * 6 + [other.name] * 2)
        await transport.reroute(Split({other: 1}))
        assert (await http.get("/whoami")).text == other.name
