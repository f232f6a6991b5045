"""gunicorn with a preloaded app: each worker is a client of its own, and together they are fair."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.conftest import SharedServers
from tests.servers import free_port

pytest.importorskip("gunicorn")

WORKERS = 4
REQUESTS = 600
WITHIN = 0.02


@contextmanager
def gunicorn(backends: list[str]) -> Iterator[str]:
    port = free_port()
    options = [
        "--preload",
        "--workers",
        str(WORKERS),
        "--bind",
        f"127.0.0.1:{port}",
        "--log-level",
        "warning",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "tests.lifecycles.wsgi:app"],
        env={**os.environ, "BACKENDS": " ".join(backends)},
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def until_it_answers(http: httpx.Client) -> None:
    give_up = time.monotonic() + 40
    while True:
        try:
            http.get("/")
            return
        except httpx.TransportError:
            assert time.monotonic() < give_up, "gunicorn does not come up"
            time.sleep(0.1)


@pytest.mark.timeout(120)
def test_workers_are_clients_of_their_own_and_fair_together(servers: SharedServers) -> None:
    fleet = servers("uvicorn")
    with (
        gunicorn([server.url for server in fleet]) as url,
        httpx.Client(base_url=url, timeout=30) as http,
        ThreadPoolExecutor(WORKERS) as threads,
    ):
        until_it_answers(http)
        answers = list(threads.map(lambda _: http.get("/").text.split(), range(REQUESTS)))
    workers = Counter(pid for pid, _, _ in answers)
    assert len(workers) > 1
    assert len({seed for _, seed, _ in answers}) == len(workers), "nobody rolls another one's dice"
    shares = Counter(name for _, _, name in answers)
    print(f"\n{dict(workers)}, {dict(shares)}")
    for count in shares.values():
        assert abs(count / REQUESTS - 1 / len(fleet)) <= WITHIN, shares
