"""A response's `Location` and `Set-Cookie`, made to fit what the client sees: its origin, and where we are mounted.

The balanced transport has already replaced a backend's own origin in `Location` by the logical one, which here is the
client's. What is left to do is what a backend cannot know: it thinks that it is mounted at "/".
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from lbclient.core.facts import Header

_ATTRIBUTE = re.compile(rb"\s*(path|domain)\s*=\s*([^;]*?)\s*", re.IGNORECASE)
_FIXED_PATH = b"__Host-"  # browsers drop such a cookie when its path is not "/"


class Seen(NamedTuple):
    """Where a response seems to come from.

    Attributes:
        origin: Of the client's request: scheme, host and port.
        prefix: The path below which the backend is mounted; no slash at its end.
        backend_host: The backend's own name.
        backend_path: The path of its URL, below which we sent the request.
    """

    origin: bytes
    prefix: bytes
    backend_host: bytes
    backend_path: bytes


def seen_from(origin: bytes, prefix: bytes, backend: str) -> Seen:
    """The two sides of a response.

    Args:
        origin: The client's side.
        prefix: Likewise.
        backend: The URL of the backend that answered; may be empty.
    """
    url = urlsplit(backend)
    return Seen(origin, prefix, (url.hostname or "").encode(), url.path.rstrip("/").encode())


def rewrite_location(value: bytes, seen: Seen) -> bytes:
    """A `Location` below the path that the client knows. One that is there already stays."""
    if not seen.prefix:
        return value
    origin, path = b"", value
    if value[: len(seen.origin)].lower() == seen.origin.lower():
        origin, path = value[: len(seen.origin)], value[len(seen.origin) :]
        path = b"/" + path if path[:1] in (b"", b"?", b"#") else path
    if path[:1] != b"/" or path[:2] == b"//" or _is_below(path, seen.prefix):
        return value  # elsewhere, or relative to where the client is
    return origin + seen.prefix + path


def rewrite_cookie(value: bytes, seen: Seen) -> bytes:
    """A `Set-Cookie` that the client can keep.

    A `Domain` that is the backend's own name, or a part of it, becomes the client's host by being left out. A `Path` is
    put below the path that the client knows.
    """
    pair, *attributes = value.split(b";")
    kept = [pair]
    for attribute in attributes:
        match = _ATTRIBUTE.fullmatch(attribute)
        if match is None or not match[2]:
            kept.append(attribute)
        elif match[1].lower() == b"domain":
            if not _is_within(seen.backend_host, match[2].lstrip(b".").lower()):
                kept.append(attribute)
        else:
            path = match[2] if pair.lstrip().startswith(_FIXED_PATH) else _moved(match[2], seen)
            kept.append(attribute[: match.start(2)] + path)
    return b";".join(kept)


def rewritten(headers: list[Header], seen: Seen, location: bool, cookies: bool) -> list[Header]:
    """A response's headers; names in lower case.

    Args:
        headers: As they came.
        seen: Where the response seems to come from.
        location: Whether to rewrite `Location`.
        cookies: Whether to rewrite `Set-Cookie`.
    """
    return [
        (name, rewrite_location(value, seen))
        if location and name == b"location"
        else (name, rewrite_cookie(value, seen))
        if cookies and name == b"set-cookie"
        else (name, value)
        for name, value in headers
    ]


def _moved(path: bytes, seen: Seen) -> bytes:
    if path[:1] != b"/":
        return path
    if seen.backend_path and _is_below(path, seen.backend_path):
        path = path[len(seen.backend_path) :] or b"/"
    if not seen.prefix or _is_below(path, seen.prefix):
        return path
    return seen.prefix if path == b"/" else seen.prefix + path


def _is_below(path: bytes, prefix: bytes) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?", b"#")


def _is_within(host: bytes, domain: bytes) -> bool:
    """RFC 6265, 5.1.3: whether `domain` covers `host`."""
    return bool(host) and (host == domain or host.endswith(b"." + domain))
