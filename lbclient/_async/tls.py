"""The TLS context of a pool."""

from __future__ import annotations

import ssl

import httpx

from lbclient.core.connect import Connect
from lbclient.core.forking import new_lock


class OneContext:
    """Makes the pool's one `ssl.SSLContext` when somebody needs it: building one costs tens of milliseconds.

    Args:
        connect: What it trusts, and which protocols it offers.
    """

    __slots__ = ("_connect", "_context", "_lock")

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._context: ssl.SSLContext | None = None
        self._lock = new_lock()

    def __call__(self) -> ssl.SSLContext:
        """The same one every time, from any thread."""
        with self._lock:
            if self._context is None:
                connect = self._connect
                context = httpx.create_ssl_context(verify=connect.verify, cert=connect.cert)
                context.set_alpn_protocols(
                    (["http/1.1"] if connect.http1 else []) + (["h2"] if connect.http2 else [])
                )
                self._context = context
            return self._context
