"""Asking the domain name system, through dnspython or through the operating system."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import anyio

from lbclient._async.loops import running_loop

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver
    from dns._asyncbackend import Backend

FAMILIES = {
    "any": ("A", "AAAA"),
    "ipv4": ("A",),
    "ipv6": ("AAAA",),
    "prefer_ipv4": ("A", "AAAA"),
    "prefer_ipv6": ("AAAA", "A"),
}
AT_A_TIME = 10  # targets of SRV records that are looked up beside each other


class LookupFailed(Exception):
    """Nobody answered, or not with an answer."""


class NoRecords(LookupFailed):
    """The answer is that there is nothing."""


class NoSuchName(NoRecords):
    """Of no kind at all."""


class Place(NamedTuple):
    """Where a server listens.

    Attributes:
        address: Its IP address.
        port: 0: as the caller says.
        target: The name that stands for the address.
        priority, weight: Of the SRV record (RFC 2782).
    """

    address: str
    port: int
    target: str
    priority: int = 0
    weight: int = 0


class Found(NamedTuple):
    """Places, and the seconds for which they hold."""

    places: list[Place]
    ttl: float


class Lookups(Protocol):
    """Looks a name up, once."""

    async def find(self, name: str) -> Found:
        """Where the servers of that name listen.

        Raises:
            NoRecords: The name does not exist, or has no records of the kind.
            LookupFailed: Nobody answered.
        """
        ...  # pragma: no cover - a protocol


class SystemLookups:
    """`getaddrinfo`: knows /etc/hosts, and neither SRV records nor how long an answer holds.

    Args:
        family: A key of `FAMILIES`.
        interval: Seconds for which an answer is held to be good.
        timeout: Seconds.
    """

    def __init__(self, family: str, interval: float, timeout: float) -> None:
        self._family = family
        self._interval = interval
        self._timeout = timeout

    async def find(self, name: str) -> Found:
        """See `Lookups`."""
        try:
            with anyio.fail_after(self._timeout):
                answers = await anyio.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise LookupFailed(f"no answer within {self._timeout} s") from None
        except OSError as exc:
            missing = exc.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
            raise (NoRecords if missing else LookupFailed)(f"{name}: {exc.strerror}") from exc
        addresses = {str(answer[4][0]) for answer in answers}
        by_kind = {
            kind: [
                address
                for address in addresses
                if (":" in address) == (kind == "AAAA") and "%" not in address
            ]
            for kind in FAMILIES[self._family]
        }
        kinds = [kind for kind in FAMILIES[self._family] if by_kind[kind]]
        if not kinds:
            raise NoRecords(f"{name} has no {' or '.join(FAMILIES[self._family])} records")
        if self._family.startswith("prefer"):
            kinds = kinds[:1]
        return Found([Place(address, 0, name) for kind in kinds for address in by_kind[kind]], self._interval)


class DnsLookups:
    """dnspython: asks the name servers themselves, over TCP when an answer does not fit into a packet.

    Args:
        srv: Whether to look for SRV records, instead of addresses.
        family: A key of `FAMILIES`.
        timeout: Seconds for one lookup, all name servers together.
        nameservers: As (address, port); None: those of the system.
        search: Domains to complete names with; None: those of the system, with its name servers.
    """

    def __init__(
        self,
        srv: bool,
        family: str,
        timeout: float,
        nameservers: Sequence[tuple[str, int]] | None,
        search: Sequence[str] | None,
    ) -> None:
        self._srv = srv
        self._family = family
        self._timeout = timeout
        self._nameservers = nameservers
        self._search = search
        self._known: dict[str, list[str]] = {}  # the last addresses of each target

    async def find(self, name: str) -> Found:
        """See `Lookups`."""
        resolver, backend = self._resolver(), _backend()
        if not self._srv:
            addresses, ttl = await self._addresses(resolver, backend, name)
            return Found([Place(address, 0, name) for address in addresses], ttl)
        answer = await self._ask(resolver, backend, name, "SRV")
        records = [(str(r.target).rstrip("."), r.port, r.priority, r.weight) for r in answer]
        # A target "." says that there is no such service, and a port of 0 says nothing.
        records = [record for record in records if record[0] and record[1]]
        if not records:
            raise NoRecords(f"{name} says that there is no such service")
        ttl = _ttl(answer)
        addresses_of: dict[str, list[str]] = {}
        limit = anyio.CapacityLimiter(AT_A_TIME)

        async def look_up(target: str) -> None:
            nonlocal ttl
            async with limit:
                try:
                    addresses, held = await self._addresses(resolver, backend, target + ".", answer)
                except NoRecords:
                    addresses, held = [], ttl
                except LookupFailed:  # one name server that is down does not keep the others' news from us
                    addresses, held = self._known.get(target, []), ttl
            addresses_of[target] = addresses
            ttl = min(ttl, held)

        async with anyio.create_task_group() as group:
            for target in {record[0] for record in records}:
                group.start_soon(look_up, target)
        self._known = addresses_of
        places = [
            Place(address, port, target, priority, weight)
            for target, port, priority, weight in records
            for address in addresses_of[target]
        ]
        if not places:
            raise LookupFailed(f"no target of {name} has an address")
        return Found(places, ttl)

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """A new one each time: the system's configuration may have changed."""
        import dns.asyncresolver
        import dns.name
        import dns.nameserver

        resolver = dns.asyncresolver.Resolver(configure=self._nameservers is None)
        if self._nameservers is not None:
            resolver.nameservers = [
                dns.nameserver.Do53Nameserver(address, port) for address, port in self._nameservers
            ]
            resolver.domain = dns.name.root
        if self._search is not None:
            resolver.search = [dns.name.from_text(domain) for domain in self._search]
        return resolver

    async def _addresses(
        self,
        resolver: dns.asyncresolver.Resolver,
        backend: Backend,
        name: str,
        beside: dns.resolver.Answer | None = None,
    ) -> tuple[list[str], float]:
        """The addresses of a name; of the first family that has any, where one is preferred."""
        found: list[str] = []
        ttls: list[float] = []
        for kind in FAMILIES[self._family]:
            given = _beside(beside, name, kind)
            if given is not None:
                addresses, ttl = given
            else:
                try:
                    answer = await self._ask(resolver, backend, name, kind)
                except NoSuchName:
                    raise
                except NoRecords:
                    continue
                addresses, ttl = [str(record) for record in answer], _ttl(answer)
            found += addresses
            ttls.append(ttl)
            if self._family.startswith("prefer"):
                break
        if not found:
            raise NoRecords(f"{name} has no {' or '.join(FAMILIES[self._family])} records")
        return found, min(ttls)

    async def _ask(
        self, resolver: dns.asyncresolver.Resolver, backend: Backend, name: str, kind: str
    ) -> dns.resolver.Answer:
        import dns.exception
        import dns.resolver

        try:
            return await resolver.resolve(name, kind, search=True, lifetime=self._timeout, backend=backend)
        except dns.resolver.NXDOMAIN as exc:
            raise NoSuchName(str(exc)) from exc
        except dns.resolver.NoAnswer as exc:
            raise NoRecords(str(exc)) from exc
        except dns.exception.DNSException as exc:
            raise LookupFailed(str(exc) or type(exc).__name__) from exc


def _backend() -> Backend:
    """That of this event loop: left to itself, dnspython keeps the first one it sees."""
    import dns.asyncbackend

    return dns.asyncbackend.get_backend(
        "asyncio" if isinstance(running_loop(), asyncio.AbstractEventLoop) else "trio"
    )


def _ttl(answer: dns.resolver.Answer) -> float:
    """Of all records that led here, aliases included."""
    return float(answer.chaining_result.minimum_ttl)


def _beside(answer: dns.resolver.Answer | None, name: str, kind: str) -> tuple[list[str], float] | None:
    """The addresses of a target that came in the same answer as its SRV record."""
    if answer is None:
        return None
    import dns.name
    import dns.rdatatype

    wanted = dns.name.from_text(name)
    for rrset in answer.response.additional:
        if rrset.name == wanted and rrset.rdtype == dns.rdatatype.from_text(kind):
            return [str(record) for record in cast("Iterable[object]", rrset)], float(rrset.ttl)
    return None
