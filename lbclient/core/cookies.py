"""Cookies as they go over the wire (RFC 6265): read, taken out, and set."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from lbclient.core.facts import Header

COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a cookie's name: RFC 9110, section 5.6.2
COOKIE_PATH = re.compile(r"/[\x21-\x3a\x3c-\x7e]*")  # printable ASCII, no space and no ";"
MOST_VALUES = 8  # of one name; another path or a neighbour's domain can add some, but not any number
_BLANK = b" \t"

# A whole pair whose value is quoted, semicolons included; else whatever stands before the next semicolon.
_PAIR = re.compile(rb'[^;="]*=[ \t]*"(?:[^"\\]|\\.)*"[ \t]*(?=;|\Z)|[^;]*', re.DOTALL)
_NOT_LATER = re.compile(rb"-[0-9]+|0+")
_SECONDS = re.compile(rb"-?[0-9]+")


def cookie_values(headers: Sequence[Header], name: str) -> Iterator[str]:
    """The values that a request has for a cookie, in order, without their quotes."""
    wanted = name.encode("ascii")
    for key, header in headers:
        if key.lower() == b"cookie" and wanted in header:
            for pair in _pairs(header):
                value = _value(pair, wanted)
                if value is not None:
                    yield value.decode("latin-1")


def without_cookie(headers: Sequence[Header], name: str) -> list[Header]:
    """A copy of a request's headers without one cookie.

    The other cookies stay as they are, byte by byte and in order. A header that has nothing left is left out.
    """
    wanted = name.encode("ascii")
    kept: list[Header] = []
    for key, header in headers:
        if key.lower() == b"cookie" and wanted in header:
            pairs = _pairs(header)
            others = [pair for pair in pairs if _value(pair, wanted) is None]
            if len(others) < len(pairs):
                header = b";".join(others).lstrip(b"; \t")
                if not header:
                    continue
        kept.append((key, header))
    return kept


def set_cookie(
    name: str, value: str, *, path: str, samesite: str, secure: bool, max_age: float | None = None
) -> Header:
    """The header of a response that has a client keep a cookie, out of reach for scripts.

    Args:
        name: Fit for a cookie (`COOKIE_NAME`).
        value: Likewise.
        path: Likewise (`COOKIE_PATH`).
        samesite: "strict", "lax" or "none".
        secure: Whether it is for https only.
        max_age: Seconds; None: as long as the client's session lasts.
    """
    cookie = f"{name}={value}; Path={path}; HttpOnly; SameSite={samesite.capitalize()}"
    if max_age is not None:
        cookie += f"; Max-Age={math.ceil(max_age)}"
    if secure:
        cookie += "; Secure"
    return b"set-cookie", cookie.encode("ascii")


def cookies_set(headers: Sequence[Header], name: str, now: float) -> Iterator[tuple[str, bool]]:
    """The values that a response has for a cookie, and whether each ends there (section 5.3)."""
    wanted = name.encode("ascii")
    for key, header in headers:
        if key.lower() == b"set-cookie" and wanted in header:
            pair, *attributes = _pairs(header)
            value = _value(pair, wanted)
            if value is not None:
                yield value.decode("latin-1"), _is_over(attributes, now)


def _is_over(attributes: Sequence[bytes], now: float) -> bool:
    """Whether a cookie's lifetime has ended. Of repeated attributes the last counts, and Max-Age before Expires."""
    by_age: bool | None = None
    by_date = False
    for attribute in attributes:
        name, _, value = attribute.partition(b"=")
        kind, value = name.strip(_BLANK).lower(), value.strip(_BLANK)
        if kind == b"max-age" and _SECONDS.fullmatch(value):
            by_age = _NOT_LATER.fullmatch(value) is not None
        elif kind == b"expires":
            moment = _moment(value)
            by_date = by_date if moment is None else moment <= now
    return by_date if by_age is None else by_age


def _moment(date: bytes) -> float | None:
    try:
        moment = parsedate_to_datetime(date.decode("latin-1"))
    except (ValueError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _pairs(header: bytes) -> list[bytes]:
    """What stands between the semicolons; joined by semicolons it is the header again."""
    if b'"' not in header:
        return header.split(b";")
    pairs: list[bytes] = []
    start = 0
    while True:
        match = _PAIR.match(header, start)
        assert match is not None  # an empty pair matches
        pairs.append(match.group())
        if match.end() == len(header):
            return pairs
        start = match.end() + 1


def _value(pair: bytes, wanted: bytes) -> bytes | None:
    """The value of a pair, if it is the wanted cookie's; its quotes are not part of it."""
    name, equals, value = pair.partition(b"=")
    if not equals or name.strip(_BLANK) != wanted:
        return None
    value = value.strip(_BLANK)
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value
