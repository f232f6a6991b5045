"""The TLS context of a pool."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from lbclient.core.connect import Connect
from lbclient.core.forking import new_lock


class OneContext:
    """Makes the pool's one `ssl.SSLContext` when somebody needs it: building one costs tens of milliseconds.

    Args:
        connect: What it trusts, and which protocols it offers.

    Raises:
        ValueError: A file of `connect`'s is not there.
    """

    __slots__ = ("_connect", "_context", "_lock")

    def __init__(self, connect: Connect) -> None:
        _check_files(connect)
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


def _check_files(connect: Connect) -> None:
    """What is said of a missing one later, in every attempt, has no name in it."""
    if isinstance(connect.verify, str) and not Path(connect.verify).exists():
        raise ValueError(
            f"verify is {connect.verify!r}, which is not there; write the path of a CA bundle, or True"
        )
    certificate = (connect.cert,) if isinstance(connect.cert, str) else (connect.cert or ())[:2]
    for path in certificate:
        if not Path(path).is_file():
            raise ValueError(f"cert has {path!r}, and there is no such file; write (certificate, key)")
