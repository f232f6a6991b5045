"""`ReverseProxy`: an ASGI app that passes requests on to balanced backends. Mount it, or serve it by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx

from lbclient._async.transport import AsyncBalancedTransport
from lbclient.asgi.exchange import exchange
from lbclient.asgi.forwarding import ClientFrom
from lbclient.asgi.loop_ends import LoopEnds
from lbclient.asgi.settings import DEFAULT_TIMEOUT, Settings
from lbclient.asgi.types import Receive, Scope, Send
from lbclient.core.checks import check_flag
from lbclient.core.members import BackendLike
from lbclient.core.pool import Pool
from lbclient.core.routing import Router
from lbclient.core.source import Source
from lbclient.core.split import Split

Target = Pool | Router | Split | AsyncBalancedTransport | Source | Iterable[BackendLike]


class ReverseProxy:
    """Passes HTTP requests and WebSockets on to the backends of a pool, streamed both ways.

    Header pairs keep their order and their duplicates; path and query are passed on byte for byte, less what the app is
    mounted at (`root_path`). There is no cookie jar: what one client is told no other one is.

    Args:
        target: A `Pool`, a `Router`, a `Split`, a list of URLs and `Backend`s, or an `AsyncBalancedTransport`, which
            stays yours to close.
        trusted: Addresses and networks of the proxies in front of this one ("10.0.0.0/8"), "unix" for those on a Unix
            socket, or "*". Of everybody else the X-Forwarded-* and Forwarded headers are replaced.
        client_from: In which of a trusted proxy's headers the client's address is looked for: "x-forwarded-for" or
            "forwarded".
        forwarded: Tell backends the client also in a `Forwarded` header (RFC 7239). One that a trusted proxy began is
            always continued.
        via: The name in `Via`; None for none.
        preserve_host: Backends see the `Host` that the client asked for; an option of the pool, for a list.
        rewrite_location: A `Location` at the backend's own origin or path becomes one that the client can follow.
        rewrite_cookies: The `Domain` and `Path` of `Set-Cookie` likewise.
        max_body: Bytes that a request's body may have, else 413; None for any number.
        body_timeout: Seconds that a client may be silent in the middle of its body, else 408; None for any time.
        timeout: For backends: seconds, or an `httpx.Timeout`.
        deadline: Seconds until a response has to be whole, all attempts included; None for no such limit.
        max_message: Bytes of a message that a backend sends over a WebSocket.
        ping_interval: Seconds between pings to a WebSocket's backend; None for none.
        ping_timeout: Seconds that it may take to answer one.
        strip_root_path: Backends get the path that is below the one the app is mounted at.
        pool_options: Arguments of `AsyncBalancedTransport` and of `Pool`, when `target` is a list.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    def __init__(
        self,
        target: Target,
        *,
        trusted: Iterable[str] = (),
        client_from: ClientFrom = "x-forwarded-for",
        forwarded: bool = False,
        via: str | None = "lbclient",
        preserve_host: bool | None = None,
        rewrite_location: bool = True,
        rewrite_cookies: bool = True,
        max_body: int | None = None,
        body_timeout: float | None = 60.0,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT,
        deadline: float | None = None,
        max_message: int = 16 * 1024 * 1024,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
        strip_root_path: bool = True,
        **pool_options: Any,
    ) -> None:
        self.settings = Settings(
            trusted=trusted,
            client_from=client_from,
            forwarded=forwarded,
            via=via,
            rewrite_location=rewrite_location,
            rewrite_cookies=rewrite_cookies,
            max_body=max_body,
            body_timeout=body_timeout,
            timeout=timeout,
            deadline=deadline,
            max_message=max_message,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
        )
        if preserve_host is not None:
            pool_options["preserve_host"] = preserve_host
        self._strip_root_path = check_flag("strip_root_path", strip_root_path)
        self._owns_transport = not isinstance(target, AsyncBalancedTransport)
        if isinstance(target, AsyncBalancedTransport):
            if pool_options:
                raise TypeError(
                    f"{', '.join(pool_options)}: options of a pool go to the pools of your transport"
                )
            self.transport = target
        else:
            self.transport = AsyncBalancedTransport(target, **pool_options)
            self.transport._says_so = False  # whom nobody tells that it ends cannot close it
        self._loop_ends = LoopEnds(self.transport) if self._owns_transport else None

    def __repr__(self) -> str:
        return f"<ReverseProxy {self.transport!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._loop_ends is not None:
            await self._loop_ends.wait_in_this_loop()
        if kind == "http":
            await exchange(self.transport, self.settings, self._strip_root_path, scope, receive, send)
        elif kind == "websocket":
            from lbclient.asgi.websocket import relay  # wsproto is an extra

            await relay(self.transport, self.settings, self._strip_root_path, scope, receive, send)
        else:
            raise ValueError(f"a scope of type {kind!r}; this is an app for http, websocket and lifespan")

    async def start(self) -> None:
        """Begin to probe in this event loop. Without it (mounted apps get no lifespan events) a thread does that."""
        if self._owns_transport:
            self._loop_ends = None
            await self.transport.__aenter__()

    async def aclose(self) -> None:
        """Close the transport, unless it was given."""
        if self._owns_transport:
            await self.transport.aclose()
            if self._loop_ends is not None:
                self._loop_ends.forget()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})
