"""The PROXY protocol, versions 1 and 2, without I/O: who the client is, told before its first byte.

The specification is HAProxy's (doc/proxy-protocol.txt); section numbers below are its. A receiver must be told to
expect a header, and must not guess whether there is one (2): otherwise any client could say that it is somebody else.
So the reader has no "none came": a header comes, or it raises, at the first byte that cannot be part of one.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

Version: TypeAlias = Literal["v1", "v2"]
IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MOST_BYTES_V1 = 107
"""A line with its CRLF (2.1): two IPv6 addresses, or whatever follows UNKNOWN."""
MOST_BYTES = 4096
"""Of version 2, whose length field would allow 64 KiB: as much as nginx takes."""

_V1 = b"PROXY "
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_ADDRESSES: dict[int, tuple[int, int]] = {0x1: (4, 12), 0x2: (16, 36), 0x3: (108, 216)}
"""By address family: bytes of one address, and of the whole address block (2.2)."""


class ProxyHeaderError(ValueError):
    """What came is no header of the PROXY protocol."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port. IPv4 addresses inside IPv6 are kept as they came."""

    ip: IP
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        """From what a socket says of its addresses; the zone of a link-local address is left out.

        Raises:
            ValueError: `host` is no IP address.
        """
        return cls(ipaddress.ip_address(host.partition("%")[0]), port)

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Who the client is, and whom it connected to.

    Attributes:
        source: The client; None when the header says nothing of it: a health check of the proxy's own, a Unix socket,
            a protocol that it does not know. Then the connection's own addresses hold (2.1, 2.2).
        destination: Whom the client connected to; None with `source`.
        tlvs: What version 2 says besides, by type (2.2.1 ff.); of a type that comes twice the last.
    """

    source: Endpoint | None = None
    destination: Endpoint | None = None
    tlvs: Mapping[int, bytes] = field(default_factory=dict[int, bytes], hash=False)

    def __post_init__(self) -> None:
        if (self.source is None) != (self.destination is None):
            raise ValueError("source and destination come together, or not at all")
        object.__setattr__(self, "tlvs", MappingProxyType(dict(self.tlvs)))

    def encode(self, version: Version) -> bytes:
        """The header's bytes, as a TCP connection begins with them. TLVs go with version 2 only."""
        if version == "v1":
            return self._encode_v1()
        if version == "v2":
            return self._encode_v2()
        raise ValueError(f"version is {version!r}; write 'v1' or 'v2'")

    def _encode_v1(self) -> bytes:
        if self.source is None or self.destination is None:
            return b"PROXY UNKNOWN\r\n"
        source, destination = _of_one_family(self.source, self.destination)
        family = f"TCP{source.ip.version}"
        ends = f"{source.ip} {destination.ip} {source.port} {destination.port}"
        return f"PROXY {family} {ends}\r\n".encode("ascii")

    def _encode_v2(self) -> bytes:
        if self.source is None or self.destination is None:
            command, family, block = 0x20, 0x00, b""  # LOCAL, UNSPEC
        else:
            source, destination = _of_one_family(self.source, self.destination)
            command, family = 0x21, 0x11 if source.ip.version == 4 else 0x21  # PROXY, over a stream
            ports = struct.pack("!HH", source.port, destination.port)
            block = source.ip.packed + destination.ip.packed + ports
        tlvs = b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in self.tlvs.items())
        return SIGNATURE + struct.pack("!BBH", command, family, len(block) + len(tlvs)) + block + tlvs


def _of_one_family(source: Endpoint, destination: Endpoint) -> tuple[Endpoint, Endpoint]:
    """A header has one family: where they differ, both are IPv6."""
    if source.ip.version == destination.ip.version:
        return source, destination
    return _as_ipv6(source), _as_ipv6(destination)


def _as_ipv6(end: Endpoint) -> Endpoint:
    if end.ip.version == 6:
        return end
    return Endpoint(ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + end.ip.packed), end.port)


