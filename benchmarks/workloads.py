"""What is asked of whom: the kinds of request that are compared, and the fleet and the proxies they go to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request.

    Attributes:
        what: In words, for the table.
        method: Of every request.
        path: At the backend.
        content: The body; None for none.
        tls: The backends speak TLS.
        http2: The backends speak HTTP/2 (inside TLS), and clients may.
        cold: A connection serves one request.
        delay: Seconds until a backend answers; such backends have time for everybody.
        connections: How many a client may have, and keep for minutes while they are idle; None: its defaults.
    """

    what: str
    method: str = "GET"
    path: str = "/"
    content: bytes | None = None
    tls: bool = False
    http2: bool = False
    cold: bool = False
    delay: float = 0.0
    connections: int | None = None


WORKLOADS = {
    "small": Workload("GET, an answer of a few bytes"),
    "download": Workload("GET, an answer of 1 MiB", path="/large"),
    "upload": Workload("POST of 1 MiB", method="POST", path="/upload", content=bytes(MIB)),
    "tls": Workload("GET over TLS", tls=True),
    "http2": Workload("GET over HTTP/2", tls=True, http2=True),
    "cold": Workload("GET, a connection each", cold=True),
    "delayed": Workload("GET, backends that answer after 100 ms", delay=0.1),
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Something in between."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Who is there.

    Attributes:
        workload: What they are asked.
        urls: The backends.
        ssl_context: Trusts the backends' certificate; None without TLS.
        proxies: By name, each balancing over all the backends.
    """

    workload: Workload
    urls: Sequence[str]
    ssl_context: ssl.SSLContext | None = None
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
