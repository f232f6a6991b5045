"""Real servers on loopback for the benchmarks.

Each backend is an nginx of its own with one worker and keep-alive that does not run out, so that what is measured is
the client. Configuration and logs live in a temporary directory.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.servers import executable, free_ports, running
from benchmarks.workloads import MIB, WORKLOADS, Scene

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from benchmarks.workloads import Workload

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
  client_max_body_size 0; client_body_buffer_size 2m;
  keepalive_timeout 300s;
  keepalive_requests 100000000;
  tcp_nodelay on; sendfile on;
  default_type text/plain;
  server {{
    listen 127.0.0.1:{port}{options} backlog=4096;
    {certificate}
    location / {{ return 200 '{name} ok'; }}
    location = /large {{ root {home}; }}
    location = /upload {{  # `return` would not wait for the body
      proxy_pass http://unix:{home}/{name}.sock:/; proxy_pass_request_body off; proxy_set_header Content-Length "";
    }}
  }}
  server {{ listen unix:{home}/{name}.sock; location / {{ return 200 '{name} ok'; }} }}
}}
"""
CERTIFICATE = "ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/key.pem;"


def nginx() -> str:
    return executable("nginx", "apt install nginx-light, or brew install nginx")


def nginx_version() -> str:
    """What `nginx -v` says, for the report."""
    said = subprocess.run([nginx(), "-v"], capture_output=True, text=True, check=True).stderr
    return said.partition("nginx/")[2].split()[0]


@contextmanager
def fleet(workload: Workload = WORKLOADS["small"], count: int = 3) -> Iterator[Scene]:
    """So many backends for a workload, until the block ends.

    Raises `SystemExit` with what to install when nginx is missing, `RuntimeError` with its log when one does not
    come up.
    """
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbclient-benchmarks-")))
        home.chmod(0o755)  # under root the workers are nobody
        ports = free_ports(count)
        if workload.delay:
            command = [sys.executable, "-m", "benchmarks.delayed", str(workload.delay), *map(str, ports)]
            stack.enter_context(running(command, ports, home / "delayed.log"))
            yield Scene(workload, tuple(f"http://127.0.0.1:{port}" for port in ports))
            return
        (home / "large").write_bytes(bytes(MIB))
        context = _certificate(home) if workload.tls else None
        options = (" ssl" if workload.tls else "") + (" http2" if workload.http2 else "")
        certificate = CERTIFICATE.format(home=home) if workload.tls else ""
        for number, port in enumerate(ports, 1):
            name = f"b{number}"
            config = home / f"{name}.conf"
            config.write_text(
                CONFIG.format(home=home, name=name, port=port, options=options, certificate=certificate)
            )
            command = [nginx(), "-p", str(home), "-e", f"{name}.log", "-c", str(config)]
            stack.enter_context(running(command, [port], home / f"{name}.out"))
        scheme = "https" if workload.tls else "http"
        yield Scene(workload, tuple(f"{scheme}://127.0.0.1:{port}" for port in ports), context)


def _certificate(home: Path) -> ssl.SSLContext:
    """Write a certificate for the backends; a context that trusts it."""
    import ssl

    import trustme

    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(home / "key.pem"))
    with (home / "cert.pem").open("wb") as file:
        file.writelines(blob.bytes() for blob in issued.cert_chain_pems)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context
