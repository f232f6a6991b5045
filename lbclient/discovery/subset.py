"""A few of many backends for each client, so that a thousand clients do not hold a thousand connections to each.

Every client ranks all backends by a hash of itself and the backend, and takes the first few: rendezvous hashing. A
backend that leaves is replaced for the clients that had it, one that joins displaces one for the clients that take it,
and nobody else notices. (Thaler and Ravishankar 1998.)

What is left is luck: of 200 clients with 20 of 100 backends each, a backend gets 40 with a standard deviation of 5.7,
so some get 27 and others 54. Clients that are *numbered* do better, without talking to each other. Each run of 32
numbers is a Latin hypercube sample (McKay, Beckman and Conover 1979): a backend's hashes for those 32 clients fall one
into each 32nd of the range, so about as many of them as its share demands are low enough to be taken.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from lbclient.core.backend import Backend
from lbclient.core.checks import check_whole
from lbclient.core.hashing import stable64
from lbclient.core.source import Said, Source
from lbclient.discovery.wrapping import Sieve

STRATA = 32
_BITS = 53  # what a float holds


class Subset(Sieve):
    """Takes the `size` backends that this client ranks highest, of each priority.

    Args:
        source: Whose sets.
        size: Backends of each priority; >= 1. Those that drain come on top.
        client: Who this client is, the same after a restart so that it takes the same. A whole number >= 0 says that
            clients are numbered, like the replicas of a StatefulSet: that spreads them more evenly. None: host name and
            process id.

    Raises:
        ValueError, TypeError: An argument is out of its range.
    """

    def __init__(self, source: Source, size: int, *, client: str | int | None = None) -> None:
        super().__init__(source)
        self._size = check_whole("size", size, at_least=1)
        if client is not None and not isinstance(client, str):
            check_whole("client", client, at_least=0)
        self._client = client

    def sift(self, backends: tuple[Backend, ...]) -> Said:
        """See `Sieve`."""
        client = f"{socket.gethostname()}:{os.getpid()}" if self._client is None else self._client
        ranks = {backend.url: rank(client, backend.url) for backend in backends}
        kept: set[str] = set()
        for priority in {backend.priority for backend in backends}:
            level = [backend for backend in backends if backend.priority == priority]
            kept |= _lowest(level, ranks, self._size)
        return tuple(backend for backend in backends if backend.url in kept)


def rank(client: str | int, url: str) -> float:
    """Where a client ranks a backend, 0 to 1; the lowest are taken."""
    if isinstance(client, str):
        return (stable64(f"{client}\0{url}".encode()) >> (64 - _BITS)) / (1 << _BITS)
    run, number = divmod(client, STRATA)
    drawn = stable64(f"{run}\0{url}".encode())
    # An odd factor modulo a power of two permutes the strata: each of the run's clients is in another one.
    factor, offset = (drawn & 0xFF) | 1, (drawn >> 8) & 0xFF
    within = stable64(f"{client}\0{url}".encode()) / (1 << 64)
    return ((factor * number + offset) % STRATA + within) / STRATA


def _lowest(level: Sequence[Backend], ranks: dict[str, float], size: int) -> set[str]:
    """The first `size` of those that stay, and whoever drains and ranks among them."""
    staying = sorted((ranks[backend.url], backend.url) for backend in level if not backend.draining)[:size]
    worst = staying[-1][0] if len(staying) == size else 1.0
    draining = {backend.url for backend in level if backend.draining and ranks[backend.url] <= worst}
    return {url for _, url in staying} | draining
