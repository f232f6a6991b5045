"""HAProxy and nginx as peers that speak the PROXY protocol, in front of the forwarder and behind it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from lbclient import Pool
from lbclient.l4 import TCPForwarder
from tests.conftest import MakeRawServer
from tests.l4.peers import dial, read_all, read_line, tcp
from tests.l4.test_tcp_forwarder import tell_header
from tests.servers import free_port

STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
needs_stream = pytest.mark.skipif(
    NGINX is None or not STREAM.exists(), reason="no nginx with a stream module"
)


@contextmanager
def running(command: Sequence[str | None], port: int) -> Iterator[int]:
    """The port of a proxy, once it listens."""
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    raise RuntimeError(process.communicate()[1].decode()) from None
                time.sleep(0.02)
            else:
                break
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def haproxy(home: Path, port: int, sections: str) -> Iterator[int]:
    defaults = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
    path = home / "haproxy.cfg"
    path.write_text(f"global\n  maxconn 100\n{defaults}{sections}")
    with running([HAPROXY, "-db", "-f", str(path)], port):
        yield port


@contextmanager
def nginx(home: Path, port: int, sections: str, before: str = "") -> Iterator[int]:
    user = "user root;" if os.geteuid() == 0 else ""  # or the worker could not read its directory
    path = home / "nginx.conf"
    path.write_text(
        f"{before} daemon off; worker_processes 1; {user} pid {home}/pid; error_log stderr warn;\n"
        f"events {{ worker_connections 100; }}\n{sections}"
    )
    with running([NGINX, "-p", str(home), "-c", str(path), "-e", "stderr"], port):
        yield port


def ask(port: int) -> tuple[str, int]:
    """What the server at the end says of us, and our own port."""
    with dial(port) as client:
        return read_line(client).decode(), client.getsockname()[1]


def get(port: int) -> tuple[str, int]:
    """The same of an HTTP server, that says it in a body."""
    with dial(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return read_all(client).decode().rpartition("\r\n\r\n")[2], client.getsockname()[1]


# In front


@needs_haproxy
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
async def test_behind_haproxy(raw_server: MakeRawServer, tmp_path: Path, version: str) -> None:
    """Its health checks come with a header as well, which names nobody."""
    pool = Pool([tcp(raw_server(tell_header))])
    trusted = ["127.0.0.0/8"]
    async with TCPForwarder(pool, "127.0.0.1", 0, accept_proxy=trusted, send_proxy="v1") as forwarder:

        def talk() -> None:
            port = free_port()
            server = f"server f 127.0.0.1:{forwarder.port} {version} check check-send-proxy inter 50ms"
            with haproxy(tmp_path, port, f"listen l\n  bind 127.0.0.1:{port}\n  {server}\n"):
                said, own = ask(port)
                assert said == f"127.0.0.1:{own} 127.0.0.1:{port} "
                time.sleep(0.2)

        await run_sync(talk)
        assert forwarder.stats.accepted > 2  # the checks


@needs_stream
async def test_behind_nginx(raw_server: MakeRawServer, tmp_path: Path) -> None:
    pool = Pool([tcp(raw_server(tell_header))])
    async with TCPForwarder(pool, "127.0.0.1", 0, accept_proxy=True, send_proxy="v2") as forwarder:

        def talk() -> None:
            port = free_port()
            server = f"listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{forwarder.port}; proxy_protocol on;"
            before = f"load_module {STREAM};"
            with nginx(tmp_path, port, f"stream {{ server {{ {server} }} }}", before):
                said, own = ask(port)
                assert said == f"127.0.0.1:{own} 127.0.0.1:{port} "

        await run_sync(talk)


# Behind


@needs_haproxy
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_before_haproxy(tmp_path: Path, version: Any) -> None:
    port = free_port()
    answer = (
        'http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] %[dst_port]"'
    )
    sections = f"frontend f\n  mode http\n  bind 127.0.0.1:{port} accept-proxy\n  {answer}\n"
    pool = Pool([f"tcp://127.0.0.1:{port}"])
    async with TCPForwarder(pool, "127.0.0.1", 0, send_proxy=version) as forwarder:

        def talk() -> None:
            with haproxy(tmp_path, port, sections):
                said, own = get(forwarder.port)
                assert said == f"127.0.0.1:{own} {forwarder.port}"

        await run_sync(talk)


@needs_nginx
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_before_nginx(tmp_path: Path, version: Any) -> None:
    port = free_port()
    answer = 'return 200 "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port";'
    temporary = " ".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    server = f"listen 127.0.0.1:{port} proxy_protocol; location / {{ {answer} }}"
    pool = Pool([f"tcp://127.0.0.1:{port}"])
    async with TCPForwarder(pool, "127.0.0.1", 0, send_proxy=version) as forwarder:

        def talk() -> None:
            with nginx(tmp_path, port, f"http {{ access_log off; {temporary} server {{ {server} }} }}"):
                said, own = get(forwarder.port)
                assert said == f"127.0.0.1:{own} {forwarder.port}"

        await run_sync(talk)
