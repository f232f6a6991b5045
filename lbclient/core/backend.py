"""A backend as the caller declares it (`Backend`), and the live numbers the pool keeps of it (`BackendState`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lbclient.core.checks import check_flag, is_finite
from lbclient.core.frozen import FrozenMapping
from lbclient.core.health import Health

_DEFAULT_PORTS = {"http": 80, "https": 443}
UNIT_SHARE = 0.1  # of the newest request
_SCHEMES = ("http", "https", "tcp", "udp")
_HOSTNAME = re.compile(r"[A-Za-z0-9_.-]+")
_PATH = re.compile(r"[\x21\x22\x24-\x3e\x40-\x7e]*")  # printable ASCII, no space, '#' or '?'
_AUTHORITY = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Backend:
    """One server that a pool may send to.

    Args:
        url: Where it listens: `http://10.0.0.5:8080`, with an optional path prefix that is put before the path of
            every request; `https://`, `tcp://` and `udp://` likewise (the last two need a port).
        weight: Its share next to the others: finite, >= 0; fractions are allowed and 0 takes no new picks.
        zone: Where it runs; a pool with a zone of its own prefers it.
        priority: 0 is used first; higher numbers help when too few of the lower ones are available.
        host: Replaces the `Host` header and the TLS server name that the backend sees.
        uds: The path of a Unix socket to connect to instead of the URL's host and port.
        draining: Whether it is about to leave: it takes no new picks, and serves only the clients that are tied to it.
            Sources say so of a server that is being stopped; `enable` overrules it.
        metadata: Anything the caller wants to find again in the status and in a custom algorithm.

    Raises:
        ValueError: The URL, weight or priority is not one of the above.
    """

    url: str
    weight: float = field(default=1, kw_only=True)
    zone: str | None = field(default=None, kw_only=True)
    priority: int = field(default=0, kw_only=True)
    host: str | None = field(default=None, kw_only=True)
    uds: str | None = field(default=None, kw_only=True)
    draining: bool = field(default=False, kw_only=True)
    metadata: Mapping[str, object] = field(default_factory=dict[str, object], kw_only=True, hash=False)

    scheme: str = field(init=False, repr=False, compare=False)
    hostname: str = field(init=False, repr=False, compare=False)
    port: int = field(init=False, repr=False, compare=False)
    path: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise TypeError(f"a backend's URL is a string such as 'http://10.0.0.5:8080', not {self.url!r}")
        scheme, hostname, port, path = _parse(self.url)
        put = object.__setattr__
        put(self, "url", self.url.rstrip("/"))
        put(self, "scheme", scheme)
        put(self, "hostname", hostname)
        put(self, "port", port)
        put(self, "path", path)
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)):
            raise TypeError(f"weight of {self.url} is {self.weight!r}; write a finite number >= 0")
        if not is_finite(self.weight) or self.weight < 0:
            raise ValueError(f"weight of {self.url} is {self.weight!r}; write a finite number >= 0")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int) or self.priority < 0:
            raise ValueError(
                f"priority of {self.url} is {self.priority!r}; write an integer >= 0, 0 is used first"
            )
        check_flag(f"draining of {self.url}", self.draining)
        self._check_words()
        put(self, "metadata", FrozenMapping(self.metadata or {}))

    def _check_words(self) -> None:
        for name, value in (("host", self.host), ("uds", self.uds), ("zone", self.zone)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} of {self.url} is {value!r}; write a string, or None")
        if self.host is not None and not _AUTHORITY.fullmatch(self.host):
            raise ValueError(
                f"host of {self.url} is {self.host!r}; write a host, with a port if needed, like 'example.com:8080'"
            )
        if self.uds == "":
            raise ValueError(f"uds of {self.url} is ''; write the path of a Unix socket, or None")
        if self.metadata is not None and not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata of {self.url} is {self.metadata!r}; write a mapping")

    @property
    def name(self) -> str:
        """What hashing algorithms hash: `host:port`, the port always explicit (the socket's path for a Unix socket)."""
        if self.uds is not None:
            return self.uds
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{host}:{self.port}"

    @property
    def authority(self) -> str:
        """The `Host` header of a request sent straight to this backend: the port only where it is not the scheme's."""
        address, _, _ = self.hostname.partition("%")  # RFC 6874: the zone is nothing to the server
        host = f"[{address}]" if ":" in address else address
        return host if _DEFAULT_PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    @property
    def server_name(self) -> str | None:
        """Whom a certificate has to name where `host` says so: without the port that a `Host` header may have."""
        return None if self.host is None else urlsplit(f"//{self.host}").hostname

    @classmethod
    def of(cls, backend: Backend | str) -> Backend:
        """`backend` itself, or the one its URL names."""
        return backend if isinstance(backend, Backend) else cls(backend)


def _parse(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path prefix of a backend's URL, or a `ValueError` that says what to write."""
    example = "write it like 'http://10.0.0.5:8080'"
    if "://" not in url:
        raise ValueError(f"backend {url!r} has no scheme; {example}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        if url.count(":") > 3 and "[" not in url:
            raise ValueError(
                f"backend {url!r} is not a URL; an IPv6 address stands in brackets, like 'http://[::1]:8080'"
            ) from exc
        raise ValueError(f"backend {url!r} is not a URL ({exc}); {example}") from exc
    if parts.scheme not in _SCHEMES:
        raise ValueError(
            f"backend {url!r} has the scheme {parts.scheme!r}; allowed are {', '.join(_SCHEMES)}"
        )
    if not parts.hostname:
        raise ValueError(f"backend {url!r} has no host; {example}")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"backend {url!r} may have a path, but no user, query or fragment; {example}")
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError(f"backend {url!r} has white space or control characters; {example}")
    if port is None:
        port = _DEFAULT_PORTS.get(parts.scheme)
        if port is None:
            raise ValueError(f"backend {url!r} needs a port; write it like '{parts.scheme}://10.0.0.5:6379'")
    if port == 0:
        raise ValueError(f"backend {url!r} has port 0; allowed are 1 to 65535")
    if not _PATH.fullmatch(parts.path):
        raise ValueError(f"the path of backend {url!r} is not percent-encoded; {example}")
    return parts.scheme, _hostname(url, parts.hostname), port, parts.path.rstrip("/")


def _hostname(url: str, given: str) -> str:
    """As it is looked up: international names in ASCII, the zone of an IPv6 address as the system writes it."""
    if ":" in given:
        return given.replace("%25", "%", 1)  # RFC 6874
    try:
        hostname = given.encode("idna").decode()
    except UnicodeError as exc:
        raise ValueError(f"the host of backend {url!r} cannot be looked up ({exc})") from exc
    if not _HOSTNAME.fullmatch(hostname):
        raise ValueError(
            f"the host of backend {url!r} has other characters than letters, digits, '.', '-' and '_'"
        )
    return hostname


class Scale:
    """What the requests of one pool weigh, where they differ.

    Attributes:
        unit: Of the latest ones, on average: what an algorithm takes for one request.
    """

    __slots__ = ("_seen", "unit")

    def __init__(self) -> None:
        self.unit = 1.0
        self._seen = False

    def add(self, size: int) -> None:
        """One more."""
        self.unit += (UNIT_SHARE if self._seen else 1.0) * (size - self.unit)
        self._seen = True


class BackendState:
    """The live numbers of one backend: they belong to the backend and survive every change of the set.

    Algorithms read them; only the pool writes them, under its lock.

    Attributes:
        backend: What the caller declared.
        url: How the backend is known.
        weight: Its share right now: the declared weight times the slow-start ramp.
        in_flight: Tickets taken and not ended; with the pool's `cost=`, the sum of what they weigh.
        scale: What a ticket of the pool weighs; None where each weighs 1.
        waiting: When those of them were taken that are not answered yet, the oldest first.
        picks, successes, failures: Counts since the backend was added.
        latency: Moving average of the time to the response headers, in seconds; None before the first answer.
        health: The three facts its status is derived from.
        clock: The pool's clock, for an algorithm that ages its numbers.
        failed_in_a_row: Requests that failed since the last success, in a pool that ejects nobody.
        told: Whether the log has it that they are many.
        told_at: When it last had.
        tied: Whether a client was ever tied to it.
        memory: Room for an algorithm's own numbers, by its name, so that they survive a rebuild.
    """

    __slots__ = (
        "backend",
        "clock",
        "failed_in_a_row",
        "failures",
        "guarded",
        "health",
        "in_flight",
        "latency",
        "memory",
        "picks",
        "scale",
        "successes",
        "tied",
        "told",
        "told_at",
        "url",
        "waiting",
        "weight",
    )

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self.backend = backend
        self.url = backend.url
        self.weight: float = backend.weight
        self.in_flight = 0
        self.scale: Scale | None = None
        self.waiting: list[float] = []
        self.picks = 0
        self.successes = 0
        self.failures = 0
        self.latency: float | None = None
        self.health = Health()
        self.failed_in_a_row = 0
        self.told = False
        self.told_at = -math.inf
        self.tied = False
        self.guarded = False  # a pick has to ask first: a trial is due, or there is a limit
        self.clock = clock
        self.memory: dict[str, object] = {}

    def __repr__(self) -> str:
        return f"<BackendState {self.url} {self.health.describe(self.clock())}, {self.in_flight} in flight>"
