"""The demo's servers as processes: started, killed without warning, started again on the same port, ended."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress

import anyio

FIRST_PORT, LAST_PORT = 18_000, 32_000
"""Below the ephemeral ranges: no outgoing connection takes the port of a killed server."""
READY_WITHIN = 30.0
STOP_WITHIN = 3.0


class ServerDied(Exception):
    """A server ended, or did not begin, although nobody wanted it to."""


class DemoServer:
    """One server, on a port that stays its own.

    Args:
        name: What it says hello with.
        latency: Seconds that it takes to answer, about.
    """

    def __init__(self, name: str, latency: float) -> None:
        self.name = name
        self.latency = latency
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        running = self._process is not None and self._process.poll() is None
        return f"<DemoServer {self.name} on {self.port}, {'running' if running else 'not running'}>"

    def start(self) -> None:
        """Begin, in a session of its own: a Ctrl-C is the demo's to handle."""
        command = [sys.executable, "-m", "lbclient.demo.server", self.name, str(self.latency), str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603  # ours

    async def ready(self) -> None:
        """Return when it accepts connections.

        Raises:
            ServerDied: It ended instead, or took longer than half a minute.
        """
        assert self._process is not None
        with anyio.move_on_after(READY_WITHIN):
            while self._process.poll() is None:
                with suppress(OSError):
                    stream = await anyio.connect_tcp("127.0.0.1", self.port)
                    await stream.aclose()
                    return
                await anyio.sleep(0.02)
        raise ServerDied(f"server {self.name} did not come up on port {self.port}")

    def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._let_go()

    def ask_to_end(self) -> None:
        """Its standard input ends, and so does it."""
        self._let_go()

    def wait(self) -> None:
        """Return when it has ended; it is killed if it takes too long."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


@contextmanager
def started(latencies: Mapping[str, float]) -> Generator[tuple[DemoServer, ...], None, None]:
    """Servers by name and latency, on their way up; all have ended when the block has."""
    servers = tuple(DemoServer(name, latency) for name, latency in latencies.items())
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.ask_to_end()
        for server in servers:
            server.wait()


def _free_port() -> int:
    while True:
        port = random.SystemRandom().randrange(FIRST_PORT, LAST_PORT)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
