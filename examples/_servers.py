"""Small real servers for the examples: three threads of the standard library's HTTP server, on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers every request with its name; `status` and `delay` (seconds) can be changed while it runs."""

    daemon_threads = True

    def __init__(self, name: str, port: int = 0, handler: type[BaseHTTPRequestHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", port), handler or _Handler)
        self.name = name
        self.status = 200
        self.delay = 0.0
        self.seen = 0
        self.hosts: set[str] = set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet
    server: Server

    def do_GET(self) -> None:  # http.server's name
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen += 1
        self.server.hosts.add(self.headers["Host"])
        time.sleep(self.server.delay)
        body = f"{self.server.name} {self.path}\n".encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # http.server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        pass


@contextmanager
def fleet(*names: str) -> Iterator[list[Server]]:
    """Servers of these names, stopped in the end."""
    servers = [Server(name) for name in names]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()
