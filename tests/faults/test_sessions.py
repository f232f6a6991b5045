"""Sessions on real servers: nobody moves who need not. The long version is in tests/soak."""

from __future__ import annotations

from tests.conftest import SharedServers
from tests.faults.sessions import sessions_stay


async def test_clients_stay_where_they_are_and_only_those_of_a_backend_that_left_move_once(
    servers: SharedServers,
) -> None:
    await sessions_stay(servers("uvicorn"), count=40, times=12, rounds=3)