class ProxyHeaderReader:
    """Reads one header of either version, segment by segment.

    Attributes:
        rest: What came behind the header, once it is complete: the client's first bytes.
    """

    __slots__ = ("_failed", "_header", "_received", "rest")

    def __init__(self) -> None:
        self.rest = b""
        self._received = bytearray()
        self._header: ProxyHeader | None = None
        self._failed: ProxyHeaderError | None = None

    def __repr__(self) -> str:
        state = "failed" if self._failed else "complete" if self._header else "reading"
        return f"<ProxyHeaderReader {state}, {len(self._received)} bytes>"

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Some more bytes, none at all included; the header once it is complete, None until then.

        Raises:
            ProxyHeaderError: It is none; the same again for whatever follows.
        """
        if self._failed is not None:
            raise self._failed
        if self._header is not None:
            self.rest += data
            return self._header
        self._received += data
        try:
            length = self._length()
            if length is not None:
                head, self.rest = bytes(self._received[:length]), bytes(self._received[length:])
                self._header = _parse_v1(head) if head.startswith(_V1) else _parse_v2(head)
        except ProxyHeaderError as exc:
            self._failed = exc
            raise
        return self._header

    def _length(self) -> int | None:
        """How long the header is; None when that is not known yet, or it is not all there."""
        received = self._received
        begins = bytes(received[: len(SIGNATURE)])
        if SIGNATURE.startswith(begins):
            if len(received) < 16:
                return None
            length = 16 + int.from_bytes(received[14:16])
            if length > MOST_BYTES:
                raise ProxyHeaderError(f"a header of {length} bytes; allowed are {MOST_BYTES}")
            return length if len(received) >= length else None
        if not begins.startswith(_V1[: len(begins)]):
            raise ProxyHeaderError(f"{begins!r} is the beginning of neither version")
        end = received.find(b"\r\n", 0, MOST_BYTES_V1)
        if end < 0:
            if len(received) >= MOST_BYTES_V1:
                raise ProxyHeaderError(f"no CRLF within {MOST_BYTES_V1} bytes")
            return None
        return end + 2


def _parse_v1(head: bytes) -> ProxyHeader:
    try:
        words = head[:-2].decode("ascii").split(" ")
    except UnicodeDecodeError as exc:
        raise ProxyHeaderError(f"{head!r} is not ASCII") from exc
    if words[1] == "UNKNOWN":
        return ProxyHeader()  # "must ignore anything presented before the CRLF"
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise ProxyHeaderError(f"{head!r} is not 'PROXY', TCP4, TCP6 or UNKNOWN, and four more words")
    wanted = int(words[1][-1])
    ends: list[Endpoint] = []
    for address, port in ((words[2], words[4]), (words[3], words[5])):
        if not _PORT.fullmatch(port) or int(port) > 65535:
            raise ProxyHeaderError(f"{head!r} has the port {port!r}")
        try:
            end = Endpoint(ipaddress.ip_address(address), int(port))
        except ValueError as exc:
            raise ProxyHeaderError(f"{head!r} has the address {address!r}") from exc
        if end.ip.version != wanted or "%" in address:
            raise ProxyHeaderError(f"{head!r} has the address {address!r}, which is none of {words[1]}")
        ends.append(end)
    return ProxyHeader(ends[0], ends[1])


def _parse_v2(head: bytes) -> ProxyHeader:
    version, command = head[12] >> 4, head[12] & 0xF
    family, transport = head[13] >> 4, head[13] & 0xF
    if version != 2:
        raise ProxyHeaderError(f"version {version} behind the signature of version 2")
    if command > 1:
        raise ProxyHeaderError(f"command {command}; there are LOCAL (0) and PROXY (1)")
    if family > 3 or transport > 2:
        raise ProxyHeaderError(f"family {family} over transport {transport}; 3 and 2 are the highest")
    body = head[16:]
    size, block = _ADDRESSES.get(family, (0, 0))
    if len(body) < block and command:
        raise ProxyHeaderError(f"{len(body)} bytes where the addresses alone take {block}")
    if not command or not family or not transport:
        return ProxyHeader()  # LOCAL and UNSPEC: "must ignore" what follows
    tlvs = _parse_tlvs(body[block:])
    if family == 3:
        return ProxyHeader(tlvs=tlvs)
    source, destination = (ipaddress.ip_address(body[at : at + size]) for at in (0, size))
    ports: tuple[int, int] = struct.unpack("!HH", body[2 * size : block])
    return ProxyHeader(Endpoint(source, ports[0]), Endpoint(destination, ports[1]), tlvs)


def _parse_tlvs(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 3 > len(data):
            raise ProxyHeaderError(f"{len(data) - at} bytes where a TLV begins, which takes 3")
        kind, length = struct.unpack_from("!BH", data, at)
        at += 3
        if at + length > len(data):
            raise ProxyHeaderError(f"a TLV of {length} bytes where {len(data) - at} are left")
        found[kind] = data[at : at + length]
        at += length
    return found


def header_of(peer: socket.socket) -> ProxyHeader:
    """The header that tells a connection's own addresses; one that tells nothing where they are none of IP's."""
    if peer.family not in (socket.AF_INET, socket.AF_INET6):
        return ProxyHeader()
    source, destination = peer.getpeername(), peer.getsockname()
    return ProxyHeader(Endpoint.of(source[0], source[1]), Endpoint.of(destination[0], destination[1]))
