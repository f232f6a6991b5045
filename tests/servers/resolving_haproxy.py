"""HAProxy that follows SRV records by itself, and tells which servers it has found."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from tests.servers.daemon import Daemon, program
from tests.servers.ports import free_port

_CONFIGURATION = """\
global
    nbthread 1
    stats socket {directory}/socket mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
resolvers dns
    nameserver named 127.0.0.1:{dns_port}
    accepted_payload_size 8192
    resolve_retries 3
    timeout resolve 200ms
    timeout retry 500ms
    hold valid 200ms
    hold obsolete 1s
    hold nx 1s
    hold other 1s
    hold refused 1s
    hold timeout 1s
frontend web
    bind 127.0.0.1:{port}
    default_backend shop
backend shop
    server-template shop 20 {name} resolvers dns resolve-prefer ipv4 init-addr none
"""


class ResolvingHaproxy(Daemon):
    """Follows the SRV records of a name.

    Args:
        name: The name.
        dns_port: Of the name server.
    """

    def __init__(self, name: str, dns_port: int) -> None:
        super().__init__(self._command_line, self._has_stats)
        text = _CONFIGURATION.format(directory=self.directory, dns_port=dns_port, port=free_port(), name=name)
        (self.directory / "haproxy.cfg").write_text(text)

    def _command_line(self, directory: Path) -> Sequence[str]:
        haproxy = program("haproxy")
        assert haproxy is not None
        return [haproxy, "-db", "-f", str(directory / "haproxy.cfg")]

    def _has_stats(self) -> bool:
        self.servers()
        return True

    def servers(self) -> set[str]:
        """The (address:port)s that it has, those in maintenance left out."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.directory / "socket"))
            connection.sendall(b"show servers state shop\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        _version, names, *rows = answer.decode().strip().splitlines()
        fields = names.lstrip("# ").split()
        found = [dict(zip(fields, row.split(), strict=False)) for row in rows]
        return {
            f"{row['srv_addr']}:{row['srv_port']}" for row in found if row["srv_addr"] not in ("-", "0.0.0.0")
        }
