"""A request that is given up, at whatever await it happens to be, leaves nothing behind; over every kind of wire."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anyio
import httpx
import pytest
from tenacity import stop_after_attempt, wait_none

from lbclient import AsyncBalancedTransport, Connect, Hedge, Retry
from lbclient._async.engine import Answer
from lbclient._async.exchange import Exchange
from lbclient.core.connect import Engine
from tests.conftest import MakeRawServer, StartServer
from tests.faults.every_await import CancelledAt, Steps, balance, descriptors, opened, until
from tests.servers import CertFiles, Handler, RawServer, full_backlog
from tests.servers.raw import after, read_forever, reply, reset_before_headers, respond

if TYPE_CHECKING:
    import trustme

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"),
    # What breaks off leaves generators of httpx's unfinished, and trio tells.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]

WIRES = ["h1", "h1 in TLS", "h1 by httpcore", "h2", "h2 in TLS"]
MAX_CONNECTIONS = 4


@pytest.fixture(params=WIRES)
def wire(
    request: pytest.FixtureRequest, start_server: StartServer, server_cert_files: CertFiles, ca: trustme.CA
) -> tuple[str, Connect]:
    """A server, and how to talk to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    http2, tls = "h2" in request.param, "TLS" in request.param
    server = start_server("hypercorn" if http2 else "uvicorn", tls=server_cert_files if tls else None)
    connect = Connect(
        engine="httpcore" if "httpcore" in request.param else "auto",
        http1=not http2,
        http2=http2,
        verify=context if tls else True,
        max_connections=MAX_CONNECTIONS,
    )
    return server.url, connect


async def get(http: httpx.AsyncClient) -> None:
    await http.get("/whoami")


async def post(http: httpx.AsyncClient) -> None:
    await http.post("/echo", content=b"x" * 50_000)


async def stream(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/stream?chunks=3&size=1000") as response:
        async for _ in response.aiter_raw():
            pass


async def stream_in_part(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/stream?chunks=3&size=1000&delay=0.001") as response:
        async for _ in response.aiter_raw():
            break


@pytest.mark.parametrize("warm", [False, True], ids=["fresh connection", "reused connection"])
@pytest.mark.parametrize("what", [get, post, stream, stream_in_part])
async def test_cancelled_at_every_await_in_turn(
    wire: tuple[str, Connect],
    what: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]],
    warm: bool,
) -> None:
    url, connect = wire
    context = connect.verify
    async with httpx.AsyncClient(transport=AsyncBalancedTransport([url], connect=connect)) as first:
        await first.get("http://orders/whoami")  # whatever is made once in a process
    before = descriptors()
    k = 0
    cancelled = True
    while cancelled:
        k += 1
        assert k < 500
        transport = AsyncBalancedTransport([url], connect=connect, passive=None)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            if warm:
                await get(http)
            with anyio.CancelScope() as scope:
                await CancelledAt(what(http), Steps(scope, k))
            cancelled = scope.cancelled_caught
            assert balance(transport) == dict.fromkeys(balance(transport), 0), k
            await until(lambda transport=transport: descriptors() == before + opened(transport))  # type: ignore[misc]
            await get(http)
            assert balance(transport) == dict.fromkeys(balance(transport), 0), k
        await until(lambda: descriptors() == before)
    assert k > 1
    assert connect.verify is context


async def test_cancelled_at_every_await_while_another_one_waits_for_the_connection(
    start_server: StartServer,
) -> None:
    """Whatever becomes of the one that has the connection, the next in line is served."""
    server = start_server("uvicorn")
    k = 0
    cancelled = True
    while cancelled:
        k += 1
        assert k < 500
        transport = AsyncBalancedTransport([server.url], connect=Connect(max_connections=1))
        served: list[int] = []

        async def wait_in_line(http: httpx.AsyncClient, served: list[int]) -> None:
            served.append((await http.get("/whoami")).status_code)

        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    group.start_soon(wait_in_line, http, served)
                    group.start_soon(wait_in_line, http, served)
                    await CancelledAt(stream_in_part(http), Steps(scope, k))
                cancelled = scope.cancelled_caught
            assert served == [200, 200]
            assert balance(transport) == dict.fromkeys(balance(transport), 0), k
    assert k > 1


# Requests that take more than one attempt, or have to wait for the first


class Plan(NamedTuple):
    """What happens to a request: the servers, in the order in which they are asked, and the pool's policies."""

    servers: tuple[Handler | Literal["black hole"], ...]
    options: dict[str, Any]


