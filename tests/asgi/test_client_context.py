"""A service between end users and backends: who is tied where, hashed how, and until when."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from lbclient import AsyncBalancedTransport, BalancedTransport, CookieAffinity, DeadlineExceeded
from lbclient.asgi import ClientContextMiddleware, ReverseProxy
from lbclient.asgi.types import App, Receive, Scope, Send
from lbclient.context import CLIENT, ClientContext, on_behalf_of
from tests.asgi.conftest import Serve
from tests.asgi.hosting import ask
from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import respond


def service(client: httpx.AsyncClient, path: str = "/whoami", times: int = 1) -> App:
    """Asks a backend, and answers with what that said."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await client.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            texts = [(await client.get(path)).text for _ in range(times)]
            text = ",".join(dict.fromkeys(texts))
        except httpx.HTTPError as exc:
            text = type(exc).__name__
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})

    return app


def balanced(urls: list[str], **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=AsyncBalancedTransport(urls, **options), base_url="http://inner")


def test_a_shared_client_hashes_on_the_end_clients_address(serve: Serve, servers: SharedServers) -> None:
    fleet = [server.url for server in servers("uvicorn", 3)]
    host = serve(
        ClientContextMiddleware(service(balanced(fleet, algorithm="ip_hash")), trusted=["127.0.0.0/8"])
    )

    def home(address: int) -> bytes:
        asked = b"GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 203.0.113.%d\r\n\r\n"
        return ask(host.port, asked % address).body

    homes = [home(address) for address in range(20)]
    assert len(set(homes)) > 1
    assert homes == [home(address) for address in range(20)]


def test_each_end_user_is_tied_for_himself(serve: Serve, servers: SharedServers) -> None:
    fleet = [server.url for server in servers("uvicorn", 3)]
    client = balanced(fleet, algorithm="round_robin", affinity=CookieAffinity())
    host = serve(ClientContextMiddleware(service(client, times=3)))
    homes = []
    for _ in range(6):
        with httpx.Client(base_url=host.url) as browser:
            first = browser.get("/")
            assert first.headers["set-cookie"].startswith("LBCLIENT=")
            assert "Secure" not in first.headers["set-cookie"]
            answers = [first.text, *(browser.get("/").text for _ in range(3))]
            homes.append(set(answers))
    assert all(len(home) == 1 for home in homes), "also within one request"
    assert len(set().union(*homes)) == 3, "but not for others"
    assert not client.cookies, "nobody's tie is in the jar of the shared client"


def test_the_end_users_cookie_is_not_sent_on(serve: Serve, raw_server: MakeRawServer) -> None:
    backend = raw_server()
    client = balanced([backend.url], affinity=CookieAffinity(name="TIE"))
    host = serve(ClientContextMiddleware(service(client), affinity_cookies=["TIE"]))
    with httpx.Client(base_url=host.url) as browser:
        for _ in range(2):
            browser.get("/")
    assert len(backend.requests) == 2
    assert b"cookie" not in backend.received.lower()


def test_over_tls_the_tie_is_secure(serve: Serve, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    client = balanced([server.url], affinity=CookieAffinity())
    host = serve(ClientContextMiddleware(service(client), trusted=["127.0.0.1"]))
    answer = httpx.get(host.url, headers={"x-forwarded-proto": "https"})
    assert answer.headers["set-cookie"].endswith("; Secure")


def test_the_end_clients_patience_is_that_of_what_is_asked_for_it(
    serve: Serve, raw_server: MakeRawServer
) -> None:
    slow = raw_server(respond(delay=3))
    host = serve(ClientContextMiddleware(service(balanced([slow.url])), deadline=0.2))
    assert httpx.get(host.url).text == "DeadlineExceeded"
    proxy = serve(ClientContextMiddleware(ReverseProxy([slow.url]), deadline=0.2))
    assert httpx.get(proxy.url).status_code == 504


@pytest.mark.parametrize(
    ("name", "value", "own", "left"),
    [
        ("x-request-timeout", b"2.5", None, 2.5),
        ("x-request-timeout", b"2.5", 1.0, 1.0),
        ("x-request-timeout", b"0.5", 1.0, 0.5),
        ("x-request-timeout", b"soon", 1.0, 1.0),
        ("x-request-timeout", b"-1", None, None),
        ("X-Expected-Rq-Timeout-Ms", b"2500", None, 2.5),
        ("grpc-timeout", b"3S", None, 3),
        ("grpc-timeout", b"300m", None, 0.3),
        ("grpc-timeout", b"3", None, None),
        ("grpc-timeout", b"", 4.0, 4),
    ],
)
async def test_how_a_client_says_how_long_it_waits(
    name: str, value: bytes, own: float | None, left: float | None
) -> None:
    seen: list[ClientContext] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = CLIENT.get()
        assert context is not None
        seen.append(context)

    async def nothing(*_: Any) -> Any:
        return {}

    headers = [(name.lower().encode(), value)] if value else []
    scope = {"type": "http", "headers": headers, "client": ("192.0.2.1", 1)}
    await ClientContextMiddleware(app, deadline=own, deadline_header=name)(scope, nothing, nothing)
    (context,) = seen
    if left is None:
        assert context.left() == float("inf")
    else:
        assert context.left() == pytest.approx(left, abs=0.2)
    assert context.client_ip == "192.0.2.1"
    assert "192.0.2.1" in repr(context)


async def test_what_is_too_late_is_not_even_begun() -> None:
    async with AsyncBalancedTransport(["http://127.0.0.1:1"]) as transport:
        with (
            on_behalf_of(ClientContext(deadline=0)),
            pytest.raises(httpx.TimeoutException, match="has passed"),
        ):
            await transport.handle_async_request(httpx.Request("GET", "http://inner/"))
        assert transport.pools["default"].status().backends[0].picks == 0


def test_the_sync_transport_reads_it_too(servers: SharedServers) -> None:
    fleet = [server.url for server in servers("uvicorn", 3)]
    with httpx.Client(
        transport=BalancedTransport(fleet, algorithm="ip_hash"), base_url="http://inner"
    ) as client:
        homes = []
        for number in range(20):
            with on_behalf_of(ClientContext(f"203.0.113.{number}")):
                homes.append({client.get("/whoami").text for _ in range(2)})
        assert all(len(home) == 1 for home in homes)
        assert len(set().union(*homes)) > 1
        with on_behalf_of(ClientContext(deadline=0)), pytest.raises(DeadlineExceeded):
            client.get("/")


def test_what_a_request_says_itself_counts_first() -> None:
    context = ClientContext("192.0.2.1", deadline=5)
    assert context.options({"client_ip": "192.0.2.2", "deadline": 1}) == {
        "client_ip": "192.0.2.2",
        "deadline": 1,
    }
    assert context.options({"deadline": 100})["deadline"] == pytest.approx(5, abs=0.5)
    assert ClientContext().options({}) == {}


async def test_other_scopes_pass() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["type"], CLIENT.get()))

    async def nothing(*_: Any) -> Any:
        return {}

    await ClientContextMiddleware(app)({"type": "lifespan"}, nothing, nothing)
    assert seen == [("lifespan", None)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"affinity_cookies": "LBCLIENT"}, "collection"),
        ({"affinity_cookies": ["a b"]}, "cookie's name"),
        ({"deadline": 0}, "above 0"),
        ({"deadline_header": "a b"}, "header's name"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises((ValueError, TypeError), match=words):
        ClientContextMiddleware(app, **options)
