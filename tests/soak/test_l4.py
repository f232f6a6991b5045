"""Layer 4 for minutes: 10,000 connections under fire, and a GiB each way."""

from __future__ import annotations

from contextlib import ExitStack

import anyio
import pytest

from tests.l4.backend import Backend
from tests.l4.fire import under_fire
from tests.l4.transfer import transfer

CONNECTIONS = 10_000
AT_ONCE = 1_000

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_ten_thousand_connections_under_fire_leave_nothing_behind(loop: str) -> None:
    with ExitStack() as stack:
        backends = [stack.enter_context(Backend()) for _ in range(4)]

        async def run() -> None:
            fates = await under_fire(backends, CONNECTIONS, AT_ONCE, seed=8)
            print(f"\n{loop}: {dict(sorted(fates.items()))}")
            assert fates["e whole"] > CONNECTIONS / 10

        _run(run, loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_gib_each_way_is_intact_and_takes_no_memory(loop: str) -> None:
    with Backend() as backend:

        async def run() -> None:
            grown = await transfer(backend, 1024)
            print(f"\n{loop}: grew by {grown:.1f} MiB")
            assert grown < 16

        _run(run, loop)


def _run(run: object, loop: str) -> None:
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    anyio.run(run, backend="trio" if loop == "trio" else "asyncio", backend_options=options)  # type: ignore[arg-type]