BUSY = reply(*[b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"] * 9)
BUSY_AT_LENGTH = reply(b"HTTP/1.1 503 Busy\r\nContent-Length: 99999\r\n\r\nbusy", then=read_forever)
BUSY_IN_PARTS = reply(
    b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\n",
    then=after(0.02, lambda connection: connection.send(b"busy")),
)
AT_ONCE = Retry(stop=stop_after_attempt(3), wait=wait_none(), budget=None)
PLANS = {
    "503, then elsewhere": Plan((BUSY, respond()), {}),
    "a 503 that is read to its end": Plan((BUSY_IN_PARTS, respond()), {}),
    "a 503 that nobody reads to its end": Plan((BUSY_AT_LENGTH, respond()), {}),
    "a reset, then elsewhere": Plan((reset_before_headers, respond()), {}),
    "503 three times, with waits": Plan((BUSY,), {"retry": AT_ONCE}),
    "connects beside each other": Plan(
        ("black hole", respond()), {"connect": {"start_next_after": 0.005, "connect_timeout": 5}}
    ),
    "a copy that wins": Plan((after(0.03, respond()), respond()), {"hedge": Hedge(delay=0.005, budget=1)}),
    "a copy that loses": Plan(
        (after(0.02, respond()), after(0.05, respond())), {"hedge": Hedge(delay=0.005, budget=1)}
    ),
}


@pytest.mark.parametrize(
    ("anyio_backend", "engine"),
    [("asyncio", "native"), ("trio", "native"), ("asyncio", "httpcore"), ("trio", "httpcore")],
)
@pytest.mark.parametrize("name", PLANS)
async def test_cancelled_at_every_await_of_every_attempt(
    raw_server: MakeRawServer, monkeypatch: pytest.MonkeyPatch, name: str, engine: Engine
) -> None:
    """The awaits of attempts beside each other count as well, each in its own task."""
    plan = PLANS[name]
    attempt = Exchange._attempt
    steps: Steps

    async def counted(self: Exchange, *arguments: Any) -> Answer:
        return await CancelledAt(attempt(self, *arguments), steps)

    monkeypatch.setattr(Exchange, "_attempt", counted)
    with ExitStack() as stack:
        urls: list[str] = []
        servers: list[RawServer] = []
        for does in plan.servers:
            if does == "black hole":
                urls.append(f"http://127.0.0.1:{stack.enter_context(full_backlog())}")
            else:
                servers.append(raw_server(does))
                urls.append(servers[-1].url)
        options = {
            "passive": None,
            **plan.options,
            "connect": Connect(engine=engine, **plan.options.get("connect", {})),
        }

        async def cancelled_at(k: int) -> bool:
            """At the k-th; whether it came to that. 0 is never."""
            nonlocal steps
            transport = AsyncBalancedTransport(urls, algorithm="first", **options)
            async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
                with anyio.CancelScope() as scope:
                    steps = Steps(scope, k)
                    await CancelledAt(http.get("/"), steps)
                assert balance(transport) == dict.fromkeys(balance(transport), 0), k
            await until(
                lambda: not any(server.open for server in servers)
            )  # whose ends are this process's as well
            return scope.cancelled_caught

        await cancelled_at(0)  # whatever is made once in a process
        before = descriptors()
        k = 1
        while await cancelled_at(k):
            assert k < 500
            await until(lambda: descriptors() == before)
            k += 1
        assert k > 3


async def test_cancelled_at_every_await_while_it_waits_for_room_in_the_pool(
    raw_server: MakeRawServer,
) -> None:
    """It leaves the queue, and whoever stands behind it is served."""
    server = raw_server(respond())
    k, cancelled = 0, True
    while cancelled:
        k += 1
        assert k < 500
        transport = AsyncBalancedTransport([server.url], max_in_flight=1)
        served: list[int] = []

        async def behind(http: httpx.AsyncClient, served: list[int]) -> None:
            served.append((await http.get("/")).status_code)

        async def holding(http: httpx.AsyncClient, waits: anyio.Event) -> None:
            async with http.stream("GET", "/"):
                waits.set()
                await anyio.sleep(0.01)

        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with anyio.create_task_group() as group:
                held = anyio.Event()
                group.start_soon(holding, http, held)
                await held.wait()
                with anyio.CancelScope() as scope:
                    group.start_soon(behind, http, served)
                    await CancelledAt(http.get("/"), Steps(scope, k))
                cancelled = scope.cancelled_caught
            assert served == [200]
            assert balance(transport) == dict.fromkeys(balance(transport), 0), k
            queue = transport.pools["default"].queue
            assert queue is not None
            assert not queue.overtakes(None), "nobody stands in it any more"
    assert k > 1
