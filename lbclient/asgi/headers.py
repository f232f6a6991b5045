"""Header pairs on their way through: what belongs to one hop is taken out, and `Via` is added (RFC 9110, 7.6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lbclient.core.facts import Header

HOP_BY_HOP = frozenset(
    {
        b"alt-svc",  # other ways to the backend are no ways to us
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Between the client and us: the body is framed anew, and who waits for a 100 gets ours.
_REQUEST_ONLY = frozenset({b"content-length", b"expect", b"host"})


def end_to_end(headers: Sequence[Header]) -> list[Header]:
    """What of a message's headers is for its recipient, in order, names in lower case as ASGI wants them."""
    kept = [(lower, value) for name, value in headers if (lower := name.lower()) not in HOP_BY_HOP]
    if len(kept) == len(headers):
        return kept
    named = _tokens([value for name, value in headers if name.lower() == b"connection"])
    return [header for header in kept if header[0] not in named]


def request_headers(headers: Sequence[Header]) -> list[Header]:
    """The headers of a request that are passed on, less its host and its framing, which are set anew.

    Several `cookie` lines, as HTTP/2 has them, become one (RFC 9113, 8.2.3). Of `TE` only "trailers" stays. A name
    with an underscore that some backends would read as a header of ours is taken out.
    """
    kept: list[Header] = []
    cookie_at: int | None = None
    for name, value in end_to_end(headers):
        if name in _REQUEST_ONLY or (b"_" in name and _is_ours(name.replace(b"_", b"-"))):
            continue
        if name == b"cookie":
            if cookie_at is not None:
                kept[cookie_at] = (b"cookie", kept[cookie_at][1] + b"; " + value)
                continue
            cookie_at = len(kept)
        kept.append((name, value))
    if any(name == b"te" and b"trailers" in _tokens([value]) for name, value in headers):
        kept.append((b"te", b"trailers"))
    return kept


def via(version: str, pseudonym: str) -> Header:
    """Who passed a message on, and by which version it came to us (RFC 9110, 7.6.3)."""
    return b"via", f"{version} {pseudonym}".encode("ascii")


def _is_ours(name: bytes) -> bool:
    return name in HOP_BY_HOP or name in _REQUEST_ONLY or name == b"via"


def _tokens(values: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for value in values for token in value.split(b","))
