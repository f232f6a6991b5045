"""Real servers that die, hang, reload and close idle connections under load; `real_servers.py` says what has to hold.

Each of it on one event loop or the other: tests/soak/test_faults.py has the full matrix.
"""

from __future__ import annotations

import pytest
import trustme

from tests.conftest import StartServer
from tests.faults.real_servers import idle_timeouts_race, one_of_three_goes, the_only_server_reloads
from tests.servers import CertFiles, Kind

# httpx's generator over a body that was cut short is left to the garbage collector, which trio tells of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.mark.parametrize(
    ("anyio_backend", "what"), [("asyncio", "killed"), ("trio", "suspended"), ("asyncio", "stopped")]
)
async def test_one_of_three_goes_under_load(start_server: StartServer, what: str) -> None:
    await one_of_three_goes(start_server, what)


@pytest.mark.parametrize(
    ("anyio_backend", "kind", "over"),
    [
        ("asyncio", "nginx", "http1"),
        ("trio", "nginx", "http2"),
        ("trio", "haproxy", "tls"),
        ("asyncio", "haproxy", "http2"),
    ],
)
async def test_the_only_server_reloads_under_load(
    start_server: StartServer, kind: Kind, over: str, server_cert_files: CertFiles, ca: trustme.CA
) -> None:
    await the_only_server_reloads(start_server, kind, over, server_cert_files, ca, reloads=3)


@pytest.mark.parametrize(
    ("anyio_backend", "kind"),
    [
        ("asyncio", "uvicorn"),
        ("trio", "hypercorn"),
        ("asyncio", "hypercorn-trio"),
        ("trio", "nginx"),
        ("asyncio", "haproxy"),
    ],
)
async def test_an_idle_timeout_of_the_servers_that_is_the_clients_pause(
    start_server: StartServer, kind: Kind
) -> None:
    await idle_timeouts_race(start_server, kind, rounds=12)
