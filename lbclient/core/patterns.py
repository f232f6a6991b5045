"""What hosts and paths of routes look like, and whether one pattern takes all that another one does.

The latter is decided by one match: of the other's text, in which a character that no pattern contains stands for each
"*". Only a "*" can match that, and would match anything else there too. If the text is not matched, it is itself
something that only the other one takes.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_ANY_TEXT = "\0"  # stands for what a "*" takes; no pattern contains it


class Pattern:
    """What a host or a path has to look like.

    Attributes:
        match: A regular expression's `fullmatch`.
        samples: Texts of which another pattern matches all only if it matches all that this one does.
    """

    __slots__ = ("match", "samples")

    def __init__(self, regex: str, *samples: str) -> None:
        self.match = re.compile(regex, re.DOTALL).fullmatch
        self.samples = tuple(sample.replace("*", _ANY_TEXT) for sample in samples)

    def covers(self, other: Pattern | None) -> bool:
        """Whether all that `other` matches (None: everything) is matched."""
        return other is not None and all(map(self.match, other.samples))


def host_pattern(host: str | None) -> Pattern | None:
    """The pattern of a route's host; None when it takes every host."""
    if host is None or host == "*":
        return None
    return Pattern(re.escape(host).replace(r"\*", ".+"), host)


def path_pattern(path: str | None) -> Pattern | None:
    """The pattern of a route's path; None when it takes everything, also what is no path, as in `OPTIONS *`."""
    if path is None or path == "/*":
        return None
    exact = path.removesuffix("/*")
    regex = "/".join(_segment_regex(segment) for segment in exact.split("/"))
    if exact == path:
        return Pattern(regex, path)
    return Pattern(rf"{regex}(?:/.*)?", exact, path)


def _segment_regex(segment: str) -> str:
    if segment == "*":
        return "[^/]+"
    first, *others = map(re.escape, segment.split("*"))
    if not others:
        return first
    # The first place that fits is as good as any other, so nothing but the last "*" ever has to give back: a path
    # cannot make the match slow.
    return first + "".join(rf"(?>[^/]*?{text})" for text in others[:-1]) + rf"[^/]*{others[-1]}"


def known_host(host: str) -> str:
    """A host as patterns are written: lower case, no port, no dot at the end, international names decoded."""
    if ":" in host:
        if host.startswith("["):
            host = host[1:].partition("]")[0]
        elif host.count(":") == 1:  # more of them are an IPv6 address
            host = host.partition(":")[0]
    host = host.lower().removesuffix(".")
    return ".".join(map(_decoded, host.split("."))) if "xn--" in host else host


def _decoded(label: str) -> str:
    # httpx shows international names decoded. What is longer than DNS allows is none, and decoding it takes long.
    if not label.startswith("xn--") or len(label) > 63:
        return label
    try:
        decoded = label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    return label if decoded.isascii() else decoded


_BAD_IN_HOST = re.compile(r"[\x00-\x20\x7f/?#@%\\]")


def checked_host(host: object) -> str | None:
    """A route's host as `known_host` writes it, or an error that says what to write."""
    if host is None:
        return None
    write = "write a name such as 'api.example.com', or '*.example.com' for all below it"
    if not isinstance(host, str):
        raise TypeError(f"host is {host!r}; {write}")
    known = known_host(host)
    if "" in known.split(".") or _BAD_IN_HOST.search(host):
        raise ValueError(f"host is {host!r}; {write}")
    if host.count(":") == 1 or "]:" in host:
        raise ValueError(f"host is {host!r}; write {known!r}: routes do not tell ports apart")
    if known != "*" and "*" in known.removeprefix("*."):
        raise ValueError(f"host is {host!r}; '*' is the whole of the leftmost label or nothing: {write}")
    return known


_NOT_ON_THE_WIRE = re.compile(r"""[^\x21-\x7e]|["<>`{}]""")  # httpx encodes these in a path


def checked_path(path: object) -> str | None:
    """A route's path, or an error that says what to write."""
    if path is None:
        return None
    write = "write a path such as '/health', or '/api/*' for all below it"
    if not isinstance(path, str):
        raise TypeError(f"path is {path!r}; {write}")
    if not path.startswith("/"):
        raise ValueError(f"path is {path!r}, which does not start with '/'; {write}")
    if "?" in path or "#" in path:
        raise ValueError(
            f"path is {path!r}, which is more than a path; the query has a condition of its own: query="
        )
    if _NOT_ON_THE_WIRE.search(path):
        encoded = quote(path, safe="/*%!$&'()+,;=:@[]|^\\~")
        raise ValueError(
            f"path is {path!r}; write it as it goes over the wire ({encoded!r}), and '*' for a part that varies"
        )
    if "**" in path:
        raise ValueError(
            f"path is {path!r}; write one '*' for a part of a segment, and '/*' at the end for all below"
        )
    return path
