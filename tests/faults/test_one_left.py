"""One healthy backend of four: whatever is wrong with the others, no idempotent request fails, no other is done twice.

Some hundred requests of what tests/soak/test_faults.py does with a hundred thousand, over each wire on one event loop.
"""

from __future__ import annotations

import random

import pytest
from tenacity import stop_after_attempt
from trustme import CA

from tests.conftest import MakeRawServer, StartServer
from tests.faults.mischief import MISCHIEF, one_left_of_four, three_victims
from tests.faults.wires import WIRES, Wire
from tests.servers import CertFiles
from tests.servers.raw import respond

# httpx's generator over a body that was cut short is left to the garbage collector, which trio tells of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.mark.parametrize(
    ("anyio_backend", "wire"), list(zip(["asyncio", "trio", "trio", "asyncio"], WIRES, strict=True)), ids=str
)
async def test_no_idempotent_request_fails_and_no_other_is_carried_out_twice(
    start_server: StartServer,
    raw_server: MakeRawServer,
    server_cert_files: CertFiles,
    ca: CA,
    wire: Wire,
    anyio_backend: str,
) -> None:
    fleet = [wire.start(start_server, server_cert_files, f"s{number}") for number in range(4)]
    overloaded = raw_server(respond(503), tls=wire.raw_tls(ca))
    kinds = random.Random(f"{wire} {anyio_backend}").sample(list(MISCHIEF), 6)
    with three_victims(fleet[1:], overloaded) as victims:
        ledger = await one_left_of_four(
            fleet[0],
            victims,
            wire.connect(ca),
            stop_after_attempt(4),
            requests=300,
            kinds=kinds,
            read_timeout=1,
        )
    print(f"\n{wire}: {kinds}: {dict(ledger.attempts)}, {ledger.open_ended} open-ended")
    assert not ledger.lost, ledger.lost[:3]
    ledger.check(fleet)
