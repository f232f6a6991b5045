"""Connections through a forwarder while their backends are killed, suspended, reset and stalled."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import anyio
import anyio.to_thread
from anyio.abc import ByteStream
from tenacity import stop_after_attempt

from lbclient import Connect, PassiveHealth, Pool, Retry
from lbclient.l4 import TCPForwarder, connections
from tests.l4.backend import Backend

MODES = "e" * 6 + "d" * 2 + "f" * 2 + "rs"
PATIENCE = 240.0  # a thousand at once, on a machine that has other things to do
IDLE = 1.0


async def under_fire(backends: Sequence[Backend], total: int, at_once: int, seed: int) -> Counter[str]:
    """So many connections, so many at a time; what became of them.

    Checks that nothing arrives but what was sent, in order, and that nothing is left behind: no count in flight, no
    connection, no task, no descriptor.
    """
    rng = random.Random(seed)
    pool = Pool(
        [backend.url for backend in backends],
        algorithm="least_connections",
        passive=PassiveHealth(base_ejection=0.2, max_ejection=0.5),
        connect=Connect(connect_timeout=0.5),
        retry=Retry(stop=stop_after_attempt(4)),
    )
    await anyio.to_thread.run_sync(
        lambda: None
    )  # what event loops open when they need it is there before we count
    await (await anyio.connect_tcp("127.0.0.1", backends[0].port)).aclose()
    await anyio.sleep(0.1)
    gc.collect()
    descriptors, tasks = _descriptors(), _tasks()
    fates: Counter[str] = Counter()
    numbers = iter(range(total))
    forwarder = TCPForwarder(pool, "127.0.0.1", 0, idle_timeout=IDLE)
    async with forwarder:

        async def client() -> None:
            for number in numbers:
                fates[await _one(forwarder.port, random.Random(f"{seed}-{number}"))] += 1

        async with anyio.create_task_group() as group:
            group.start_soon(_make_trouble, backends, rng)
            async with anyio.create_task_group() as clients:
                for _ in range(at_once):
                    clients.start_soon(client)
            group.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE):
            while forwarder.stats.open:
                await anyio.sleep(0.02)
    assert forwarder.stats.accepted == total, forwarder.stats
    assert [backend.in_flight for backend in pool.status().backends] == [0] * len(backends)
    assert connections(pool) == {}
    gc.collect()
    with anyio.move_on_after(PATIENCE):
        while _descriptors() > descriptors or _tasks() > tasks:
            await anyio.sleep(0.02)
    assert _descriptors() <= descriptors
    assert _tasks() <= tasks
    return fates


async def _one(port: int, rng: random.Random) -> str:
    """One connection, and what became of it. Wrong bytes are an AssertionError."""
    mode = rng.choice(MODES)
    data = rng.randbytes(rng.choice([0, 1, 100, 5_000, 200_000]))
    try:
        with anyio.fail_after(PATIENCE):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(mode.encode())
                return mode + await _talk(stream, mode, data)
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ExceptionGroup) as exc:
        if isinstance(exc, ExceptionGroup) and exc.split((OSError, anyio.BrokenResourceError))[1] is not None:
            raise
        if isinstance(exc, TimeoutError):
            raise
        return "broken"


async def _talk(stream: ByteStream, mode: str, data: bytes) -> str:
    answer = bytearray()

    async def listen() -> None:
        async for part in stream:
            answer.extend(part)

    async def say() -> None:
        if data:
            await stream.send(data)
        if mode != "s":
            await stream.send_eof()

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        group.start_soon(say)
    wanted = {"e": data, "d": hashlib.sha256(data).hexdigest().encode(), "f": b"done"}.get(mode, b"")
    assert wanted.startswith(answer), (mode, len(data), bytes(answer[:100]))
    return " whole" if len(answer) == len(wanted) else " cut short"


async def _make_trouble(backends: Sequence[Backend], rng: random.Random) -> None:
    """All but the first are killed and suspended in turn."""
    while True:
        victim = rng.choice(backends[1:])
        await anyio.sleep(rng.uniform(0.05, 0.3))
        try:
            if rng.random() < 0.5:
                victim.suspend()
            else:
                victim.kill()
            await anyio.sleep(rng.uniform(0.1, 0.5))
        finally:
            victim.resume()
            if not victim.running:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(victim.start)


def _descriptors() -> int:
    with suppress(OSError):
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, without making paths of them
    return 0


def _tasks() -> int:
    with suppress(RuntimeError):
        return len(asyncio.all_tasks())
    trio = sys.modules["trio"]
    count: int = trio.lowlevel.current_statistics().tasks_living
    return count
