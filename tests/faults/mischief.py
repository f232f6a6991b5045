"""Everything that can be wrong with a backend, as something to begin and to end while clients are at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread
import httpx

from lbclient import AsyncBalancedTransport, Connect, PassiveHealth, Retry
from lbclient.core.retry import Stop
from tests.faults.ledger import Ledger
from tests.servers import ChaosProxy, Cut, Fault, RawServer, Server
from tests.servers.chaos import NONE


@dataclass(frozen=True, slots=True)
class Victim:
    """A backend to do something to: a server, the proxy before it, and one that answers 503 to take its place."""

    server: Server
    proxy: ChaosProxy
    overloaded: RawServer


def _of(fault: Fault) -> Callable[[Victim], None]:
    def begin(victim: Victim) -> None:
        victim.proxy.switch(fault, open_too=True)

    return begin


def _overload(victim: Victim) -> None:
    victim.proxy.upstream_port = victim.overloaded.port
    victim.proxy.reset_open()


def _restart(victim: Victim) -> None:
    """As when its machine is switched off: what was open is reset, and nobody listens."""
    victim.proxy.refuse()
    victim.proxy.reset_open()


def heal(victim: Victim) -> None:
    """The end of whatever was wrong."""
    victim.server.resume()
    victim.proxy.upstream_port = victim.server.port
    victim.proxy.switch(NONE, open_too=True)
    victim.proxy.listen()


MISCHIEF: dict[str, Callable[[Victim], None]] = {
    "refused": lambda victim: victim.proxy.refuse(),
    "switched off": _restart,
    "black hole": lambda victim: victim.proxy.black_hole(),
    "suspended": lambda victim: victim.server.suspend(),
    "stall": _of(Fault(stall=True)),
    "RST on accept": _of(Fault(cut=Cut("reset", of="request"))),
    "FIN on accept": _of(Fault(cut=Cut("fin", of="request"))),
    "RST within the request": _of(Fault(cut=Cut("reset", at=30, of="request"))),
    "stall within the request": _of(Fault(cut=Cut("stall", at=30, of="request"))),
    "RST before the response": _of(Fault(cut=Cut("reset"))),
    "FIN before the response": _of(Fault(cut=Cut("fin"))),
    "half-close before the response": _of(Fault(cut=Cut("half-close"))),
    "stall before the response": _of(Fault(cut=Cut("stall"))),
    "garbage before the response": _of(Fault(cut=Cut("garbage"))),
    "RST within the response's head": _of(Fault(cut=Cut("reset", at=8))),
    "FIN within the response's head": _of(Fault(cut=Cut("fin", at=8))),
    "garbage within the response's head": _of(Fault(cut=Cut("garbage", at=8))),
    "RST within the TLS handshake": _of(Fault(cut=Cut("reset", at=500))),
    "latency": _of(Fault(latency=0.02, jitter=0.05)),
    "a thin line": _of(Fault(bytes_per_second=5_000)),
    "503": _overload,
}
"""By name. Not among them: what breaks a body of which the client already has a part, and garbage in a request, which a
server may answer with a 400. Nobody can make good for those."""


@contextmanager
def three_victims(servers: list[Server], overloaded: RawServer) -> Iterator[list[Victim]]:
    """The servers, each behind a proxy."""
    with ExitStack() as stack:
        victims = [
            Victim(server, stack.enter_context(ChaosProxy(server.url)), overloaded) for server in servers
        ]
        yield victims
        for victim in victims:
            heal(victim)


async def one_left_of_four(
    healthy: Server,
    victims: list[Victim],
    connect: Connect,
    stop: Stop,
    *,
    requests: int,
    kinds: list[str],
    read_timeout: float,
    clients: int = 16,
) -> Ledger:
    """So many requests, while everything there is goes wrong with three of four backends in turn.

    Args:
        healthy: The one that is left.
        victims: The other three; a different thing is wrong with each.
        connect: How.
        stop: When a request gives up; four attempts are enough.
        requests: How many; the mischief changes after an equal share of them.
        kinds: Of `MISCHIEF`.
        read_timeout: Seconds.
        clients: At a time: GET, PUT, GET and POST in turn.
    """
    transport = AsyncBalancedTransport(
        [*(victim.proxy.url for victim in victims), healthy.url],
        connect=connect,
        passive=PassiveHealth(base_ejection=0.5, max_ejection=1.0),
        retry=Retry(stop=stop),
    )
    ledger, running = Ledger(), True
    timeout = httpx.Timeout(10, connect=1, read=read_timeout)
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet", timeout=timeout) as http:
        async with anyio.create_task_group() as group:
            for _ in range(clients):
                group.start_soon(ledger.keep_asking, http, lambda: running, ("GET", "PUT", "GET", "POST"))
            for index in range(len(kinds)):
                for offset, victim in enumerate(victims):
                    begin = MISCHIEF[kinds[(index + offset) % len(kinds)]]
                    await anyio.to_thread.run_sync(begin, victim)
                until = requests * (index + 1) / len(kinds)
                while ledger.numbers < until:
                    await anyio.sleep(0.01)
                for victim in victims:
                    await anyio.to_thread.run_sync(heal, victim)
            running = False
        assert all(state.in_flight == 0 for state in transport.pools["default"].status().backends)
    return ledger
