"""Traefik: a reverse proxy whose clients tell whether our doubles of Kubernetes and Consul are like the real ones."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers.daemon import Daemon
from tests.servers.ports import free_port


class Traefik(Daemon):
    """Listens on a free port.

    Args:
        options: Command line options that say where its routes come from.
    """

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        super().__init__(self._command_line, self._listens)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command_line(self, directory: Path) -> Sequence[str]:
        return [
            str(Path(sys.executable).parent / "traefik"),
            f"--entrypoints.web.address=127.0.0.1:{self.port}",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=ERROR",
            "--providers.providersthrottleduration=50ms",
            *self._options,
        ]

    def _listens(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), 1).close()
        return True
