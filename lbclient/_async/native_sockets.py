"""The native engine on trio, and in threads: over sockets that do not block, each waited for by whoever uses it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import partial

import anyio
import httpx

from lbclient._async.connections import OPEN, Connections
from lbclient._async.deadline import SHORTEST
from lbclient._async.engine import Progress
from lbclient._async.native import NativeEngine, watched
from lbclient._async.network import way_to
from lbclient._async.retarget import Target
from lbclient._async.socket_connection import SocketConnection
from lbclient._async.tracing import Events
from lbclient._async.wire import Wire
from lbclient.core.backend import Backend


class SocketEngine(NativeEngine):
    """See `NativeEngine`."""

    async def _open(
        self,
        connections: Connections,
        target: Target,
        request: httpx.Request,
        timeouts: Mapping[str, float | None],
        progress: Progress,
        events: Events | None,
    ) -> SocketConnection:
        connection = SocketConnection()
        try:
            within = progress.connect_timeout(timeouts)
            deadline = None if within is None else anyio.current_time() + within
            await self._connect_to(connection, target.backend, within, events)
            if target.secure:
                left = None if deadline is None else max(SHORTEST, deadline - anyio.current_time())
                name = target.server_name(request) or target.backend.hostname
                await _start_tls(connection, self._ssl_context(), name, left, events)
            connections.opened(connection)
        except BaseException:
            connection.abort()
            await connections.give_back(OPEN)
            raise
        return connection

    async def _connect_to(
        self,
        connection: SocketConnection,
        backend: Backend,
        timeout: float | None,
        events: Events | None,
    ) -> None:
        name, connecting, info = way_to(
            backend, None, timeout, self._connect.local_address, self._connect.socket_options
        )

        async def step() -> None:
            connection.wire = Wire(await connecting(**info))

        await watched(events, name, info, step, connection)


async def _start_tls(
    connection: SocketConnection,
    context: ssl.SSLContext,
    server_hostname: str,
    timeout: float | None,
    events: Events | None,
) -> None:
    info = {"ssl_context": context, "server_hostname": server_hostname, "timeout": timeout}
    step = partial(connection.start_tls, context, server_hostname, timeout)
    await watched(events, "connection.start_tls", info, step, connection)
