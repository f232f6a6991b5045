"""Probing a pool in the background: one task for each backend, begun when it joins and ended when it leaves.

The core says what a probe is and what its result does; here it is carried out. Time is counted from the start
of one probe to the start of the next, a probe that takes longer than its timeout has failed, and no backend
is probed twice at a time.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import anyio
import httpcore
import httpx

from lbclient._async.background import Wake
from lbclient._async.inner_probe import ask_through
from lbclient._async.network import CountedStream, open_stream
from lbclient._async.probe_request import CLOSE_WITHIN, LOOKED_AT_BYTES, as_seen_by, headers_of
from lbclient.core.backend import Backend
from lbclient.core.connect import Connect
from lbclient.core.health import Check, Health
from lbclient.core.pool import Pool
from lbclient.core.probes import HttpProbe, Probe, TcpProbe

logger = logging.getLogger("lbclient")

Ask: TypeAlias = Callable[[Backend, Probe], Awaitable[str | None]]
"""Probes a backend once: None when it passed, else why not. Raising is failing, too."""


async def probe_pool(pool: Pool, ask: Ask) -> None:
    """Probe everybody in the pool who is not disabled, until cancelled. Without a probe it returns at once.

    Args:
        pool: Gets the results.
        ask: How a probe is carried out: a `NetworkProbe` or an `InnerProbe`.
    """
    probe = pool.probe
    if probe is None:
        return
    changed = Wake()
    watches: dict[str, tuple[Backend, anyio.CancelScope]] = {}
    unsubscribe = pool.subscribe(changed.wake)
    try:
        async with anyio.create_task_group() as group:
            while True:
                members = {backend.url: backend for backend in pool.members()}
                for url, (known, scope) in list(watches.items()):
                    if url not in members or _place(members[url]) != _place(known):
                        scope.cancel()
                        del watches[url]
                for url, backend in members.items():
                    if url not in watches:
                        scope = anyio.CancelScope()
                        watches[url] = backend, scope
                        group.start_soon(_watch, pool, probe, backend, ask, scope)
                with anyio.move_on_after(probe.interval):  # a drain that time has ended tells nobody
                    await changed.wait()
    finally:
        unsubscribe()


async def _watch(pool: Pool, probe: Probe, backend: Backend, ask: Ask, scope: anyio.CancelScope) -> None:
    """Probe one backend again and again, the first time at once."""
    health = Health()  # the pool's own rule tells which interval applies
    with scope:
        while True:
            started = anyio.current_time()
            objection = await _objection(ask, backend, probe)
            passed = objection is None
            if not passed:
                logger.debug("%s: %s failed its probe: %s", pool.name, backend.url, objection)
            try:
                pool.report_probe(backend.url, passed)
            except (KeyError, ValueError):
                logger.debug("%s: %s left while it was probed", pool.name, backend.url)
            except Exception:
                logger.exception("%s: somebody who was told of a change failed", pool.name)
            health.probed(passed, probe.healthy_threshold, probe.unhealthy_threshold, started)
            delay = probe.delay(health.check is not Check.FAILING, pool.rng)
            await anyio.sleep_until(started + delay)


async def _objection(ask: Ask, backend: Backend, probe: Probe) -> str | None:
    """What speaks against the backend, after one probe within its timeout."""
    try:
        with anyio.move_on_after(probe.timeout):
            return await ask(backend, probe)
    except Exception as exc:  # noqa: BLE001  # whatever it was, the backend has not passed
        return f"{type(exc).__name__}: {exc}"
    return f"no answer within {probe.timeout} s"


def _place(backend: Backend) -> tuple[str | None, str | None]:
    """What of a backend with the same URL makes it another one to probe; its weight does not."""
    return backend.host, backend.uds


# How a probe is carried out


class NetworkProbe:
    """Probes over connections of its own, one for each probe.

    Args:
        connect: The pool's: protocols, the local address, socket options.
        ssl_context: Makes the pool's one context, when somebody needs it.
    """

    def __init__(self, connect: Connect, ssl_context: Callable[[], ssl.SSLContext]) -> None:
        self._connect = connect
        self._ssl_context = ssl_context

    async def __call__(self, backend: Backend, probe: Probe) -> str | None:
        """See `Ask`."""
        seen = as_seen_by(probe, backend)
        secure = isinstance(probe, HttpProbe) and seen.scheme == "https"
        stream = await open_stream(
            seen,
            ssl_context=self._ssl_context() if secure else None,
            timeout=None,  # that of the whole probe holds
            server_hostname=backend.server_name,
            local_address=self._connect.local_address,
            socket_options=self._connect.socket_options,
        )
        try:
            return None if isinstance(probe, TcpProbe) else await self._ask(seen, probe, stream)
        finally:
            with anyio.move_on_after(CLOSE_WITHIN, shield=True), suppress(Exception):
                await stream.aclose()

    async def _ask(self, seen: Backend, probe: HttpProbe, stream: CountedStream) -> str | None:
        origin = httpcore.Origin(seen.scheme.encode(), seen.hostname.encode(), seen.port)
        tls = stream.get_extra_info("ssl_object")
        http2 = (tls is not None and tls.selected_alpn_protocol() == "h2") or not self._connect.http1
        bounded = _Bounded(stream)
        connection: httpcore.AsyncHTTP11Connection | httpcore.AsyncHTTP2Connection
        if http2:
            connection = httpcore.AsyncHTTP2Connection(origin, bounded)
        else:
            connection = httpcore.AsyncHTTP11Connection(origin, bounded)
        url = httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=probe.path)
        headers = headers_of(seen, probe) + ([] if http2 else [("Connection", "close")])
        raw_headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        request = httpcore.Request(probe.method, url, headers=raw_headers)
        response = await connection.handle_async_request(request)
        body = bytearray()
        if probe.body is not None and probe.matches(response.status):
            assert isinstance(response.stream, AsyncIterable)
            with suppress(_Enough):
                async for chunk in response.stream:
                    body += chunk
        return probe.objection(response.status, bytes(body))


class InnerProbe:
    """Sends HTTP probes through transports of the caller's (`inner=`); TCP probes connect all the same.

    Args:
        transport_of: The transport of a backend; it has to belong to the event loop that the probes run in.
        connect: For TCP probes.
    """

    def __init__(
        self, transport_of: Callable[[Backend], httpx.AsyncBaseTransport], connect: Connect | None = None
    ) -> None:
        self._transport_of = transport_of
        self._connecting = NetworkProbe(connect or Connect(), ssl.create_default_context)

    async def __call__(self, backend: Backend, probe: Probe) -> str | None:
        """See `Ask`."""
        if isinstance(probe, TcpProbe):
            return await self._connecting(backend, probe)
        return await ask_through(self._transport_of(backend), backend, probe)


class _Enough(Exception):
    """So much of an answer has come that the rest is not looked at."""


class _Bounded(CountedStream):
    """Raises instead of reading without end.

    Raising ends httpcore's generators inside out. Leaving the loop over them early would leave them to the
    garbage collector, of which trio complains.
    """

    __slots__ = ()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.received >= LOOKED_AT_BYTES:
            raise _Enough
        return await super().read(max_bytes, timeout)
