"""Real servers on loopback for the benchmarks: they start here, and they end here.

Each backend is an nginx of its own with one worker, a body of a few bytes and keep-alive that does not run
out, so that what is measured is the client. Configuration and logs live in a temporary directory.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """\
worker_processes 1;
worker_rlimit_nofile 16384;
daemon off;
pid {name}.pid;
error_log {name}.log;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {name}_body; proxy_temp_path {name}_proxy; fastcgi_temp_path {name}_fastcgi;
  uwsgi_temp_path {name}_uwsgi; scgi_temp_path {name}_scgi;
  keepalive_timeout 300s;
  keepalive_requests 100000000;
  tcp_nodelay on;
  default_type text/plain;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{name} ok'; }} }}
}}
"""


def client_cpu() -> int | None:
    """The cpu the client is pinned to: the first one we may use. None where cpus cannot be chosen."""
    return min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def server_cpu() -> int | None:
    """The cpu the servers are pinned to: the last one we may use, the client's own if there is but one."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def pin_client(cpu: int | None) -> None:
    """Keep this process on `cpu`. Call it after the servers have started, or they inherit it."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def nginx_version() -> str:
    """What `nginx -v` says, for the report."""
    said = subprocess.run([_nginx(), "-v"], capture_output=True, text=True, check=True).stderr
    return said.partition("nginx/")[2].split()[0]


@contextmanager
def nginx_backends(count: int = 3) -> Iterator[tuple[str, ...]]:
    """Start `count` nginx servers on free loopback ports; yield their URLs; stop exactly those servers.

    Raises `SystemExit` with what to install when nginx is missing, `RuntimeError` with its log when one
    does not come up.
    """
    executable, cpu = _nginx(), server_cpu()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbclient-benchmarks-")))
        home.chmod(0o755)  # under root the workers are nobody
        ports = _free_ports(count)
        for number, port in enumerate(ports, 1):
            name = f"b{number}"
            config = home / f"{name}.conf"
            config.write_text(CONFIG.format(name=name, port=port))
            command = [executable, "-p", str(home), "-e", f"{name}.log", "-c", str(config)]
            # A group of their own: Ctrl-C reaches us first, and we stop them in order.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, preexec_fn=lambda: pin_client(cpu),
            )  # fmt: skip
            stack.callback(_stop, process)
            _wait_until_listening(process, port, home / f"{name}.log")
        yield tuple(f"http://127.0.0.1:{port}" for port in ports)


def _nginx() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if found is None:
        raise SystemExit(
            "the benchmarks need nginx as a backend: apt install nginx-light, or brew install nginx"
        )
    return found


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_listening(
    process: subprocess.Popen[bytes], port: int, log: Path, timeout: float = 10.0
) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(
        f"nginx on port {port} did not come up:\n{log.read_text() if log.exists() else '(no log)'}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
