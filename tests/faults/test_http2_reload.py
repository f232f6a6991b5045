"""Real servers that are reloaded under load, over HTTP/2 in TLS: they answer everything, so nothing may fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport, Connect
from tests.conftest import StartServer
from tests.servers import CertFiles, free_port

if TYPE_CHECKING:
    import trustme

RELOADS = 3
WORKERS = 12

NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_buffer_size 256k;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location / {{ proxy_pass {upstream}; }}
    }}
}}
"""

HAPROXY = """\
global
    stats socket {directory}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend in
    bind 127.0.0.1:{port} ssl crt {directory}/both.pem alpn h2,http/1.1
    default_backend app
backend app
    server one {upstream_place}
"""


class Reloading:
    """A proxy in front of the tests' application, which can be told to start again without losing anything."""

    def __init__(self, kind: str, directory: Path, tls: CertFiles, upstream: str) -> None:
        self.port = free_port()
        program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip(f"{kind} is not installed")
        (directory / "both.pem").write_text(Path(tls.cert).read_text() + Path(tls.key).read_text())
        path = directory / "configuration"
        path.write_text(
            (NGINX if kind == "nginx" else HAPROXY).format(
                directory=directory,
                port=self.port,
                cert=tls.cert,
                key=tls.key,
                upstream=upstream,
                upstream_place=upstream.removeprefix("http://"),
            )
        )
        if kind == "nginx":
            command, self._reload = [program, "-c", str(path), "-e", "stderr"], signal.SIGHUP
        else:
            command, self._reload = [program, "-W", "-f", str(path)], signal.SIGUSR2
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def reload(self) -> None:
        self._process.send_signal(self._reload)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def reloading(
    start_server: StartServer, server_cert_files: CertFiles, tmp_path: Path
) -> Iterator[Callable[[str], Reloading]]:
    started: list[Reloading] = []

    def start(kind: str) -> Reloading:
        started.append(Reloading(kind, tmp_path, server_cert_files, start_server("uvicorn").url))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_a_graceful_reload_fails_nothing(
    reloading: Callable[[str], Reloading], ca: trustme.CA, kind: str
) -> None:
    """Slow answers are under way whenever it happens; POSTs too, which nobody may send twice.

    A request that crosses the GOAWAY on its way is not processed, and says so: that one is not counted as failed."""
    proxy = reloading(kind)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    transport = AsyncBalancedTransport([proxy.url], connect=Connect(http2=True, verify=context))
    answered = 0
    failed: list[str] = []
    reloaded = False

    async def work(http: httpx.AsyncClient, posts: bool) -> None:
        nonlocal answered
        while not reloaded:
            try:
                if posts:
                    response = await http.post("/echo", content=b"x" * 40_000)
                else:
                    response = await http.get("/slow?seconds=0.2")
                assert (response.status_code, response.http_version) == (200, "HTTP/2")
                answered += 1
            except httpx.HTTPError as exc:
                if str(exc).startswith("not processed"):
                    continue
                failed.append(repr(exc))

    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
        with anyio.fail_after(20):
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    await http.get("/whoami")
                    break
                await anyio.sleep(0.05)
        async with anyio.create_task_group() as group:
            for index in range(WORKERS):
                group.start_soon(work, http, index % 3 == 0)
            for _ in range(RELOADS):
                await anyio.sleep(0.5)
                proxy.reload()
            await anyio.sleep(0.7)
            reloaded = True
    assert failed == []
    assert answered > 50
