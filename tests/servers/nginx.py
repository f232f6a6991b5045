"""The configuration of the tests' nginx: a master and one worker, one directory; answers by itself, or passes on."""

import os
from pathlib import Path

CONFIGURATION = """\
daemon off;
worker_processes 1;
{user}
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type text/plain;
    client_max_body_size 0;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_timeout {keep_alive_ms}ms;
    keepalive_requests 1000000;
    server {{
        listen {listen};
        {tls}
        location = /whoami {{ return 200 "{name}"; }}
        location = /health {{ return 200 "ok"; }}
        location = /status/204 {{ return 204; }}
        location = /status/404 {{ return 404 "404"; }}
        location = /status/500 {{ return 500 "500"; }}
        location = /status/502 {{ return 502 "502"; }}
        location = /status/503 {{ return 503 "503"; }}
        location = /redirect {{ return 302 $arg_to; }}
        location = /file {{ alias {directory}/file; }}
        location / {{ {otherwise} }}
    }}
}}
"""

_ITSELF = """default_type application/json; return 200 '{{"server": "{name}", "path": "$uri"}}';"""
_PASSED_ON = "proxy_http_version 1.1; proxy_pass http://{upstream};"

FILE_BYTES = 1 << 20
"""The size of what `GET /file` answers, for bodies larger than any buffer."""


def write_configuration(
    directory: Path,
    *,
    name: str,
    host: str,
    port: int,
    uds: str | None,
    keep_alive: float,
    cert: str | None,
    key: str | None,
    http2: bool,
    upstream: str | None,
) -> Path:
    """Write nginx.conf and the file it serves into `directory`; return the configuration's path."""
    listen = f"unix:{uds}" if uds else f"{host}:{port}"
    tls = ""
    if cert and key:
        listen += " ssl"
        tls = f"ssl_certificate {cert}; ssl_certificate_key {key};"
    if http2:
        listen += " http2"
    (directory / "file").write_bytes(b"x" * FILE_BYTES)
    path = directory / "nginx.conf"
    path.write_text(
        CONFIGURATION.format(
            directory=directory,
            name=name,
            listen=listen,
            tls=tls,
            keep_alive_ms=round(keep_alive * 1000),
            otherwise=(_ITSELF if upstream is None else _PASSED_ON).format(name=name, upstream=upstream),
            user="user root;" if os.geteuid() == 0 else "",  # or the worker could not read its directory
        )
    )
    return path
