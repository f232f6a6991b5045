"""Transports of the caller's own, in place of connections of ours (`inner=`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import anyio
import httpx

from lbclient.core.backend import Backend
from lbclient.core.forking import new_lock

Inner: TypeAlias = Callable[[Backend], httpx.AsyncBaseTransport]


_PARENTS: list[httpx.AsyncBaseTransport] = []


class InnerTransports:
    """The caller's transports, made once for each backend and checked when they are."""

    def __init__(self, factory: Inner, backends: tuple[Backend, ...]) -> None:
        if isinstance(factory, httpx.AsyncBaseTransport) or not callable(factory):
            raise TypeError(
                f"inner is {factory!r}; write a function from Backend to transport, "
                "like inner=lambda backend: httpx.AsyncHTTPTransport()"
            )
        self._factory = factory
        self._made: dict[str, httpx.AsyncBaseTransport] = {}
        self._lock = new_lock()
        for backend in backends:
            self(backend)

    def __call__(self, backend: Backend) -> httpx.AsyncBaseTransport:
        transport = self._made.get(backend.url)
        return self._make(backend) if transport is None else transport

    def _make(self, backend: Backend) -> httpx.AsyncBaseTransport:
        with self._lock:
            transport = self._made.get(backend.url)
            if transport is None:  # or another thread was faster
                transport = self._factory(backend)
                if not isinstance(transport, httpx.AsyncBaseTransport):
                    raise TypeError(
                        f"inner returned {transport!r} for {backend.url}, which is no httpx.AsyncBaseTransport; "
                        "transports of httpx and httpx2, and sync and async ones, do not mix"
                    )
                self._made[backend.url] = transport
            return transport

    async def keep(self, urls: frozenset[str]) -> None:
        """Close those of other backends, which have left and have nothing in flight any more."""
        with self._lock:
            gone = {url: transport for url, transport in self._made.items() if url not in urls}
            for url in gone:
                del self._made[url]
            unused = set(gone.values()) - set(self._made.values())
        with anyio.CancelScope(shield=True):  # nobody else knows them any more
            for transport in unused:
                with suppress(Exception):  # it is no concern of the request that happens to come next
                    await transport.aclose()

    def after_fork(self) -> None:
        """In the child: make others. What the parent's hold is not ours to close, nor the garbage collector's."""
        _PARENTS.extend(self._made.values())
        self._made.clear()

    async def aclose(self) -> None:
        """Close them all; one that is shared by several backends is closed once."""
        for transport in set(self._made.values()):
            await transport.aclose()
        self._made.clear()
