"""For servers: middleware that says in every response how many requests are in flight, for `Adaptive` clients."""

from __future__ import annotations

from lbclient.asgi.types import App, Message, Receive, Scope, Send


class LoadReportMiddleware:
    """Adds `X-LB-Inflight` to the responses of an ASGI app.

    Run it in each process; with several workers behind one address each reports its own.

    Args:
        app: The app.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and count it until its body has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                report = (b"x-lb-inflight", b"%d" % self.in_flight)
                message = {**message, "headers": [*message.get("headers", ()), report]}
            await send(message)

        self.in_flight += 1
        try:
            await self._app(scope, receive, counted)
        finally:
            self.in_flight -= 1
