"""lbclient in ASGI: a reverse proxy to mount, middleware, and the end client as outgoing requests see it."""

from lbclient.asgi.proxy import ReverseProxy

__all__ = ["ReverseProxy"]
