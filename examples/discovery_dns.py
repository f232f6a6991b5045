"""Discovery: SRV records of a real name server, which change. Needs bind9 (named, nsupdate) and dnspython."""

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
from _programs import free_port, program, running
from _servers import Server, fleet

from lbclient import AsyncBalancedTransport
from lbclient.discovery import Dns

CONFIGURATION = """\
options {{ directory "{folder}"; pid-file none; session-keyfile "{folder}/key"; recursion no;
          listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; dnssec-validation no; }};
controls {{ }};
zone "shop.test" {{ type primary; file "{folder}/zone"; allow-update {{ 127.0.0.1; }}; }};
"""
ZONE = """\
$TTL 1
@ IN SOA ns admin 1 60 60 600 1
@ IN NS ns
ns IN A 127.0.0.1
host IN A 127.0.0.1
"""


def announce(port: int, servers: list[Server]) -> None:
    """Have the SRV records name these servers: in one transaction, so nobody sees half of it."""
    name = "_http._tcp.shop.test"
    lines = [f"server 127.0.0.1 {port}", "zone shop.test", f"update delete {name} SRV"]
    lines += [f"update add {name} 1 SRV 0 1 {server.server_port} host.shop.test." for server in servers]
    command = [program("nsupdate", "bind9-dnsutils")]
    subprocess.run(command, input="\n".join([*lines, "send", ""]), text=True, check=True)


def written(folder: str, port: int) -> str:
    """The configuration of the name server, and its zone."""
    configuration = Path(folder, "named.conf")
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port))
    Path(folder, "zone").write_text(ZONE)
    return str(configuration)


async def main() -> None:
    named, port = program("named", "bind9"), free_port()
    with (
        fleet("alpha", "beta", "gamma") as servers,
        tempfile.TemporaryDirectory() as folder,
        running([named, "-f", "-n", "1", "-c", written(folder, port)], port),
    ):
        announce(port, servers[:2])
        source = Dns("_http._tcp.shop.test", nameservers=[f"127.0.0.1:{port}"])
        transport = AsyncBalancedTransport(source, algorithm="round_robin")
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await transport.wait_until_ready()
            print("at first:", {(await client.get("/")).text.split()[0] for _ in range(20)})
            announce(port, servers[1:])
            changed = time.monotonic()
            pool = transport.pools["default"]
            while servers[2].url not in {backend.url for backend in pool.declared}:
                await asyncio.sleep(0.05)
            took = time.monotonic() - changed
            names = {(await client.get("/")).text.split()[0] for _ in range(20)}
            print(f"{took:.1f} s after the change, at a TTL of 1 s:", names)
            assert names == {"beta", "gamma"}


asyncio.run(main())
