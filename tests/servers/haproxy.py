"""The configuration of the tests' haproxy: a master and one worker; answers by itself, or passes on."""

from pathlib import Path

CONFIGURATION = """\
global
    maxconn 1000
    nbthread 1
    hard-stop-after 10s
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 60s
    timeout http-keep-alive {keep_alive_ms}ms
frontend test
    bind {bind}
    http-request return status 200 content-type text/plain string "{name}" if {{ path /whoami }}
    http-request return status 200 content-type text/plain string ok if {{ path /health }}
    http-request return status 404 content-type text/plain string 404 if {{ path /status/404 }}
    http-request return status 500 content-type text/plain string 500 if {{ path /status/500 }}
    http-request return status 502 content-type text/plain string 502 if {{ path /status/502 }}
    http-request return status 503 content-type text/plain string 503 if {{ path /status/503 }}
    {otherwise}
"""

_ITSELF = """\
http-request return status 200 content-type application/json lf-string \
'{{"server": "{name}", "path": "%HP"}}'
"""
_PASSED_ON = """\
default_backend upstream
backend upstream
    server app {upstream}
"""


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
    """Write haproxy.cfg, and the certificate as haproxy wants it, into `directory`; return the configuration's path."""
    bind = f"unix@{uds}" if uds else f"{host}:{port}"
    if cert and key:
        both = directory / "both.pem"
        both.write_text(Path(cert).read_text() + Path(key).read_text())
        both.chmod(0o600)
        bind += f" ssl crt {both} alpn {'h2,' if http2 else ''}http/1.1"
    elif http2:
        bind += " proto h2"
    otherwise = _ITSELF.format(name=name) if upstream is None else _PASSED_ON.format(upstream=upstream)
    path = directory / "haproxy.cfg"
    path.write_text(
        CONFIGURATION.format(
            bind=bind, name=name, keep_alive_ms=round(keep_alive * 1000), otherwise=otherwise
        )
    )
    return path
