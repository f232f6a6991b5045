"""32 threads on one sync client for half a minute, with backends that come and go: nothing lost, counts exact."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx
import pytest

from lbclient import BalancedTransport, Connect, HttpProbe, PassiveHealth, Pool, Retry
from tests.conftest import MakeRawServer
from tests.servers.raw import respond

SECONDS = float(os.environ.get("LBCLIENT_SOAK_SECONDS", "30"))
THREADS = 32


@pytest.mark.timeout(300)
def test_no_update_is_lost_and_nobody_waits_for_ever(raw_server: MakeRawServer) -> None:
    fleet = [raw_server(respond()) for _ in range(4)]
    pool = Pool(
        [server.url for server in fleet],
        algorithm="least_connections",
        passive=PassiveHealth(consecutive_failures=3, base_ejection=0.2, max_ejection=0.5),
        probe=HttpProbe("/health", interval=0.5, timeout=0.4),
        retry=Retry(),
        connect=Connect(max_connections=12),
        max_in_flight=12,
    )
    transport = BalancedTransport(pool)
    over = time.monotonic() + SECONDS
    done: list[Counter[str]] = [Counter() for _ in range(THREADS)]
    strangers: list[BaseException] = []

    def ask(number: int) -> None:
        mine = done[number]
        try:
            while time.monotonic() < over:
                try:
                    response = http.get(f"/{number}")
                    mine["answered"] += 1
                    mine["attempts"] += len(response.extensions["lbclient"].attempts)
                except httpx.TransportError as exc:
                    mine[type(exc).__name__] += 1
                    mine["attempts"] += len(exc.lbclient.attempts)  # type: ignore[attr-defined]
        except BaseException as exc:  # noqa: BLE001  # whatever it is, it is the end of the test
            strangers.append(exc)

    def flap() -> None:
        turn = 0
        while time.monotonic() < over - 1:
            server = fleet[turn % len(fleet)]
            turn += 1
            with suppress(OSError):
                server.stop()
            time.sleep(0.15)
            server.start()
            time.sleep(0.15)
            if turn % 5 == 0:
                pool.set_weight(server.url, 1 + turn % 3)
            if turn % 7 == 0:
                transport.drain(server.url, grace=0.1)
                pool.enable(server.url)

    with httpx.Client(transport=transport, base_url="http://orders", timeout=5) as http:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
        threads.append(threading.Thread(target=flap))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS + 60)
        assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
        assert not strangers, strangers
        total: Counter[str] = sum(done, Counter())
        status = pool.status().backends
        print(f"\n{dict(total)}; {[(one.picks, one.successes, one.failures) for one in status]}")
        assert sum(one.picks for one in status) == total["attempts"]
        assert [one.in_flight for one in status] == [0] * len(fleet)
        assert pool._in_flight == 0
        assert pool.queue is not None
        assert len(pool.queue) == 0
        for opened, idle in transport.connections().values():
            assert opened == idle <= 12
    assert total["answered"] > 1000
