"""Names of the domain name system: the addresses behind a name and a port, or SRV records, which also name ports.

A name is looked up again when its answer no longer holds (the TTL), at once when half of the pool seems to be down, and
a little later when there was no answer. No answer, NXDOMAIN and an empty one are all trouble: the last good set stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from ipaddress import ip_address

import anyio

from lbclient._async.background import Wake
from lbclient.core.backend import Backend
from lbclient.core.checks import check_number, check_whole
from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery.lookups import (
    FAMILIES,
    DnsLookups,
    Found,
    LookupFailed,
    Lookups,
    Place,
    SystemLookups,
)

PORTS = {"http": 80, "https": 443}
FIRST_RETRY = 0.5  # seconds
LONGEST_RETRY = 1.0
BETWEEN_DOUBTS = 1.0  # seconds between two lookups, however often the pool is in trouble
ALMOST_NOTHING = 0.01  # RFC 2782: among records with weights those of weight 0 have "a very small chance"


class Dns(Source):
    """Says the servers that a name stands for.

    Backends see the name in `Host`, and their certificates have to be for it: for the name that was looked up, or with
    SRV records for their target.

    Args:
        name: A name; completed with the search domains unless it ends with a dot. One that begins with an underscore,
            like "_http._tcp.shop.example", is looked up as SRV records, which need dnspython.
        port: Where the servers listen; None: the scheme's own. SRV records bring their ports with them.
        scheme: Of the backends: "http", "https", "tcp" or "udp".
        path: A path prefix of the backends.
        family: "any", "ipv4", "ipv6", or "prefer_ipv4" and "prefer_ipv6", which take the other one only where the
            preferred one is missing.
        floor: Seconds for which an answer is held to be good at least; > 0.
        ceiling: Seconds at most; >= floor.
        interval: Seconds between two lookups without dnspython, since the operating system does not tell a TTL; > 0.
        timeout: Seconds for a lookup; > 0.
        nameservers: IP addresses to ask, with or without a port; None: those of the system.
        search: Search domains; None: those of the system, with its name servers.

    Raises:
        ValueError, TypeError: An argument is out of its range.
        ImportError: What is asked for needs dnspython.
    """

    def __init__(
        self,
        name: str,
        port: int | None = None,
        *,
        scheme: str = "http",
        path: str = "",
        family: str = "prefer_ipv4",
        floor: float = 1.0,
        ceiling: float = 300.0,
        interval: float = 10.0,
        timeout: float = 5.0,
        nameservers: Sequence[str] | None = None,
        search: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name.strip(".") or "/" in name or ":" in name:
            raise ValueError(
                f"name is {name!r}; write a name such as 'shop.example', without scheme and port"
            )
        self._srv = name.startswith("_")
        if self._srv and port is not None:
            raise ValueError(
                f"port is {port!r}; {name} is looked up as SRV records, which have ports of their own"
            )
        if port is not None:
            check_whole("port", port, at_least=1, at_most=65535)
        elif not self._srv and scheme in ("tcp", "udp"):
            raise ValueError(
                f"port is None, and {scheme} has no usual one; write a whole number from 1 to 65535"
            )
        if family not in FAMILIES:
            raise ValueError(f"family is {family!r}; write one of {', '.join(FAMILIES)}")
        self._name = name
        self._scheme = scheme
        self._path = path
        self._port = PORTS.get(scheme, 0) if port is None else port
        # Says what is wrong with them:
        Backend(f"{scheme}://localhost:{1 if self._srv else self._port}{path}")
        self._floor = check_number("floor", floor, above=0)
        self._ceiling = check_number("ceiling", ceiling, at_least=floor)
        check_number("interval", interval, above=0)
        check_number("timeout", timeout, above=0)
        servers = None if nameservers is None else [_nameserver(each) for each in nameservers]
        if servers == []:
            raise ValueError("nameservers is empty; write at least one, or None for those of the system")
        self._doubts: list[Wake] = []
        self._lookups: Lookups
        if find_spec("dns") is not None:
            self._lookups = DnsLookups(self._srv, family, timeout, servers, search)
        elif self._srv or servers is not None or search is not None:
            raise ImportError(
                "SRV records, nameservers= and search= need dnspython; install it with: pip install 'lbclient[dns]'"
            )
        else:
            self._lookups = SystemLookups(family, interval, timeout)

    def __str__(self) -> str:
        return f"DNS {self._name}" if self._srv else f"DNS {self._name}:{self._port}"

    def doubt(self) -> None:
        """See `Source`."""
        for wake in list(self._doubts):
            wake.wake()

    async def watch(self) -> AsyncIterator[Said]:
        """See `Source`."""
        failures = 0
        doubted = Wake()
        self._doubts.append(doubted)
        try:
            while True:
                asked = anyio.current_time()
                try:
                    found = await self._lookups.find(self._name)
                except LookupFailed as exc:
                    pause = min(LONGEST_RETRY, self._ceiling, FIRST_RETRY * 2.0 ** min(failures, 30))
                    failures += 1
                    yield Trouble(str(exc))
                else:
                    failures = 0
                    pause = min(self._ceiling, max(self._floor, found.ttl))
                    yield self._backends(found)
                with anyio.move_on_after(asked + pause - anyio.current_time()):
                    await doubted.wait()
                    await anyio.sleep_until(asked + max(self._floor, BETWEEN_DOUBTS))
        finally:
            self._doubts.remove(doubted)

    def _backends(self, found: Found) -> tuple[Backend, ...]:
        """In an order of their own: that of the answer changes with each answer."""
        weighted = any(place.weight for place in found.places)
        backends: dict[str, Backend] = {}
        for place in sorted(found.places, key=_order):
            port = place.port or self._port
            host = f"[{place.address}]" if ":" in place.address else place.address
            url = f"{self._scheme}://{host}:{port}{self._path}"
            name = place.target.rstrip(".")
            backend = Backend(
                url,
                weight=(place.weight or ALMOST_NOTHING) if weighted else 1,
                priority=place.priority,
                host=name if PORTS.get(self._scheme) == port else f"{name}:{port}",
            )
            backends.setdefault(backend.url, backend)
        return tuple(backends.values())


def _order(place: Place) -> tuple[int, bool, bytes, int]:
    return place.priority, ":" in place.address, ip_address(place.address).packed, place.port


def _nameserver(text: str) -> tuple[str, int]:
    """An address and a port, from "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:5353"."""
    address, port = text, "53"
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    try:
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError(f"port {port} is none")
        return str(ip_address(address)), number
    except ValueError as exc:
        words = (
            f"a name server is {text!r} ({exc}); write an IP address such as '192.0.2.1' or '192.0.2.1:5353'"
        )
        raise ValueError(words) from None
