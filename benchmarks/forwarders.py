"""Who forwards connections: HAProxy in TCP mode, nginx's stream module, lbclient, and what one writes in ten minutes.

python -m benchmarks.forwarders lbclient PORT HOST:PORT ...      # serves until it is terminated
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.abc

from benchmarks.backends import nginx
from benchmarks.servers import executable, free_ports, running

HAPROXY = """\
global
  nbthread 1
  maxconn 8000
defaults
  mode tcp
  timeout connect 2s
  timeout client 300s
  timeout server 300s
frontend front
  bind 127.0.0.1:{port} backlog 4096
  default_backend fleet
backend fleet
  balance leastconn
{servers}
"""
NGINX = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1;
worker_rlimit_nofile 16384;
daemon off;
pid proxy.pid;
error_log proxy.log;
events {{ worker_connections 8192; multi_accept on; }}
stream {{
  upstream fleet {{ least_conn; {servers} }}
  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass fleet; tcp_nodelay on; }}
}}
"""


def _haproxy(home: Path, port: int, backends: Sequence[str]) -> list[str]:
    config = home / "haproxy.cfg"
    lines = "\n".join(f"  server b{number} {each}" for number, each in enumerate(backends))
    config.write_text(HAPROXY.format(port=port, servers=lines))
    return [executable("haproxy", "apt install haproxy"), "-db", "-f", str(config)]


def _nginx(home: Path, port: int, backends: Sequence[str]) -> list[str]:
    config = home / "nginx.conf"
    config.write_text(NGINX.format(port=port, servers=" ".join(f"server {each};" for each in backends)))
    return [nginx(), "-p", str(home), "-e", "proxy.log", "-c", str(config)]


def _python(name: str) -> Callable[[Path, int, Sequence[str]], list[str]]:
    return lambda home, port, backends: [
        sys.executable, "-m", "benchmarks.forwarders", name, str(port), *backends,
    ]  # fmt: skip


FORWARDERS: dict[str, Callable[[Path, int, Sequence[str]], list[str]]] = {
    "haproxy": _haproxy,
    "nginx": _nginx,
    "lbclient": _python("lbclient"),
    "lbclient, uvloop": _python("lbclient-uvloop"),
    "lbclient, trio": _python("lbclient-trio"),
    "anyio streams": _python("streams"),
}


@contextmanager
def forwarder(name: str, backends: Sequence[str]) -> Iterator[tuple[int, int]]:
    """One of `FORWARDERS` in front of `backends`, until the block ends: its port and its pid."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="lbclient-benchmarks-")))
        home.chmod(0o755)
        [port] = free_ports(1)
        command = FORWARDERS[name](home, port, backends)
        yield port, stack.enter_context(running(command, [port], home / "out.log"))


async def _serve_streams(port: int, backends: Sequence[str]) -> None:
    """Two tasks to a connection, over anyio's streams."""
    turns = cycle(backends)

    async def copy(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream) -> None:
        async for data in source:
            await sink.send(data)
        await sink.send_eof()

    async def forward(client: anyio.abc.SocketStream) -> None:
        host, _, number = next(turns).partition(":")
        try:
            connecting = anyio.connect_tcp(host, int(number))
            async with client, await connecting as backend, anyio.create_task_group() as group:
                group.start_soon(copy, client, backend)
                group.start_soon(copy, backend, client)
        except* anyio.BrokenResourceError:
            pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port, backlog=4096)
    await listener.serve(forward)


async def _serve_lbclient(port: int, backends: Sequence[str]) -> None:
    from lbclient import Pool
    from lbclient.l4 import TCPForwarder

    pool = Pool([f"tcp://{each}" for each in backends], algorithm="least_connections")
    await TCPForwarder(pool, "127.0.0.1", port).serve()


def main() -> None:
    name, port, *backends = sys.argv[1:]
    serve = _serve_streams if name == "streams" else _serve_lbclient
    loop = name.partition("-")[2]
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    anyio.run(
        serve, int(port), backends, backend="trio" if loop == "trio" else "asyncio", backend_options=options
    )


if __name__ == "__main__":
    main()
