"""What a reverse proxy costs by itself: its CPU for a small request, and the time that it adds.

    python -m benchmarks.hops
    python -m benchmarks.hops --quick
    python -m benchmarks.hops --proxies nginx,sidecar --concurrency 1,16 --rounds 7

The client writes and reads bytes, so that nothing of an HTTP library is in these numbers. It has the first cpu; proxy
and backends (three nginx) share the last one, since what is asked for is work and not how well it can be spread. Shown
is the best of the rounds, because what else the machine does only adds.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.backends import fleet
from benchmarks.proxies import PROXIES, proxies
from benchmarks.report import Table, describe, environment, write_json
from benchmarks.servers import client_cpu, cpu_us, pin_client

DIRECT = "no hop"
REQUEST = (
    b"GET /orders/42?full=1 HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\n\r\n"
)
ENDS_WITH = b" ok"  # what the backends answer


@dataclass(frozen=True, slots=True)
class Hop:
    """What was measured of one proxy, at its best over the rounds.

    Attributes:
        proxy: Its name.
        concurrency: Connections, each with one request after the other.
        cpu_us: CPU of the proxy for a request.
        p50_us: Until a response is there.
        p99_us: Likewise.
        rps: Requests a second.
    """

    proxy: str
    concurrency: int
    cpu_us: float
    p50_us: float
    p99_us: float
    rps: float


def exchanges(port: int, concurrency: int, seconds: float) -> list[float]:
    """The times that requests took, over so many connections and for so many seconds.

    Raises:
        ConnectionError: A response is not what the backends say.
    """
    poll = select.epoll()
    clients: dict[int, socket.socket] = {}
    begun: dict[int, float] = {}
    taken: list[float] = []
    for _ in range(concurrency):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clients[client.fileno()] = client
        poll.register(client, select.EPOLLIN)
    held = dict.fromkeys(clients, b"")
    now = time.perf_counter()
    until = now + seconds
    for number, client in clients.items():
        begun[number] = time.perf_counter()
        client.send(REQUEST)
    while begun:
        for number, _ in poll.poll(10):
            data = clients[number].recv(65536)
            now = time.perf_counter()
            held[number] += data
            if not data or not held[number].startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(f"answered by {held[number]!r}")
            if ENDS_WITH not in held[number]:  # the head has come without the body
                continue
            held[number] = b""
            taken.append(now - begun.pop(number))
            if now < until:
                begun[number] = time.perf_counter()
                clients[number].send(REQUEST)
    for client in clients.values():
        client.close()
    return taken


def measure(name: str, port: int, pid: int | None, concurrency: int, seconds: float) -> Hop:
    exchanges(port, concurrency, 0.1)
    before = 0.0 if pid is None else cpu_us(pid)
    began = time.perf_counter()
    taken = sorted(exchanges(port, concurrency, seconds))
    elapsed = time.perf_counter() - began
    spent = 0.0 if pid is None else cpu_us(pid) - before
    count = len(taken)
    return Hop(
        name,
        concurrency,
        spent / count,
        taken[count // 2] * 1e6,
        taken[count * 99 // 100] * 1e6,
        count / elapsed,
    )


def best(hops: Sequence[Hop]) -> Hop:
    """The lowest of each number: what else the machine does only adds."""
    first = hops[0]
    lowest = {name: min(getattr(hop, name) for hop in hops) for name in ("cpu_us", "p50_us", "p99_us")}
    return Hop(first.proxy, first.concurrency, **lowest, rps=max(hop.rps for hop in hops))


def table(hops: Sequence[Hop], concurrency: int) -> Table:
    shown = [hop for hop in hops if hop.concurrency == concurrency]
    direct = next(hop for hop in shown if hop.proxy == DIRECT)
    rows = [
        [
            hop.proxy,
            "" if hop is direct else f"{hop.cpu_us:.0f} us",
            f"{hop.p50_us:.0f} us",
            "" if hop is direct else f"{hop.p50_us - direct.p50_us:.0f} us",
            f"{hop.p99_us:.0f} us",
            f"{hop.rps:.0f}",
        ]
        for hop in shown
    ]
    columns = ["", "CPU of the proxy", "p50", "added", "p99", "requests a second"]
    return Table(f"{concurrency} at a time", columns, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hops",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--proxies", default=",".join(PROXIES), help="comma-separated; default: %(default)s")
    parser.add_argument(
        "--concurrency", default="1,16", help="connections, comma-separated; default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--slice", type=float, default=1.0, help="seconds of one; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--quick", action="store_true", help="a smoke test: fails on errors, never on a time")
    settings = parser.parse_args(arguments)
    if settings.quick:
        settings.rounds, settings.slice = 1, 0.2
    names: list[str] = settings.proxies.split(",")
    unknown = [name for name in names if name not in PROXIES]
    if unknown:
        parser.error(f"unknown proxies {', '.join(unknown)}; there are {', '.join(PROXIES)}")
    at_once = [int(each) for each in settings.concurrency.split(",")]
    found: dict[tuple[str, int], list[Hop]] = {}
    with fleet() as scene, proxies(names, scene.urls) as between:
        pin_client(client_cpu())
        ports: dict[str, tuple[int, int | None]] = {DIRECT: (urlsplit(scene.urls[0]).port or 0, None)}
        ports |= {name: (urlsplit(proxy.url).port or 0, proxy.pid) for name, proxy in between.items()}
        for _ in range(settings.rounds):
            for concurrency in at_once:
                for name, (port, pid) in ports.items():
                    hop = measure(name, port, pid, concurrency, settings.slice)
                    found.setdefault((name, concurrency), []).append(hop)
    hops = [best(each) for each in found.values()]
    about = environment()
    print(describe(about))
    for concurrency in at_once:
        table(hops, concurrency).print()
    if settings.json:
        write_json(settings.json, {"environment": about, "rows": [asdict(hop) for hop in hops]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
