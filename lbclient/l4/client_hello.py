"""The TLS ClientHello, read without I/O and without decrypting anything: whom a client wants, and which protocols.

A ClientHello is the first thing a TLS client says, in the clear (RFC 8446, 4.1.2). It is one handshake message, in
one or more records of at most 16 KiB (5.1), in however many TCP segments. The reader takes the bytes as they come,
looks at each of them once, and gives up as soon as they can no longer become a ClientHello: what does not is somebody
else's protocol, or an attack, and either way nobody should wait for the rest of it.

Strict where leniency would let two readers disagree about the name: lengths nest exactly, no extension comes twice, a
name is a DNS name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_BYTES = 16_384
"""Hellos are 200 bytes to 2 KiB, with post-quantum key shares; OpenSSL accepts up to 128 KiB, nobody sends that."""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_MOST_IN_A_RECORD = 1 << 14
_SERVER_NAME = 0
_ALPN = 16
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"  # underscores are no host name's, and in use all the same
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


class ClientHelloError(ValueError):
    """What came is no ClientHello, or one that no honest client sends."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a router looks at.

    Attributes:
        server_name: Whom the client wants (SNI), in lower case; None when it does not say.
        alpn: The protocols it offers, in its order of preference; empty when it offers none.
    """

    server_name: str | None = None
    alpn: tuple[str, ...] = ()


class ClientHelloReader:
    """Reads one ClientHello, segment by segment.

    Args:
        most_bytes: Where to give up, record headers included; >= 64.

    Attributes:
        received: All that came, to be sent on unchanged: the hello, and whatever followed it.
    """

    __slots__ = ("_at", "_failed", "_hello", "_message", "_most_bytes", "received")

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.received = bytearray()
        self._most_bytes = most_bytes
        self._message = bytearray()  # the handshake message, without the record headers in between
        self._at = 0  # the first record in `received` that is not in `_message`
        self._hello: ClientHello | None = None
        self._failed: ClientHelloError | None = None

    def __repr__(self) -> str:
        state = "failed" if self._failed else "complete" if self._hello else "reading"
        return f"<ClientHelloReader {state}, {len(self.received)} bytes>"

    def feed(self, data: bytes) -> ClientHello | None:
        """Some more bytes, none at all included; the hello once it is complete, None until then.

        Raises:
            ClientHelloError: It is none; the same again for whatever follows.
        """
        self.received += data
        if self._failed is not None:
            raise self._failed
        if self._hello is None:
            try:
                self._read_records()
            except ClientHelloError as exc:
                self._failed = exc
                raise
        return self._hello

    def _read_records(self) -> None:
        received = self.received
        while self._hello is None and len(received) > self._at:
            head = received[self._at : self._at + 5]
            if head[0] != _HANDSHAKE:
                raise ClientHelloError(f"a record of type {head[0]} instead of a TLS handshake (22)")
            if len(head) > 1 and head[1] != 3:
                raise ClientHelloError(f"TLS version {head[1]} in a record; 3 is the only one there is")
            if len(head) < 5:
                break
            length = int.from_bytes(head[3:5])
            if not 0 < length <= _MOST_IN_A_RECORD:
                raise ClientHelloError(f"a record of {length} bytes; allowed are 1 to {_MOST_IN_A_RECORD}")
            start = self._at + 5
            self._look_at_start(
                received[start : start + min(4, length)] if not self._message else self._message
            )
            if start + length > self._most_bytes:
                raise ClientHelloError(f"more than {self._most_bytes} bytes")
            if len(received) < start + length:
                break
            self._message += received[start : start + length]
            self._at = start + length
            self._look_at_start(self._message)
            whole = 4 + int.from_bytes(self._message[1:4])
            if len(self._message) >= max(4, whole):
                self._hello = _parse(bytes(self._message[4:whole]))

    def _look_at_start(self, message: bytearray) -> None:
        """The first four bytes, or as many as there are, tell what message it is and how long."""
        if message and message[0] != _CLIENT_HELLO:
            raise ClientHelloError(f"a handshake message of type {message[0]} instead of a ClientHello (1)")
        if len(message) >= 4 and int.from_bytes(message[1:4]) > self._most_bytes:
            raise ClientHelloError(f"a ClientHello of {int.from_bytes(message[1:4])} bytes")


class _Fields:
    """Reads fields that have their length before them."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise ClientHelloError(f"a field of {length} bytes where {self.left} are left")
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """A field with its length in `size` bytes before it."""
        return self.take(self.number(size))


def _parse(body: bytes) -> ClientHello:
    """RFC 8446, 4.1.2; older versions differ in what the values may be, not in how they are laid out."""
    fields = _Fields(body)
    if fields.number(1) != 3:
        raise ClientHelloError("a ClientHello of a TLS version that does not begin with 3")
    fields.take(1 + 32)  # the rest of the version, and the random
    if len(fields.vector(1)) > 32:
        raise ClientHelloError("a session id of more than 32 bytes")
    ciphers = fields.vector(2)
    if not ciphers or len(ciphers) % 2:
        raise ClientHelloError(f"{len(ciphers)} bytes of cipher suites")
    if not fields.vector(1):
        raise ClientHelloError("no compression method; there is always 'none'")
    if not fields.left:
        return ClientHello()
    extensions = _Fields(fields.vector(2))
    if fields.left:
        raise ClientHelloError(f"{fields.left} bytes behind the extensions")
    seen: set[int] = set()
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    while extensions.left:
        kind = extensions.number(2)
        if kind in seen:
            raise ClientHelloError(f"extension {kind} more than once")
        seen.add(kind)
        value = extensions.vector(2)
        if kind == _SERVER_NAME:
            server_name = _server_name(value)
        elif kind == _ALPN:
            alpn = _protocols(value)
    return ClientHello(server_name, alpn)


def _server_name(value: bytes) -> str:
    """RFC 6066, section 3: a list of names of which one kind exists, and no kind may come twice."""
    outer = _Fields(value)
    names = _Fields(outer.vector(2))
    if names.number(1) != 0:
        raise ClientHelloError("a server name that is no host name")
    raw = names.vector(2)
    if names.left or outer.left:
        raise ClientHelloError("more than one server name")
    try:
        name = raw.decode("ascii").lower().removesuffix(".")
    except UnicodeDecodeError as exc:
        raise ClientHelloError(f"the server name {raw!r}, which is not ASCII") from exc
    if not _NAME.fullmatch(name):
        raise ClientHelloError(f"the server name {raw!r}, which is no DNS name")
    return name


def _protocols(value: bytes) -> tuple[str, ...]:
    """RFC 7301, 3.1: protocol names are opaque, and never empty."""
    outer = _Fields(value)
    names = _Fields(outer.vector(2))
    if outer.left or not names.left:
        raise ClientHelloError("a list of protocols (ALPN) that is empty, or longer than it says")
    found: list[str] = []
    while names.left:
        name = names.vector(1)
        if not name:
            raise ClientHelloError("a protocol (ALPN) without a name")
        found.append(name.decode("latin-1"))
    return tuple(found)
