"""Connections while all that can goes wrong, and much data: short versions of `tests/soak/test_l4.py`."""

from __future__ import annotations

from contextlib import ExitStack

from tests.l4.backend import Backend
from tests.l4.fire import under_fire
from tests.l4.transfer import transfer


async def test_connections_to_backends_that_die_stall_and_reset_leave_nothing_behind() -> None:
    with ExitStack() as stack:
        backends = [stack.enter_context(Backend()) for _ in range(3)]
        fates = await under_fire(backends, total=400, at_once=60, seed=1)
    assert fates["e whole"] > 50
    assert fates["d whole"] > 10
    assert fates["f whole"] > 10


async def test_a_transfer_is_intact_and_takes_no_memory() -> None:
    with Backend() as backend:
        grown = await transfer(backend, 64)
    assert grown < 16
