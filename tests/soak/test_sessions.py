"""1,000 clients on one transport, 100 requests each: nobody moves, and after a removal only those who have to, once."""

from __future__ import annotations

import pytest

from tests.conftest import StartServer
from tests.faults.sessions import sessions_stay


@pytest.mark.timeout(900)
async def test_a_thousand_clients_stay(start_server: StartServer) -> None:
    fleet = [start_server("uvicorn", name=f"s{number}") for number in range(4)]
    print(f"\n{await sessions_stay(fleet, count=1000, times=100, rounds=4)}")
