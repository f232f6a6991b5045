"""lbclient in ASGI: a reverse proxy to mount, middleware, and the end client as outgoing requests see it."""

from lbclient.asgi.client_context import ClientContextMiddleware
from lbclient.asgi.load_report import LoadReportMiddleware
from lbclient.asgi.middleware import BalancerMiddleware
from lbclient.asgi.proxy import ReverseProxy
from lbclient.asgi.rate_limiting import RateLimit, RateLimitMiddleware

__all__ = [
    "BalancerMiddleware",
    "ClientContextMiddleware",
    "LoadReportMiddleware",
    "RateLimit",
    "RateLimitMiddleware",
    "ReverseProxy",
]
