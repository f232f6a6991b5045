"""What the core knows of a request that comes over ASGI."""

from __future__ import annotations

from lbclient.asgi.forwarding import Client
from lbclient.asgi.types import Scope
from lbclient.core.facts import Facts


def facts_of(scope: Scope, client: Client) -> Facts:
    """The facts of an incoming request; a WebSocket's handshake is a GET.

    Args:
        scope: ASGI's.
        client: Who sent it.
    """
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return Facts(
        method=scope.get("method", "GET"),
        host=client.host.decode("latin-1"),
        target=b"%s?%s" % (path, query) if query else path,
        headers=scope["headers"],
        options=None if client.ip is None else {"client_ip": client.ip},
        scheme="https" if client.secure else "http",
    )
