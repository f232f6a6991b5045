"""A real HTTP server in a process group of its own, which tests may kill, suspend and restart."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.commands import CertFiles, Kind, Setup, command
from tests.servers.ports import free_port

READY_WITHIN = 20.0
STOP_WITHIN = 5.0
RELOADS: dict[Kind, signal.Signals] = {"nginx": signal.SIGHUP, "haproxy": signal.SIGUSR2}
"""Who can reload without losing a request, and the signal to its master process."""
ROOT = Path(__file__).resolve().parents[2]

_running: "weakref.WeakSet[Server]" = weakref.WeakSet()


def start(
    kind: Kind = "uvicorn",
    *,
    app: str = "tests.servers.app:app",
    name: str | None = None,
    port: int = 0,
    uds: str | None = None,
    keep_alive: float = 60.0,
    tls: CertFiles | None = None,
    http2: bool = False,
    upstream: str | None = None,
    env: Mapping[str, str] | None = None,
) -> "Server":
    """Start a server and return when it answers.

    Args:
        kind: which server; nginx and haproxy ignore `app` and answer by themselves, see `tests/servers/nginx.py`.
        app: the ASGI application, as `module:attribute`.
        name: what `/` and `/whoami` answer; the kind and the port when left out.
        port: 0 takes a free one.
        uds: listen on this Unix socket instead of a port.
        keep_alive: seconds an idle connection is kept (granian has no such limit and ignores it).
        tls: serve https with these files.
        http2: nginx, haproxy: HTTP/2 (over TLS by ALPN; without TLS they then speak *only* HTTP/2).
            hypercorn and granian always offer it; uvicorn cannot.
        upstream: nginx, haproxy: the URL of a server to which they pass what they do not answer by themselves.
        env: more environment variables.
    """
    server = Server(
        kind,
        app=app,
        name=name,
        port=port or free_port(),
        uds=uds,
        keep_alive=keep_alive,
        tls=tls,
        http2=http2,
        upstream=upstream,
        env=env or {},
    )
    for attempt in range(3):
        try:
            server.start()
            break
        except ServerDied:
            if port or uds or attempt == 2:
                server.close()
                raise
            server.port = free_port()  # somebody took it between our look and the server's bind
    return server


class ServerDied(RuntimeError):
    """The process ended, or never answered; the message holds its output."""


class Server:
    """One server process group. A context manager; `close()` leaves neither processes nor files behind."""

    def __init__(
        self,
        kind: Kind,
        *,
        app: str,
        name: str | None,
        port: int,
        uds: str | None,
        keep_alive: float,
        tls: CertFiles | None,
        http2: bool,
        upstream: str | None,
        env: Mapping[str, str],
    ) -> None:
        self.kind = kind
        self.host = "127.0.0.1"
        self.port = port
        self.uds = uds
        self._app = app
        self._name = name
        self._keep_alive = keep_alive
        self._tls = tls
        self._http2 = http2
        self._upstream = upstream
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="lbclient-test-"))
        self._suspended = False

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "down"
        return f"<Server {self.kind} {self.uds or self.url} {state}>"

    @property
    def name(self) -> str:
        """What the server calls itself in its answers."""
        return self._name or f"{self.kind}-{self.port}"

    @property
    def url(self) -> str:
        """The origin, without a trailing slash. TLS servers are `localhost`, as their certificate says."""
        if self._tls:
            return f"https://localhost:{self.port}"
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the group's leader."""
        if self._process is None:
            raise RuntimeError(f"{self.kind} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives (a suspended one does)."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What the server printed so far."""
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start on the same port and wait until it answers."""
        if self.running:
            raise RuntimeError(f"{self!r} is already running")
        if self.uds:
            Path(self.uds).unlink(missing_ok=True)
        env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
        env |= {"NAME": self.name, "PYTHONUNBUFFERED": "1"} | self._env
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=env,
                start_new_session=True,
            )
        _running.add(self)
        self._wait_until_ready()

    def kill(self) -> None:
        """SIGKILL to the whole group: connections are reset or closed by the kernel, nothing is said."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as a deployment would; SIGKILL after some seconds."""
        self._end(signal.SIGTERM)

    def suspend(self) -> None:
        """SIGSTOP: the kernel still accepts connections, nobody answers."""
        self._signal(signal.SIGSTOP)
        self._suspended = True

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self._suspended = False

    def reload(self) -> None:
        """nginx, haproxy: a new worker takes over; the old one finishes what it has and closes what is idle.

        Returns when the new one is there. HAProxy's master loses a signal that comes while it executes itself anew
        for the one before, so it is told again.
        """
        before = self._children()
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline and self.running:
            os.kill(self.pid, RELOADS[self.kind])
            again = time.monotonic() + 2
            while time.monotonic() < again:
                if self._children() - before:
                    return
                time.sleep(0.005)
        raise ServerDied(f"{self.kind} did not reload:\n{self.log()}")

    def _children(self) -> set[str]:
        return set(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())

    def restart(self) -> None:
        """Kill it if it lives, then start again on the same port."""
        if self.running:
            self.kill()
        self.start()

    def reset(self) -> None:
        """Make the application healthy again and its count zero; start the server if it is down."""
        if self._suspended:
            self.resume()
        if not self.running:
            self.start()
        if self.kind not in RELOADS:
            self._ask("POST", "/reset")

    def count(self) -> int:
        """How many requests the application has served (not nginx or haproxy); `/health` and this do not count."""
        _, body = self._ask("GET", "/count")
        return int(json.loads(body)["count"])

    def close(self) -> None:
        """End the processes and remove the temporary directory."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _command(self) -> list[str]:
        return command(
            Setup(
                kind=self.kind,
                app=self._app,
                name=self.name,
                host=self.host,
                port=self.port,
                uds=self.uds,
                keep_alive=self._keep_alive,
                tls=self._tls,
                http2=self._http2,
                upstream=self._upstream,
                directory=self._directory,
            )
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            if not self.running:
                code = self._process.returncode if self._process else None
                raise ServerDied(f"{self.kind} on {self.uds or self.port} ended with {code}:\n{self.log()}")
            try:
                if self._http2 and not self._tls:
                    self._connect().close()  # speaks no HTTP/1.1 to ask in
                else:
                    self._ask("GET", "/health", timeout=1.0)
            except (OSError, ValueError):
                time.sleep(0.02)
            else:
                if self.running:  # and not somebody else on the port
                    return
        self.kill()
        raise ServerDied(f"{self.kind} on {self.uds or self.port} did not answer:\n{self.log()}")

    def _connect(self, timeout: float = 5.0) -> socket.socket:
        if self.uds:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(timeout)
                connection.connect(self.uds)
            except BaseException:
                connection.close()
                raise
        else:
            connection = socket.create_connection((self.host, self.port), timeout)
        if not self._tls:
            return connection
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(connection)  # closes the socket when the handshake fails

    def payments(self) -> dict[str, int]:
        """How often each `/pay/NAME` was carried out (not nginx or haproxy)."""
        _, body = self._ask("GET", "/payments")
        return {str(name): int(times) for name, times in json.loads(body).items()}

    def _ask(self, method: str, target: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """One request on its own connection, without an HTTP library that a test might be testing."""
        with self._connect(timeout) as connection:
            head = f"{method} {target} HTTP/1.1\r\nhost: {self.host}\r\nconnection: close\r\n"
            connection.sendall((head + "content-length: 0\r\n\r\n").encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        top, _, body = answer.partition(b"\r\n\r\n")
        if not top.startswith(b"HTTP/1.1 "):
            raise ValueError(f"not an answer: {answer[:80]!r}")
        if b"transfer-encoding: chunked" in top.lower():
            body = _dechunk(body)
        return int(top.split(b" ", 2)[1]), body

    def _signal(self, number: signal.Signals) -> None:
        if not self.running:
            raise RuntimeError(f"{self!r} is not running")
        os.killpg(self.pid, number)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        group = process.pid
        if process.poll() is None:
            os.killpg(group, number)
            if self._suspended:
                os.killpg(group, signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_WITHIN)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)  # workers that outlived their parent
        process.wait()
        _wait_until_gone(group)
        self._suspended = False
        self._process = None
        _running.discard(self)


def _dechunk(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        out += rest[:length]
        body = rest[length + 2 :]
    return out


def _wait_until_gone(group: int, within: float = STOP_WITHIN) -> None:
    """Wait for grandchildren too: as long as one lives, it may still hold the port."""
    deadline = time.monotonic() + within
    while _alive(group) and time.monotonic() < deadline:
        time.sleep(0.005)


def _alive(group: int) -> bool:
    """Whether a process of the group still runs. Orphaned zombies do not count: init may take its time."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    for stat in stats:
        with contextlib.suppress(OSError):
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state not in "ZX":
                return True
    return not stats  # no /proc: believe the signal


@atexit.register
def _close_all() -> None:
    for server in list(_running):
        server.close()
