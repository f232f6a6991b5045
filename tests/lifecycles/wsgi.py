"""A WSGI app that is loaded before gunicorn forks, and asks its backends (BACKENDS) with one sync client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import httpx

from lbclient import BalancedTransport, HttpProbe, Pool

pool = Pool(
    os.environ["BACKENDS"].split(),
    algorithm="round_robin",
    probe=HttpProbe("/health", interval=1, timeout=1),
)
http = httpx.Client(transport=BalancedTransport(pool), base_url="http://orders")
http.get("/whoami")  # it has a connection, a prober and a place in the rotation when it is forked


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Which worker it is, which dice it rolls, and who answered it."""
    name = http.get("/whoami").text
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {pool.seed} {name}".encode()]
