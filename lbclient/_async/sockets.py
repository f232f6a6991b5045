"""What httpcore connects with on asyncio and trio; `_sync/sockets.py` is its counterpart for threads."""

from __future__ import annotations

import ssl
from typing import Any, Final, cast

import anyio
import httpcore
from anyio.streams.tls import TLSStream

RAW_FAILURES: Final = (ssl.SSLError, anyio.EndOfStream)
"""What writing raises besides httpcore's exceptions."""


def network() -> httpcore.AsyncNetworkBackend:
    """What connects. For type checkers httpcore has a stand-in of that name, in case anyio is missing."""
    return cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())


def drop(stream: httpcore.AsyncNetworkStream) -> None:
    """Close the socket at once, from the thread of its event loop. Private parts of anyio, pinned by tests."""
    below: Any = getattr(stream, "_stream", None)
    if isinstance(below, TLSStream):
        below = below.transport_stream
    if hasattr(below, "_transport"):
        below._transport.abort()
    elif below is not None:
        below._trio_socket.close()


def lock() -> anyio.Lock:
    """In place of httpcore's, which give way to the event loop whenever they are acquired: six turns a request."""
    return anyio.Lock(fast_acquire=True)


def holds_bytes(stream: httpcore.AsyncNetworkStream) -> bool:
    """Whether bytes wait between the socket and the reader, where the kernel cannot tell of them.

    A TLS record behind the one that was read, or what uvloop read ahead. Private parts of anyio, pinned by tests.
    """
    below: Any = getattr(stream, "_stream", None)
    if isinstance(below, TLSStream):
        if below._read_bio.pending or below._ssl_object.pending():
            return True
        below = below.transport_stream
    protocol = getattr(below, "_protocol", None)  # asyncio only; trio reads nothing ahead
    return protocol is not None and bool(protocol.read_queue)
