"""Real servers that die, hang, reload and close idle connections under load: what becomes of every request.

An idempotent request never fails. Another one fails only where the client cannot know whether it was carried out, and
it is carried out once at most.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import pytest
import trustme

from lbclient import AsyncBalancedTransport, Connect, PassiveHealth
from tests.conftest import StartServer
from tests.faults.ledger import Ledger
from tests.faults.load import until
from tests.servers import CertFiles, Kind

CLIENTS = 10

# httpx's generator over a body that was cut short is left to the garbage collector, which trio tells of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


async def keep_waiting(http: httpx.AsyncClient, go_on: Callable[[], bool]) -> None:
    """Requests that take longer than a reload."""
    while go_on():
        assert (await http.get("/slow", params={"seconds": 0.05})).text == "slow"


@pytest.mark.parametrize("what", ["killed", "suspended", "stopped"])
async def test_one_of_three_goes_under_load(start_server: StartServer, what: str) -> None:
    fleet = [start_server("uvicorn", name=f"s{number}") for number in range(3)]
    victim = fleet[0]
    end = {"killed": victim.kill, "suspended": victim.suspend, "stopped": victim.stop}[what]
    transport = AsyncBalancedTransport(
        [server.url for server in fleet], passive=PassiveHealth(base_ejection=0.3, max_ejection=0.6)
    )
    ledger, running = Ledger(), True
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=2) as http:
        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(ledger.keep_asking, http, lambda: running)
            await until(lambda: ledger.answered[victim.url] > 30)
            await anyio.to_thread.run_sync(end)
            await until(lambda: not transport.pools["default"].status().backends[0].available)
            total = ledger.numbers
            await until(lambda: ledger.numbers > total + 300)
            running = False
        assert all(state.in_flight == 0 for state in transport.pools["default"].status().backends)
    assert not ledger.lost
    assert ledger.open_ended <= 4 * CLIENTS, "those under way when it went, and one for each trial since"
    if what == "suspended":
        victim.resume()
    ledger.check([server for server in fleet if server.running], all_there=what == "suspended")


@pytest.mark.parametrize("over", ["http1", "tls", "http2"])
@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_the_only_server_reloads_under_load(
    start_server: StartServer,
    kind: Kind,
    over: str,
    server_cert_files: CertFiles,
    ca: trustme.CA,
) -> None:
    app = start_server("uvicorn", name="app")
    front = start_server(
        kind,
        upstream=app.url,
        tls=None if over == "http1" else server_cert_files,
        http2=over == "http2",
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    transport = AsyncBalancedTransport([front.url], connect=Connect(verify=context, http2=over == "http2"))
    ledger, running = Ledger(), True
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=10) as http:
        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(ledger.keep_asking, http, lambda: running)
            for _ in range(3):
                group.start_soon(keep_waiting, http, lambda: running)
            for _ in range(4):
                total = ledger.numbers
                await until(lambda total=total: ledger.numbers > total + 60)  # type: ignore[misc]
                await anyio.to_thread.run_sync(front.reload)
            total = ledger.numbers
            await until(lambda: ledger.numbers > total + 60)
            running = False
        failures = transport.pools["default"].status().backends[0].failures
        print(
            f"\n{kind} {over}: {dict(ledger.attempts)}, {ledger.open_ended} open-ended, {failures} failures"
        )
    assert not ledger.lost, ledger.lost[:3]
    ledger.check([app])
    assert failures == 0, "who reloads has done nothing wrong"


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "hypercorn-trio", "nginx", "haproxy"])
async def test_an_idle_timeout_of_the_servers_that_is_the_clients_pause(
    start_server: StartServer, kind: Kind
) -> None:
    """The keep-alive race: the server closes in the moment when the next request is sent."""
    keep_alive = 0.08
    app = start_server("uvicorn", name="app")
    server = (
        start_server(kind, keep_alive=keep_alive, upstream=app.url)
        if kind in ("nginx", "haproxy")
        else start_server(kind, keep_alive=keep_alive)
    )
    transport = AsyncBalancedTransport([server.url])
    ledger = Ledger()

    async def ask_and_pause(seed: int) -> None:
        rng = random.Random(seed)
        for number in range(20):
            await anyio.sleep(keep_alive + rng.uniform(-0.004, 0.004))
            method = "POST" if number % 4 == 3 else "GET"
            await ledger.ask(http, method)

    async with (
        httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=10) as http,
        anyio.create_task_group() as group,
    ):
        for seed in range(CLIENTS):
            group.start_soon(ask_and_pause, seed)
    print(f"\n{kind}: {dict(ledger.attempts)}, {ledger.open_ended} open-ended")
    assert not ledger.lost, ledger.lost[:3]
    assert transport.pools["default"].status().backends[0].failures == 0, "nobody's fault"
    ledger.check([app if kind in ("nginx", "haproxy") else server])
