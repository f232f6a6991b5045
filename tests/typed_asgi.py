"""The middleware and the proxy as users of Starlette and FastAPI write them.

Not run: mypy --strict and pyright read it.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from lbclient.asgi import (
    BalancerMiddleware,
    ClientContextMiddleware,
    LoadReportMiddleware,
    RateLimit,
    RateLimitMiddleware,
    ReverseProxy,
)

TARGET = ["http://10.0.0.5:8080"]


def starlette() -> Starlette:
    app = Starlette(
        routes=[Mount("/api", ReverseProxy(TARGET))],
        middleware=[Middleware(BalancerMiddleware, TARGET, methods=("GET",), algorithm="random")],
    )
    app.add_middleware(BalancerMiddleware, target=TARGET, path="/search/*")
    app.add_middleware(ClientContextMiddleware, trusted=("10.0.0.0/8",), deadline=5.0)
    app.add_middleware(RateLimitMiddleware, limits=[RateLimit(requests=5, per=60)])
    app.add_middleware(LoadReportMiddleware)
    return app


def fastapi() -> FastAPI:
    app = FastAPI()
    app.add_middleware(BalancerMiddleware, target=TARGET, host="*.example.com")
    app.mount("/api", ReverseProxy(TARGET))
    return app


def by_name(app: Starlette) -> BalancerMiddleware:
    return BalancerMiddleware(app=app, target=TARGET)
