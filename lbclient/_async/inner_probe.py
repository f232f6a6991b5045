"""An HTTP probe through a transport of the caller's (`inner=`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

import anyio
import httpx

from lbclient._async.probe_request import CLOSE_WITHIN, LOOKED_AT_BYTES, as_seen_by, headers_of
from lbclient.core.backend import Backend
from lbclient.core.probes import HttpProbe


async def ask_through(transport: httpx.AsyncBaseTransport, backend: Backend, probe: HttpProbe) -> str | None:
    """Probe once: None when it passed, else why not."""
    seen = as_seen_by(probe, backend)
    request = httpx.Request(
        probe.method,
        httpx.URL(
            scheme=seen.scheme, host=seen.hostname, port=seen.port, raw_path=probe.path.encode("ascii")
        ),
        headers=headers_of(seen, probe),
        extensions={"timeout": httpx.Timeout(probe.timeout).as_dict()},
    )
    response = await transport.handle_async_request(request)
    try:
        body = b""
        if probe.body is not None and probe.matches(response.status_code):
            assert isinstance(response.stream, httpx.AsyncByteStream)
            body = await _beginning_of(response.stream)
        return probe.objection(response.status_code, body)
    finally:
        with anyio.move_on_after(CLOSE_WITHIN, shield=True), suppress(Exception):
            await response.aclose()


async def _beginning_of(stream: httpx.AsyncByteStream) -> bytes:
    body = bytearray()
    chunks = aiter(stream)
    try:
        while len(body) < LOOKED_AT_BYTES:
            body += await anext(chunks)
    except StopAsyncIteration:
        pass
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
    return bytes(body)
