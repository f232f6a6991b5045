"""What forwarding a connection costs: a rate, a throughput, and the CPU of whoever forwards.

    python -m benchmarks.l4
    python -m benchmarks.l4 --quick
    python -m benchmarks.l4 --targets haproxy,lbclient --rounds 5

The forwarder shares the last cpu with the backends (three nginx), the client has the others. "direct" is none: the
client and the backends by themselves. Where they are the slower ones, all rates are alike and the forwarder's CPU
tells them apart.
"""

from __future__ import annotations

import argparse
import errno
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.backends import fleet
from benchmarks.forwarders import FORWARDERS, forwarder
from benchmarks.report import Table, describe, environment, write_json
from benchmarks.servers import cpu_us
from benchmarks.workloads import MIB

AT_ONCE = 32
STREAMS = 4
IDLE = 1000
ONCE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured of one forwarder; medians.

    Attributes:
        connections: A second, each with one request, 32 at a time.
        connection_us: CPU of the forwarder for one of them.
        mib: A second, over four connections.
        gib_ms: CPU of the forwarder for a GiB.
        exchanges: Small requests a second over one connection, one after the other.
        exchange_us: CPU of the forwarder for one of them.
        idle_kib: Resident memory that an idle connection takes in it.
    """

    target: str
    connections: float
    connection_us: float
    mib: float
    gib_ms: float
    exchanges: float
    exchange_us: float
    idle_kib: float


def connection_rate(port: int, seconds: float) -> int:
    """Connections made, used once, and closed by the other side, in so many seconds."""
    poll = select.epoll()
    sockets: dict[int, tuple[socket.socket, bool]] = {}
    done, until = 0, time.perf_counter() + seconds

    def begin() -> None:
        client = socket.socket()
        client.setblocking(False)
        code = client.connect_ex(("127.0.0.1", port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "cannot connect")
        sockets[client.fileno()] = client, False
        poll.register(client, select.EPOLLOUT)

    for _ in range(AT_ONCE):
        begin()
    while sockets:
        for number, _ in poll.poll(10):
            client, asked = sockets[number]
            if not asked:
                client.send(ONCE)
                sockets[number] = client, True
                poll.modify(number, select.EPOLLIN)
                continue
            with suppress(BlockingIOError):
                while client.recv(4096):
                    pass
                del sockets[number]
                client.close()
                done += 1
                if time.perf_counter() < until:
                    begin()
    return done


def throughput(port: int, seconds: float) -> float:
    """MiB that came over `STREAMS` connections in so many seconds."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(STREAMS)]
    poll = select.epoll()
    due = dict.fromkeys((client.fileno() for client in clients), 0)
    by_number = {client.fileno(): client for client in clients}
    buffer = bytearray(MIB)
    total, until = 0, time.perf_counter() + seconds
    for client in clients:
        client.sendall(LARGE)
        poll.register(client, select.EPOLLIN)
    while time.perf_counter() < until:
        for number, _ in poll.poll(10):
            count = by_number[number].recv_into(buffer)
            if not count:
                raise ConnectionError("a connection ended")
            total += count
            due[number] += count
            if (
                due[number] >= MIB
            ):  # the head has come as well: some hundred bytes too early make no difference
                due[number] -= MIB
                by_number[number].sendall(LARGE)
    for client in clients:
        client.close()
    return total / MIB


def exchanges(port: int, seconds: float) -> int:
    """Small requests over one connection, one after the other, in so many seconds."""
    done, until = 0, time.perf_counter() + seconds
    with socket.create_connection(("127.0.0.1", port)) as client:
        while time.perf_counter() < until:
            client.sendall(KEPT)
            if not client.recv(4096):
                raise ConnectionError("the connection ended")
            done += 1
    return done


def idle_memory(port: int, pid: int, count: int) -> float:
    """KiB of the forwarder for each of so many connections that were used and are idle."""
    before = resident_kib(pid)
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(KEPT)
        client.recv(4096)
        clients.append(client)
    after = resident_kib(pid)
    for client in clients:
        client.close()
    return (after - before) / count


