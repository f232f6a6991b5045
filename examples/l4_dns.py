"""Layer 4 over UDP: real DNS servers behind a `UDPForwarder`. One of them stops, and no question goes unanswered.

Needs named (Debian, Ubuntu: apt install bind9). Starts two, on free ports; each says its own name in a TXT record.
"""

import asyncio
import socket
import struct
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from _programs import free_port, program, running

from lbclient import Pool, l4

CONFIGURATION = """\
options {{
    directory "{home}"; pid-file "{home}/pid"; session-keyfile "{home}/key";
    listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no;
}};
controls {{ }};
zone "shop.test" {{ type master; file "{home}/zone"; }};
"""
ZONE = """\
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 127.0.0.1
who TXT "{name}"
"""


def ask(port: int, name: str) -> str:
    """The first TXT record of a name (RFC 1035)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = labels + b"\0" + struct.pack("!HH", 16, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        client.send(struct.pack("!HHHHHH", 4711, 0, 1, 0, 0, 0) + question)
        answer = client.recv(4096)
    record = answer[12 + len(question) + 12 :]  # a pointer to the name, type, class, TTL, length
    return record[1 : 1 + record[0]].decode()


def configure(home: Path, name: str, port: int) -> list[str]:
    """What named needs, in its own directory; its command line."""
    (home / "zone").write_text(ZONE.format(name=name))
    (home / "named.conf").write_text(CONFIGURATION.format(home=home, port=port))
    return [program("named", "bind9"), "-g", "-c", str(home / "named.conf")]


async def main() -> None:
    program("named", "bind9")
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        processes = []
        for name, port in zip(("alpha", "beta"), ports, strict=True):
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            processes.append(stack.enter_context(running(configure(home, name, port), port)))
        pool = Pool([f"udp://127.0.0.1:{port}" for port in ports], algorithm="round_robin")
        # One answer ends a session: whoever asks next from the same port may get another server.
        async with l4.UDPForwarder(pool, "127.0.0.1", 0, responses=1) as forwarder:

            def ask_often() -> Counter[str]:
                return Counter(ask(forwarder.port, "who.shop.test") for _ in range(20))

            print("20 questions:", await asyncio.to_thread(ask_often))
            processes[0].terminate()
            processes[0].wait()
            names = await asyncio.to_thread(ask_often)
            print("20 more, one server down:", names)
            assert names == {"beta": 20}
        print(pool.status().backends[0].why)


asyncio.run(main())
