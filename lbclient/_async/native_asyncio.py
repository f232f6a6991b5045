"""The native engine on asyncio and uvloop: over the event loop's own transports."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import httpx

from lbclient._async.connections import OPEN, Connections
from lbclient._async.engine import Progress
from lbclient._async.native import NativeEngine, watched
from lbclient._async.native_connection import NativeConnection
from lbclient._async.network import way_to
from lbclient._async.patience import Patience, Starved
from lbclient._async.retarget import Target
from lbclient._async.tracing import Events
from lbclient.core.backend import Backend
from lbclient.core.outcome import Ending


class AsyncioEngine(NativeEngine):
    """See `NativeEngine`."""

    async def aclose(self) -> None:
        """See `Engine`. When it returns, the sockets are closed: the event loop does that on its next round."""
        await super().aclose()
        await asyncio.sleep(0)

    async def _open(
        self,
        connections: Connections,
        target: Target,
        request: httpx.Request,
        timeouts: Mapping[str, float | None],
        progress: Progress,
        events: Events | None,
    ) -> NativeConnection:
        connection = NativeConnection(asyncio.get_running_loop())
        try:
            patience = Patience(progress.connect_timeout(timeouts), timeouts.get("connect"))
            await self._connect_to(connection, target.backend, patience, events)
            if target.secure:
                name = target.server_name(request) or target.backend.hostname
                await _start_tls(connection, self._ssl_context(), name, patience, events)
            connections.opened(connection)
        except BaseException as exc:
            if isinstance(exc, Starved):
                progress.said = Ending.STARVED
            connection.abort()
            await connections.give_back(OPEN)
            raise
        return connection

    async def _connect_to(
        self, connection: NativeConnection, backend: Backend, patience: Patience, events: Events | None
    ) -> None:
        connect = self._connect
        loop = asyncio.get_running_loop()
        local = connect.local_address
        name, _, info = way_to(backend, None, patience.left, local, connect.socket_options)
        connecting: Callable[[], Awaitable[Any]]
        if backend.uds is not None:
            connecting = partial(loop.create_unix_connection, lambda: connection, backend.uds)
        else:
            # One address after the other: `happy_eyeballs_delay` leaks sockets when it is cancelled.
            connecting = partial(
                loop.create_connection,
                lambda: connection,
                backend.hostname,
                backend.port,
                local_addr=None if local is None else (local, 0),
            )

        async def step() -> None:
            with patience.step():
                await connecting()
                if connect.socket_options is not None:
                    socket = connection.transport.get_extra_info("socket")
                    for option in connect.socket_options:
                        socket.setsockopt(*option)

        await watched(events, name, info, step, connection)


async def _start_tls(
    connection: NativeConnection,
    context: ssl.SSLContext,
    server_hostname: str,
    patience: Patience,
    events: Events | None,
) -> None:
    info = {"ssl_context": context, "server_hostname": server_hostname, "timeout": patience.left}
    step = partial(connection.shake_hands, context, server_hostname, patience)
    await watched(events, "connection.start_tls", info, step, connection)