def resident_kib(pid: int) -> float:
    """Of a process and its children; 0 where /proc does not tell."""
    total = 0.0
    for each in (pid, *_children(pid)):
        with suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += float(line.split()[1])
    return total


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def measured(work: Callable[[int, float], float], port: int, pid: int, seconds: float) -> tuple[float, float]:
    """How much a second, and the forwarder's CPU for one, in microseconds."""
    cpu, began = cpu_us(pid), time.perf_counter()
    done = work(port, seconds)
    return done / (time.perf_counter() - began), (cpu_us(pid) - cpu) / done


def measure(target: str, backends: Sequence[str], seconds: float, idle: int) -> Cost:
    """One round of one forwarder, in a process of its own; "direct" is none."""
    if target == "direct":
        port, nobody = int(backends[0].rpartition(":")[2]), 0
        rates = [
            measured(work, port, nobody, seconds)[0] for work in (connection_rate, throughput, exchanges)
        ]
        return Cost(target, rates[0], 0, rates[1], 0, rates[2], 0, 0)
    with forwarder(target, backends) as (port, pid):
        connection_rate(port, seconds / 4)
        a_connection = measured(connection_rate, port, pid, seconds)
        a_mib = measured(throughput, port, pid, seconds)
        an_exchange = measured(exchanges, port, pid, seconds)
        memory = idle_memory(port, pid, idle)
    return Cost(target, *a_connection, a_mib[0], a_mib[1] * 1024 / 1000, *an_exchange, memory)


def middle(costs: Sequence[Cost]) -> Cost:
    """The medians of several rounds."""
    numbers = [list(asdict(cost).values())[1:] for cost in costs]
    return Cost(costs[0].target, *(median(column) for column in zip(*numbers, strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    everybody = ("direct", *FORWARDERS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.l4", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    here = [name for name in everybody if not name.endswith("trio") or find_spec("trio") is not None]
    parser.add_argument("--targets", default=",".join(name.replace(", ", "@") for name in here))
    parser.add_argument("--rounds", type=int, default=3, help="of every target in turn; default: 3")
    parser.add_argument("--quick", action="store_true", help="a smoke test of some seconds")
    options = parser.parse_args(arguments)
    targets = [name.replace("@", ", ") for name in options.targets.split(",")]
    for target in targets:
        if target not in everybody:
            names = ", ".join(name.replace(", ", "@") for name in everybody)
            raise SystemExit(f"no target {target!r}; there are {names}")
    rounds, seconds, idle = (1, 0.2, 50) if options.quick else (options.rounds, 2.0, IDLE)
    facts = environment()
    print(describe(facts))
    costs: dict[str, list[Cost]] = {target: [] for target in targets}
    with fleet() as scene:
        backends = [urlsplit(url).netloc for url in scene.urls]
        for _ in range(rounds):
            for target in targets:
                costs[target].append(measure(target, backends, seconds, idle))
    rows = [middle(each) for each in costs.values()]
    Table(
        title=f"connections forwarded: {AT_ONCE} at a time with a request each; {STREAMS} streams of large answers; "
        "small requests over one connection; CPU and memory of the forwarder",
        columns=("target", "conn/s", "CPU us", "MiB/s", "CPU ms/GiB", "req/s", "CPU us", "KiB idle"),
        rows=[
            (
                row.target, f"{row.connections:,.0f}", f"{row.connection_us:.0f}", f"{row.mib:,.0f}",
                f"{row.gib_ms:,.0f}", f"{row.exchanges:,.0f}", f"{row.exchange_us:.0f}", f"{row.idle_kib:.1f}",
            )
            for row in rows
        ],
    ).print()  # fmt: skip
    write_json(options.json, {"environment": facts, "rows": [asdict(row) for row in rows]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
