"""What a request asks for and where its body ends. What two readers could read in two ways is refused (RFC 9112).

The server in front of us has parsed the request, more or less strictly. What it let through is looked at once more,
since the request goes on to somebody who may read it differently, and desynchronised readers are what request
smuggling lives on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from lbclient.asgi.headers import RequestFields
from lbclient.asgi.refusals import Refusal, bad_request
from lbclient.asgi.types import Scope

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_IN_TARGETS = bytes(c for c in range(0x21, 0x7F) if c != 0x23)  # visible, and no fragment
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::([0-9]{1,5})?)?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_MOST_DIGITS = 18
_VERSIONS = frozenset({"1.0", "1.1", "2", "3"})

MOST_FIELDS = 1000
MOST_TARGET = 32 * 1024  # bytes
MOST_BYTES = 64 * 1024  # of names and values
_ALLOW = (b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")


class Framing(NamedTuple):
    """Where a request's body ends.

    Attributes:
        length: Bytes, when they are known.
        chunked: It ends when it ends.
        expects_continue: The client waits for a word before it sends it.
    """

    length: int | None = None
    chunked: bool = False
    expects_continue: bool = False

    @property
    def unknown(self) -> bool:
        """Whether only the body itself can tell: HTTP/2 needs neither header."""
        return self.length is None and not self.chunked


NO_BODY = Framing(length=0)


def is_http1(scope: Scope) -> bool:
    """Whether the client speaks a version in which headers frame the body."""
    return str(scope.get("http_version", "1.1")).startswith("1")


def framing_of(scope: Scope, fields: RequestFields) -> Framing:
    """The framing of a request's body.

    Raises:
        Refusal: It has two meanings, or asks for something that does not exist.
    """
    expects_continue = False
    if fields.expectations:
        if any(value.lower() != b"100-continue" for value in fields.expectations):
            raise Refusal(417, "this expectation cannot be met")
        expects_continue = is_http1(scope) and scope.get("http_version") != "1.0"
    codings, lengths = fields.codings, fields.lengths
    if codings:
        if lengths:
            raise bad_request("both Content-Length and Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise bad_request("a Transfer-Encoding that is not chunked, once")
        if scope.get("http_version") != "1.1":
            raise bad_request("Transfer-Encoding in a version of HTTP that has none")
        return Framing(chunked=True, expects_continue=expects_continue)
    if lengths:
        value = lengths[0]
        if len(lengths) > 1 or not value.isdigit() or len(value) > _MOST_DIGITS:
            raise bad_request("a Content-Length that is not one number")
        return Framing(length=int(value), expects_continue=expects_continue)
    return NO_BODY if is_http1(scope) else Framing()


def check_head(scope: Scope, fields: RequestFields) -> None:
    """That a request's version and headers are such that everybody reads them alike.

    Raises:
        Refusal: They are not, or there is too much of them.
    """
    if scope.get("http_version", "1.1") not in _VERSIONS:
        raise Refusal(505, "a version of HTTP that does not exist", close=True)
    if not fields.legal:
        raise bad_request("a header with an illegal character")
    if fields.size > MOST_BYTES or len(scope["headers"]) > MOST_FIELDS:
        raise Refusal(431, "too many headers, or too long", close=True)


def check_method(method: str) -> None:
    """That a method is one that can be passed on.

    Raises:
        Refusal: It cannot.
    """
    if not _METHOD.fullmatch(method):
        raise bad_request("a method that is no token")
    if method == "CONNECT":
        raise Refusal(405, "this is no forward proxy", [_ALLOW], close=True)
    if method == "TRACE":  # it would show what we add to those who must not see it
        raise Refusal(405, "TRACE is not passed on", [_ALLOW])


@dataclass(slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        host: Its `Host`, as it came.
        target: Path and query, byte for byte, less what we are mounted at.
        prefix: What we are mounted at, as the client wrote it; no slash at its end.
    """

    host: bytes
    target: bytes
    prefix: bytes


def asked_of(scope: Scope, fields: RequestFields, strip_root_path: bool) -> Asked:
    """What a request asks for.

    Args:
        scope: ASGI's.
        fields: Its headers.
        strip_root_path: The path is what lies below `root_path`.

    Raises:
        Refusal: Its target or host is illegal, or there are two of them.
    """
    path: bytes = scope.get("raw_path") or quote_from_bytes(scope["path"].encode(), safe=_SAFE).encode()
    hosts = fields.hosts
    if len(hosts) > 1:
        raise bad_request("more than one Host")
    if not hosts and scope.get("http_version") == "1.1":
        raise bad_request("no Host")
    host = hosts[0] if hosts else _own_address(scope)
    absolute = None if path[:1] == b"/" else _ABSOLUTE.fullmatch(path)
    if absolute:
        if absolute[1].lower() != host.lower():
            raise bad_request("a target at another host than Host")
        path = absolute[2] or b"/"
        path = b"/" + path if path[:1] == b"?" else path
    if not _is_host(host):
        raise bad_request("an illegal Host")
    prefix = b""
    if strip_root_path and (root_path := scope.get("root_path", "")):
        prefix, path = split_prefix(path, root_path)
    query: bytes = scope.get("query_string", b"")
    target = b"%s?%s" % (path, query) if query else path
    if target[:1] != b"/" or target.translate(None, _IN_TARGETS):
        raise bad_request("an illegal target")
    if len(target) > MOST_TARGET:
        raise Refusal(414, "a target that is too long", close=True)
    return Asked(host, target, prefix)


@lru_cache(maxsize=1024)
def _is_host(host: bytes) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and (not match[1] or int(match[1]) <= 65535)


def split_prefix(raw_path: bytes, root_path: str) -> tuple[bytes, bytes]:
    """A raw path, cut behind what `root_path` is in it; the client may have percent-encoded that as it liked.

    A server whose raw path does not begin with the root path has cut it off itself.
    """
    root = root_path.rstrip("/").encode()
    if not root:
        return b"", raw_path
    end = position = 0
    while position <= len(raw_path):  # each end of a segment could be it
        end = raw_path.find(b"/", position)
        end = len(raw_path) if end < 0 else end
        decoded = unquote_to_bytes(raw_path[:end])
        if decoded == root:
            return raw_path[:end], raw_path[end:] or b"/"
        if len(decoded) > len(root):
            break
        position = end + 1
    return b"", raw_path


_SAFE = "/!$&'()*+,;=:@-._~"


def _own_address(scope: Scope) -> bytes:
    """For HTTP/1.0 without Host: where it came to."""
    server = scope.get("server")
    if not server or server[1] is None:
        return b"localhost"
    host = f"[{server[0]}]" if ":" in server[0] else server[0]
    return f"{host}:{server[1]}".encode("ascii", "replace")
