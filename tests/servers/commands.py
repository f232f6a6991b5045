"""The command line of each kind of server, and the files that it needs."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tests.servers import haproxy, nginx

Kind = Literal["uvicorn", "hypercorn", "hypercorn-trio", "granian", "nginx", "haproxy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ASGI_KINDS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in ("nginx", "haproxy"))

_PYTHON = [sys.executable, "-W", "ignore"]
_RUN_UVICORN = "import json, sys, uvicorn; uvicorn.run(**json.loads(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class CertFiles:
    """A server's certificate chain and its key (PKCS#8), as PEM files."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a server is to run; see `tests.servers.start`."""

    kind: Kind
    app: str
    name: str
    host: str
    port: int
    uds: str | None
    keep_alive: float
    tls: CertFiles | None
    http2: bool
    upstream: str | None
    directory: Path


def available(kind: Kind) -> bool:
    """Whether this kind of server is installed."""
    return kind in ASGI_KINDS or _program(kind) is not None


def command(setup: Setup) -> list[str]:
    """Write what the server needs into its directory; return its command line."""
    if setup.kind == "uvicorn":
        return _uvicorn(setup)
    if setup.kind in ("hypercorn", "hypercorn-trio"):
        return _hypercorn(setup)
    if setup.kind == "granian":
        return _granian(setup)
    program = _program(setup.kind)
    if program is None:
        raise FileNotFoundError(f"{setup.kind} is not installed")
    tls, address = setup.tls, setup.upstream and setup.upstream.partition("://")[2]
    write = nginx.write_configuration if setup.kind == "nginx" else haproxy.write_configuration
    path = write(
        setup.directory,
        name=setup.name,
        host=setup.host,
        port=setup.port,
        uds=setup.uds,
        keep_alive=setup.keep_alive,
        cert=tls.cert if tls else None,
        key=tls.key if tls else None,
        http2=setup.http2,
        upstream=address,
    )
    if setup.kind == "nginx":
        return [program, "-p", str(setup.directory), "-c", str(path), "-e", "stderr"]
    return [program, "-W", "-db", "-f", str(path)]


def _uvicorn(setup: Setup) -> list[str]:
    options: dict[str, object] = {
        "app": setup.app,
        "log_level": "warning",
        "access_log": False,
        "timeout_keep_alive": setup.keep_alive,  # the command line takes whole seconds only
        "ws": "wsproto",
        "timeout_graceful_shutdown": 2,
    }
    options |= {"uds": setup.uds} if setup.uds else {"host": setup.host, "port": setup.port}
    if setup.tls:
        options |= {"ssl_certfile": setup.tls.cert, "ssl_keyfile": setup.tls.key}
    return [*_PYTHON, "-c", _RUN_UVICORN, json.dumps(options)]


def _hypercorn(setup: Setup) -> list[str]:
    configuration = setup.directory / "hypercorn.toml"
    # The command line takes whole seconds only, and after 1,000 requests hypercorn would leave an HTTP/2 connection
    # with a GOAWAY and its last answers unsaid.
    configuration.write_text(
        f"keep_alive_timeout = {setup.keep_alive:.3f}\nkeep_alive_max_requests = 1000000000\n"
    )
    command = [*_PYTHON, "-m", "hypercorn", setup.app, "--config", str(configuration), "--workers", "1"]
    command += ["--log-level", "warning", "--graceful-timeout", "1"]
    command += ["--bind", f"unix:{setup.uds}" if setup.uds else f"{setup.host}:{setup.port}"]
    command += ["--worker-class", "trio" if setup.kind == "hypercorn-trio" else "asyncio"]
    if setup.tls:
        command += ["--certfile", setup.tls.cert, "--keyfile", setup.tls.key]
    return command


def _granian(setup: Setup) -> list[str]:
    command = [*_PYTHON, "-m", "granian", setup.app, "--interface", "asgi", "--workers", "1"]
    command += ["--uds", setup.uds] if setup.uds else ["--host", setup.host, "--port", str(setup.port)]
    command += ["--log-level", "warning", "--no-access-log", "--workers-kill-timeout", "2"]
    if setup.tls:
        command += ["--ssl-certificate", setup.tls.cert, "--ssl-keyfile", setup.tls.key]
    return command


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
