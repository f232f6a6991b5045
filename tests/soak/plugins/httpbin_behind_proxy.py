"""A plugin for the test suites of others: their httpbin stands behind the reverse proxy."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from pytest_httpbin import certs, serve  # type: ignore[import-not-found]  # of the suite that loads this

from lbclient import Connect
from lbclient.asgi import ReverseProxy

_direct: Any = serve.Server.url
_proxies: dict[str, str] = {}


def _url(server: serve.Server) -> str:
    url: str = _direct.fget(server)
    if url not in _proxies:
        _proxies[url] = _proxy(url)
    return _proxies[url]


def _proxy(url: str) -> str:
    """The URL of a proxy, with TLS and the same certificate where the server has it."""
    secure = url.startswith("https")
    directory = Path(serve.CERT_DIR)
    files = (
        {"ssl_certfile": directory / "server.pem", "ssl_keyfile": directory / "server.key"} if secure else {}
    )
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.create_default_context(cafile=certs.where())
    app = ReverseProxy([url], connect=Connect(verify=context), preserve_host=True)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            log_level="critical",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            **files,  # type: ignore[arg-type]
        )
    )
    threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return f"http{'s' * secure}://127.0.0.1:{listener.getsockname()[1]}"


serve.Server.url = property(_url)
