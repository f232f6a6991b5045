"""`BalancerMiddleware`: some requests go to the backends of a pool, and all others to the app behind it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, overload

from lbclient.asgi.facts import facts_of
from lbclient.asgi.forwarding import client_of
from lbclient.asgi.lifespan import around_lifespan
from lbclient.asgi.proxy import ReverseProxy, Target
from lbclient.asgi.types import App, Receive, Scope, Send
from lbclient.core.facts import Facts
from lbclient.core.routing import Route


class BalancerMiddleware:
    """Requests that match go to a pool, with their whole path, and others to the app.

    Args:
        app: Who serves what does not match.
        target: As in `ReverseProxy`. With a `Router` the requests match that one of its routes takes; with anything
            else those for which the following conditions hold, and all when there are none.
        path: As in `Route`, like "/api/*".
        host: Likewise.
        methods: Likewise.
        proxy_options: Arguments of `ReverseProxy`.

    Raises:
        ValueError, TypeError: An argument is out of its range; or there are conditions next to routes.
    """

    # Two overloads: Starlette gives the app by position, and **proxy_options could hold an "app" besides.
    @overload
    def __init__(
        self,
        app: App,
        /,
        target: Target,
        *,
        path: str | None = None,
        host: str | None = None,
        methods: Collection[str] | None = None,
        **proxy_options: Any,
    ) -> None: ...

    @overload
    def __init__(
        self,
        *,
        app: App,
        target: Target,
        path: str | None = None,
        host: str | None = None,
        methods: Collection[str] | None = None,
        **proxy_options: Any,
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # an "app" among the options, which is what the overloads are about
        self,
        app: App,
        target: Target,
        *,
        path: str | None = None,
        host: str | None = None,
        methods: Collection[str] | None = None,
        **proxy_options: Any,
    ) -> None:
        self.app = app
        self.proxy = ReverseProxy(target, strip_root_path=False, **proxy_options)
        self.transport = self.proxy.transport
        router = self.transport.router
        self._matches = router.takes
        if path is not None or host is not None or methods is not None:
            if router.routes:
                raise TypeError(
                    "path, host and methods are for a target without routes; put them into its Route(...)"
                )
            self._matches = Route(path=path, host=host, methods=methods, to=router.pools[0]).matches

    def __repr__(self) -> str:
        return f"<BalancerMiddleware {self.transport!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, around_lifespan(send, self.proxy.start, self.proxy.aclose))
        elif kind in ("http", "websocket") and self._matches(self._facts(scope)):
            await self.proxy(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def aclose(self) -> None:
        """Close the transport, unless it was given. The end of the lifespan does it."""
        await self.proxy.aclose()

    def _facts(self, scope: Scope) -> Facts:
        settings = self.proxy.settings
        return facts_of(scope, client_of(scope, settings.trust, settings.client_from))
