"""Who the client is, and what backends are told of it: X-Forwarded-* and Forwarded (RFC 7239).

Anybody can write these headers, so only those of a trusted peer count. What an untrusted peer sent is taken out, in
every spelling that a backend might read as one of them, and replaced by what the connection itself proves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, TypeAlias

from lbclient.asgi.headers import Kind, name_of
from lbclient.asgi.types import Scope
from lbclient.core.facts import Header

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

ClientFrom: TypeAlias = Literal["x-forwarded-for", "forwarded"]
UNIX = "unix"

_WRITE = (
    "write addresses and networks like '10.0.0.0/8', 'unix' for peers on a Unix socket, or '*' for everybody"
)
_MOST_REMEMBERED = 4096
_SCHEMES = {"http": b"http", "https": b"https", "ws": b"ws", "wss": b"wss"}
_SECURE = (b"https", b"wss")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ELEMENT = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_PAIR = re.compile(rb'(?:[^;"]|"(?:[^"\\]|\\.)*")+')


class Trust:
    """Whose word about the client counts.

    Args:
        trusted: Addresses and networks of the proxies in front of us, "unix", or "*".

    Raises:
        ValueError, TypeError: Something is none of these.
    """

    __slots__ = ("_all", "_known", "_networks", "_unix")

    def __init__(self, trusted: Iterable[str]) -> None:
        if isinstance(trusted, (str, bytes)) or not isinstance(trusted, Iterable):
            raise TypeError(f"trusted is {trusted!r}; write a collection: {_WRITE}")
        self._networks: list[_Network] = []
        self._all = self._unix = False
        for one in trusted:
            if one in ("*", UNIX):
                self._all = self._all or one == "*"
                self._unix = True
                continue
            try:
                self._networks.append(ip_network(one, strict=False))
            except ValueError:
                raise ValueError(f"trusted has {one!r}; {_WRITE}") from None
        self._known: dict[str | None, bool] = {}

    def __contains__(self, address: str | None) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: str | None) -> bool:
        if address is None:
            return self._unix
        parsed = _parsed(address)
        return self._all or (parsed is not None and any(parsed in network for network in self._networks))


@dataclass(slots=True)
class Client:
    """What is known of the client of a request.

    Attributes:
        ip: Its address; None behind a Unix socket of which nobody told more.
        peer: The address of who is connected to us.
        trusted: Whether that peer's headers count.
        scheme: How the client came to the first proxy: "http", "https", "ws" or "wss".
        host: The `Host` it asked for.
    """

    ip: str | None
    peer: str | None
    trusted: bool
    scheme: bytes
    host: bytes

    @property
    def secure(self) -> bool:
        """Whether the client came over TLS."""
        return self.scheme in _SECURE


def client_of(
    scope: Scope, trust: Trust, source: ClientFrom = "x-forwarded-for", host: bytes | None = None
) -> Client:
    """Who sent a request: from right to left, the first address in the chain that is not a trusted proxy's.

    Args:
        scope: ASGI's.
        trust: Whose word counts.
        source: The one header in which addresses are looked for. A proxy that writes one of them may pass on the other
            as the client sent it.
        host: The `Host` of the request, for those who have looked at it; empty when there is none.
    """
    client = scope.get("client")
    peer = None if not client else without_port(str(client[0]))
    headers: Sequence[Header] = scope["headers"]
    scheme = _SCHEMES.get(scope.get("scheme", "http"), b"http")
    if host is None:
        host = next((value for name, value in headers if name == b"host"), b"")
    if peer not in trust:
        return Client(peer, peer, False, scheme, host)
    if source == "forwarded":
        elements = [_forwarded_pairs(element) for element in _elements(_values(headers, b"forwarded"))]
        chain = [element.get(b"for", b"") for element in elements]
        told = {b"proto": b"", b"host": b""} | (elements[0] if elements else {})
        proto, told_host = told[b"proto"], told[b"host"]
    else:
        chain = _elements(_values(headers, b"x-forwarded-for"))
        proto = _first(headers, b"x-forwarded-proto")
        told_host = _first(headers, b"x-forwarded-host")
    if proto.lower() in _SCHEMES.values():
        secure, socket = proto.lower() in _SECURE, scheme in (b"ws", b"wss")
        scheme = (b"wss" if socket else b"https") if secure else (b"ws" if socket else b"http")
    return Client(_last_untrusted(peer, chain, trust), peer, True, scheme, told_host or host)


def _last_untrusted(peer: str | None, chain: Sequence[bytes], trust: Trust) -> str | None:
    found = peer
    for raw in reversed(chain):
        address = without_port(raw.decode("latin-1"))
        if _parsed(address) is None:
            break  # "unknown", an obfuscated name, or nonsense: nobody vouches for what stands before it
        found = address
        if address not in trust:
            break
    return found


def forwarded_headers(
    headers: Iterable[Header],
    client: Client,
    asked: bytes,
    prefix: bytes,
    rfc7239: bool,
    told_before: bool = True,
) -> list[Header]:
    """A request's headers with what the backend is told of the client.

    Args:
        headers: Without what is hop-by-hop, names in lower case.
        client: Who sent the request.
        asked: The `Host` of the request that came to us.
        prefix: The path below which we are mounted.
        rfc7239: Write a `Forwarded` also where there was none.
        told_before: Whether anything in `headers` speaks of the client.
    """
    kept: list[Header] = []
    chain: list[bytes] = []
    before: list[bytes] = []
    told: set[bytes] = set()
    if not told_before:
        kept.extend(headers)
        headers = ()
    for name, value in headers:
        if name_of(name).kind == Kind.CLIENT:
            if not client.trusted or b"_" in name:
                continue
            if name == b"x-forwarded-for":
                chain.append(value)
                continue
            if name == b"forwarded":
                before.append(value)
                continue
            told.add(name)
        kept.append((name, value))
    if client.peer is not None:
        chain.append(client.peer.encode("ascii", "replace"))
    if chain:
        kept.append((b"x-forwarded-for", b", ".join(chain)))
    if b"x-forwarded-proto" not in told:
        kept.append((b"x-forwarded-proto", client.scheme))
    if b"x-forwarded-host" not in told and asked:
        kept.append((b"x-forwarded-host", asked))
    if prefix and b"x-forwarded-prefix" not in told:
        kept.append((b"x-forwarded-prefix", prefix))
    if rfc7239 or before:
        before.append(_forwarded_element(client, asked))
        kept.append((b"forwarded", b", ".join(before)))
    return kept


@lru_cache(maxsize=_MOST_REMEMBERED)
def without_port(address: str) -> str:
    """An address as it stands in these headers, less port, brackets, quotes and zone (RFC 7239, section 6)."""
    address = address.strip(' \t"')
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    return address.partition("%")[0]


def _parsed(address: str) -> _Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def _values(headers: Sequence[Header], wanted: bytes) -> bytes:
    return b",".join(value for name, value in headers if name == wanted)


def _first(headers: Sequence[Header], wanted: bytes) -> bytes:
    """The first element of a list that the first proxy of the chain began."""
    return next((value for name, value in headers if name == wanted), b"").partition(b",")[0].strip(b" \t")


def _elements(value: bytes) -> list[bytes]:
    return [stripped for element in _ELEMENT.findall(value) if (stripped := element.strip(b" \t"))]


def _forwarded_pairs(element: bytes) -> dict[bytes, bytes]:
    pairs: dict[bytes, bytes] = {}
    for pair in _PAIR.findall(element):
        name, equals, value = pair.strip(b" \t").partition(b"=")
        if equals:
            quoted = _QUOTED.fullmatch(value)
            pairs[name.lower()] = re.sub(rb"\\(.)", rb"\1", quoted[1]) if quoted else value
    return pairs


def _forwarded_element(client: Client, asked: bytes) -> bytes:
    """RFC 7239, section 4: IPv6 stands in brackets, and so in quotes; a host with a port is quoted for its colon."""
    peer = b"unknown" if client.peer is None else client.peer.encode("ascii", "replace")
    if b":" in peer:
        peer = b'"[%s]"' % peer
    parts = [b"for=" + peer, b"proto=" + client.scheme]
    if asked:
        parts.append(b"host=" + (asked if re.fullmatch(rb"[\w.!#$&'*+^`|~-]+", asked) else b'"%s"' % asked))
    return b";".join(parts)
