"""BIND 9 on a free port, with one zone that takes dynamic updates."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.servers.daemon import Daemon, program
from tests.servers.ports import free_port

ZONE = "shop.test"
TTL = 1

_CONFIGURATION = """\
options {{
    directory "{directory}";
    pid-file none;
    session-keyfile "{directory}/session.key";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    notify no;
    max-udp-size 1232;
}};
controls {{ }};
zone "{zone}" {{
    type primary;
    file "{directory}/zone";
    allow-update {{ 127.0.0.1; }};
}};
"""
_EMPTY_ZONE = f"""\
$TTL {TTL}
@ IN SOA ns.{ZONE}. admin.{ZONE}. 1 60 60 600 1
@ IN NS ns.{ZONE}.
ns IN A 127.0.0.1
"""


class Named(Daemon):
    """Serves `shop.test` on 127.0.0.1."""

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__(self._command_line, self._answers)
        text = _CONFIGURATION.format(directory=self.directory, port=self.port, zone=ZONE)
        (self.directory / "named.conf").write_text(text)
        (self.directory / "zone").write_text(_EMPTY_ZONE)

    def _command_line(self, directory: Path) -> Sequence[str]:
        named = program("named")
        assert named is not None
        return [named, "-f", "-g", "-n", "1", "-c", str(directory / "named.conf")]

    def _answers(self) -> bool:
        """A query for the zone's SOA, by hand: the library that tests of it use is under test itself."""
        name = b"".join(bytes([len(label)]) + label.encode() for label in ZONE.split(".")) + b"\0"
        query = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + name + struct.pack(">2H", 6, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.settimeout(0.3)
            connection.connect(("127.0.0.1", self.port))
            connection.send(query)
            answer = connection.recv(2000)
        flags, answers = struct.unpack(">H2xH", answer[2:8])
        return bool(flags & 0xF == 0 and answers == 1)

    def update(self, *changes: str) -> None:
        """Carry out changes as nsupdate writes them ("add", "delete"), all of them at once or none."""
        script = "\n".join(
            [
                f"server 127.0.0.1 {self.port}",
                f"zone {ZONE}",
                *(f"update {change}" for change in changes),
                "send",
                "",
            ]
        )
        nsupdate = program("nsupdate")
        assert nsupdate is not None
        result = subprocess.run([nsupdate], input=script, capture_output=True, text=True, timeout=20)
        assert result.returncode == 0, result.stderr + script

    def addresses(self, name: str, addresses: Iterable[str], ttl: int = TTL) -> None:
        """Have a name stand for exactly these addresses."""
        records = [
            f"add {name}.{ZONE} {ttl} {'AAAA' if ':' in address else 'A'} {address}" for address in addresses
        ]
        self.update(f"delete {name}.{ZONE} A", f"delete {name}.{ZONE} AAAA", *records)


@pytest.fixture
def named() -> Iterable[Named]:
    """A name server of this test's own."""
    if program("named") is None or program("nsupdate") is None:
        pytest.skip("bind9 is not installed")
    with Named() as server:
        yield server
