"""100,000 requests, on both loops and over each wire, while all that can goes wrong with three of four backends."""

from __future__ import annotations

import anyio
import pytest
from tenacity import stop_after_attempt
from trustme import CA

from tests.conftest import MakeRawServer, StartServer
from tests.faults.ledger import Ledger
from tests.faults.mischief import MISCHIEF, one_left_of_four, three_victims
from tests.faults.wires import WIRES, Wire
from tests.servers import CertFiles
from tests.servers.raw import respond

IDEMPOTENT = 100_000
REQUESTS = IDEMPOTENT * 4 // 3 // len(WIRES) // 2  # a quarter are POSTs

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_one_left_of_four(
    start_server: StartServer,
    raw_server: MakeRawServer,
    server_cert_files: CertFiles,
    ca: CA,
    wire: Wire,
    loop: str,
) -> None:
    fleet = [wire.start(start_server, server_cert_files, f"s{number}") for number in range(4)]
    overloaded = raw_server(respond(503), tls=wire.raw_tls(ca))

    async def run() -> Ledger:
        return await one_left_of_four(
            fleet[0],
            victims,
            wire.connect(ca),
            stop_after_attempt(4),
            requests=REQUESTS,
            kinds=list(MISCHIEF),
            read_timeout=2,
        )

    with three_victims(fleet[1:], overloaded) as victims:
        ledger = anyio.run(run, backend=loop)
    print(
        f"\n{wire}, {loop}: {ledger.numbers} requests, {dict(ledger.attempts)}, {len(ledger.lost)} lost, "
        f"{ledger.open_ended} POSTs open-ended, {ledger.refused} refused"
    )
    assert not ledger.lost, ledger.lost[:3]
    ledger.check(fleet)
