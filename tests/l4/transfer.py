"""Much data through a forwarder, and how much memory it takes."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from lbclient import Pool
from lbclient.l4 import TCPForwarder
from tests.l4.backend import MIB, Backend
from tests.l4.peers import dial, read_all


def hash_of(mib: int) -> str:
    """Of what a backend pours out."""
    hashed = hashlib.sha256()
    for _ in range(mib):
        hashed.update(MIB)
    return hashed.hexdigest()


async def transfer(backend: Backend, mib: int) -> float:
    """So many MiB down to a client that pauses now and then, then as many up; by how many MiB this process grew."""
    pool = Pool([backend.url])
    grown: list[float] = [0.0]
    async with TCPForwarder(pool, "127.0.0.1", 0) as forwarder, anyio.create_task_group() as group:
        before = _resident_mib()

        async def watch() -> None:
            while True:
                grown.append(_resident_mib() - before)
                await anyio.sleep(0.05)

        group.start_soon(watch)
        wanted = await run_sync(hash_of, mib)
        assert await run_sync(_down, forwarder.port, mib) == wanted
        assert await run_sync(_up, forwarder.port, mib) == wanted
        group.cancel_scope.cancel()
    assert forwarder.stats.bytes_down == (mib << 20) + 64
    assert forwarder.stats.bytes_up == 9 + 1 + (mib << 20)
    return max(grown)


def _down(port: int, mib: int) -> str:
    hashed = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    with dial(port) as client:
        client.sendall(b"p" + mib.to_bytes(8))
        client.shutdown(socket.SHUT_WR)
        pauses, total = 0, 0
        while count := client.recv_into(buffer):
            hashed.update(buffer[:count])
            total += count
            if total > (pauses + 1) * (mib << 20) / 5:
                pauses += 1
                time.sleep(0.2)  # everybody's buffers fill up meanwhile
    return hashed.hexdigest()


def _up(port: int, mib: int) -> str:
    with dial(port) as client:
        client.settimeout(300)
        client.sendall(b"d")
        for _ in range(mib):
            client.sendall(MIB)
        client.shutdown(socket.SHUT_WR)
        return read_all(client).decode()


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
