"""Header pairs on their way through, sorted in one pass: what frames the message, what belongs to one hop (RFC 9110,
7.6), and what is passed on.

What a name means is remembered by the name as it was written, which also proves that it is a token: most messages
bring the same few dozen names, and one look into a dictionary for each field is all that they cost.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from lbclient.core.facts import Header

MOST_REMEMBERED = 2048
LONGEST_REMEMBERED = 64  # bytes

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONTROLS: Final = bytes(c for c in range(0x20) if c != 0x09) + b"\x7f"
_HARMLESS: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})


class Kind(enum.IntEnum):
    """What a field is to whoever passes a message on."""

    ORDINARY = 0
    ILLEGAL = 1
    HOST = 2
    LENGTH = 3
    CODING = 4
    EXPECT = 5
    CONNECTION = 6
    TE = 7
    TRAILER = 8
    HOP = 9
    """Of one hop, and nothing else is to be known of it."""
    POSING = 10
    """One of ours, spelled with an underscore: some backends would read it as that."""
    COOKIE = 11
    CLIENT = 12
    """About the client: X-Forwarded-* and its like, in every spelling."""
    PLACE = 13
    """Location or Set-Cookie: it says where the backend thinks that it is."""


(
    _ORDINARY,
    _ILLEGAL,
    _HOST,
    _LENGTH,
    _CODING,
    _EXPECT,
    _CONNECTION,
    _TE,
    _TRAILER,
    _HOP,
    _POSING,
    _COOKIE,
    *_,
) = (int(kind) for kind in Kind)
_CLIENT, _PLACE = int(Kind.CLIENT), int(Kind.PLACE)

_KINDS: Final = {
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"cookie": _COOKIE,
    b"expect": _EXPECT,
    b"host": _HOST,
    b"location": _PLACE,
    b"set-cookie": _PLACE,
    b"te": _TE,
    b"trailer": _TRAILER,
    b"transfer-encoding": _CODING,
    b"alt-svc": _HOP,  # other ways to the backend are no ways to us
    b"keep-alive": _HOP,
    b"proxy-authenticate": _HOP,
    b"proxy-authorization": _HOP,
    b"proxy-connection": _HOP,
    b"upgrade": _HOP,
}
_OF_ONE_HOP: Final = frozenset({_CONNECTION, _TE, _TRAILER, _CODING, _HOP})
_OURS: Final = _OF_ONE_HOP | {_LENGTH, _EXPECT, _HOST}


class Name(NamedTuple):
    """A field's name, looked at once.

    Attributes:
        lower: In lower case, as ASGI wants it.
        kind: A `Kind`.
    """

    lower: bytes
    kind: int


_known: dict[bytes, Name] = {}


def name_of(written: bytes) -> Name:
    """What a name means."""
    return _known.get(written) or _learn(written)


def _learn(written: bytes) -> Name:
    if not written or written.translate(None, _TOKEN):
        return Name(written, _ILLEGAL)
    lower = written.lower()
    name = Name(lower, _kind_of(lower))
    if len(written) <= LONGEST_REMEMBERED:
        if len(_known) >= MOST_REMEMBERED:  # somebody invents names
            _known.clear()
        _known[written] = name
    return name


def _kind_of(lower: bytes) -> int:
    kind = _KINDS.get(lower, _ORDINARY)
    if kind != _ORDINARY:
        return kind
    dashed = lower.replace(b"_", b"-")
    if dashed.startswith(b"x-forwarded-") or dashed in (b"forwarded", b"x-real-ip"):
        return _CLIENT
    if dashed != lower and (_KINDS.get(dashed) in _OURS or dashed == b"via"):
        return _POSING
    return _ORDINARY


class RequestFields:
    """The fields of a request.

    Args:
        headers: As they came.

    Attributes:
        passed: What goes on, names in lower case, less the host and the framing, which are set anew. Several `cookie`
            lines, as HTTP/2 has them, are one (RFC 9113, 8.2.3).
        hosts: The values of each of these.
        lengths: Likewise.
        codings: Likewise.
        expectations: Likewise.
        trailers: Whether the sender wants them (of `TE` only that goes on).
        about_client: Whether `passed` has anything that speaks of the client.
        legal: Whether there are no characters that readers may disagree about.
        size: Bytes of names and values.
    """

    __slots__ = (
        "about_client",
        "codings",
        "expectations",
        "hosts",
        "legal",
        "lengths",
        "passed",
        "size",
        "trailers",
    )

    def __init__(self, headers: Sequence[Header]) -> None:
        self.passed: list[Header] = []
        self.hosts: list[bytes] = []
        self.lengths: list[bytes] = []
        self.codings: list[bytes] = []
        self.expectations: list[bytes] = []
        self.trailers = self.about_client = False
        legal = True
        passed = self.passed
        options: list[bytes] = []
        cookie_at: int | None = None
        known = _known
        for written, value in headers:
            name, kind = known.get(written) or _learn(written)
            if kind == _ORDINARY:
                passed.append((name, value))
            elif kind == _HOST:
                self.hosts.append(value)
            elif kind == _CONNECTION:
                if value not in _HARMLESS:
                    options.append(value)
            elif kind == _COOKIE:
                if cookie_at is None:
                    cookie_at = len(passed)
                    passed.append((name, value))
                else:
                    passed[cookie_at] = (name, passed[cookie_at][1] + b"; " + value)
            elif kind == _CLIENT:
                self.about_client = True
                passed.append((name, value))
            elif kind == _LENGTH:
                self.lengths.append(value)
            elif kind == _CODING:
                self.codings.append(value)
            elif kind == _EXPECT:
                self.expectations.append(value)
            elif kind == _TE:
                self.trailers = self.trailers or b"trailers" in tokens([value])
            elif kind == _ILLEGAL:
                legal = False
            elif kind == _PLACE:
                passed.append((name, value))
        values = b"".join([value for _, value in headers])
        self.legal = legal and len(values.translate(None, _CONTROLS)) == len(values)
        self.size = len(values) + sum([len(name) for name, _ in headers])
        if options:
            self.passed = _less_named(passed, options)
        if self.trailers:
            self.passed.append((b"te", b"trailers"))


class ResponseFields:
    """The fields of a response.

    Args:
        headers: As they came.

    Attributes:
        passed: What goes back, names in lower case, less its length, which is said once or not at all.
        length: Of the body, as it was written; None next to chunks, or when only its end will tell.
        trailer: The values of `Trailer`: what may follow the body.
        placed: Whether `passed` has a `Location` or a `Set-Cookie`.
    """

    __slots__ = ("length", "passed", "placed", "trailer")

    def __init__(self, headers: Sequence[Header]) -> None:
        self.passed: list[Header] = []
        self.length: bytes | None = None
        self.trailer: list[bytes] = []
        self.placed = chunked = False
        passed = self.passed
        options: list[bytes] = []
        length: bytes | None = None
        known = _known
        for written, value in headers:
            name, kind = known.get(written) or _learn(written)
            if kind == _ORDINARY:
                passed.append((name, value))
            elif kind == _LENGTH:
                if length is None:  # others agree with it, or the response had been refused
                    length = value
            elif kind == _CONNECTION:
                if value not in _HARMLESS:
                    options.append(value)
            elif kind == _PLACE:
                self.placed = True
                passed.append((name, value))
            elif kind == _CODING:
                chunked = True
            elif kind == _TRAILER:
                self.trailer.append(value)
            elif kind not in _OF_ONE_HOP:
                passed.append((name, value))
        if length is not None and not chunked:
            self.length = length.partition(b",")[0].strip(b" \t")
        if options:
            self.passed = _less_named(passed, options)


def end_to_end(headers: Iterable[Header]) -> list[Header]:
    """What of a message's fields is for its recipient, in order, names in lower case."""
    kept: list[Header] = []
    options: list[bytes] = []
    for written, value in headers:
        name, kind = name_of(written)
        if kind == _CONNECTION:
            options.append(value)
        elif kind not in _OF_ONE_HOP:
            kept.append((name, value))
    return _less_named(kept, options) if options else kept


@lru_cache(maxsize=64)
def via(version: str | bytes, pseudonym: str) -> Header:
    """Who passed a message on, and by which version it came to us (RFC 9110, 7.6.3).

    Args:
        version: Such as "1.1", or b"HTTP/1.1".
        pseudonym: Ours.
    """
    number = version if isinstance(version, str) else version.decode("ascii").partition("/")[2]
    return b"via", f"{number} {pseudonym}".encode("ascii")


def tokens(values: Iterable[bytes]) -> frozenset[bytes]:
    """The elements of a list of tokens, in lower case."""
    return frozenset(token.strip(b" \t").lower() for value in values for token in value.split(b","))


def _less_named(headers: list[Header], options: list[bytes]) -> list[Header]:
    """Less what `Connection` names (RFC 9110, 7.6.1)."""
    named = tokens(options)
    return [header for header in headers if header[0] not in named]
