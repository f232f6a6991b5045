"""Real servers that die, hang, reload and close idle connections under load: what becomes of every request.

An idempotent request never fails. Another one fails only where the client cannot know whether it was carried out, and
it is carried out once at most. `test_real_servers.py` has this happen for seconds, the soak for minutes.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import trustme

from lbclient import AsyncBalancedTransport, BackendStatus, Connect, PassiveHealth
from tests.conftest import StartServer
from tests.faults.ledger import Ledger
from tests.faults.load import until
from tests.servers import CertFiles, Kind

CLIENTS = 10


async def keep_waiting(http: httpx.AsyncClient, go_on: Callable[[], bool]) -> None:
    """Requests that take longer than a reload."""
    while go_on():
        assert (await http.get("/slow", params={"seconds": 0.05})).text == "slow"


def is_out(backend: BackendStatus) -> bool:
    """Adaptive may send too little to a server that hangs for it to be ejected."""
    return backend.avoided or not backend.available


async def one_of_three_goes(start_server: StartServer, what: str) -> None:
    """It is killed, suspended or stopped while all three are at work."""
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
            await until(lambda: is_out(transport.pools["default"].status().backends[0]))
            total = ledger.numbers
            await until(lambda: ledger.numbers > total + 300)
            running = False
        assert all(state.in_flight == 0 for state in transport.pools["default"].status().backends)
    assert not ledger.lost
    assert ledger.open_ended <= 4 * CLIENTS, "those under way when it went, and one for each trial since"
    if what == "suspended":
        victim.resume()
    ledger.check([server for server in fleet if server.running], all_there=what == "suspended")


async def the_only_server_reloads(
    start_server: StartServer,
    kind: Kind,
    over: str,
    server_cert_files: CertFiles,
    ca: trustme.CA,
    *,
    reloads: int,
) -> None:
    """It is reloaded again and again while all that is asked for goes through it."""
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
            for _ in range(reloads):
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


async def idle_timeouts_race(start_server: StartServer, kind: Kind, *, rounds: int) -> None:
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
        for number in range(rounds):
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
