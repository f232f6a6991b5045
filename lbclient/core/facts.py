"""What the core knows of a request (`Facts`), and the keys that hashing, affinity and limits derive from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from typing import TypeAlias
from urllib.parse import parse_qsl

Header: TypeAlias = tuple[bytes, bytes]


class Facts:
    """The facts of one request, read when somebody asks for them.

    Args:
        method: Upper case.
        host: The logical host.
        target: Path and query as they go over the wire.
        headers: Pairs as httpx keeps them; the names' case does not matter.
        options: `request.extensions["lbclient"]`.
        scheme: Of the logical URL.
    """

    def __init__(
        self,
        method: str = "GET",
        host: str = "",
        target: bytes = b"/",
        headers: Sequence[Header] = (),
        options: Mapping[str, object] | None = None,
        scheme: str = "http",
    ) -> None:
        self.method = method
        self.host = host
        self.target = target
        self.headers = headers
        self.options: Mapping[str, object] = options or {}
        self.scheme = scheme

    def __repr__(self) -> str:
        return f"<Facts {self.method} {self.path} at {self.host!r}>"

    @property
    def path(self) -> str:
        """The path as it goes over the wire, without the query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def content(self) -> bytes | None:
        """The body, where all of it is in memory; None where it is streamed, or not known here."""
        return None

    @property
    def client_ip(self) -> str | None:
        """The end client's address, where the caller or a middleware told it."""
        address = self.options.get("client_ip")
        return None if address is None else str(address)

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.headers:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return None

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the request; what cannot be read is left out."""
        found: dict[str, str] = {}
        for pair in (self.header("cookie") or "").split(";"):
            try:
                found.update((name, morsel.value) for name, morsel in SimpleCookie(pair.strip()).items())
            except CookieError:
                continue
        return found

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The parameters of the query; of repeated ones the first."""
        pairs: Iterable[tuple[str, str]] = parse_qsl(
            self.target.partition(b"?")[2].decode("latin-1"), keep_blank_values=True
        )
        return dict(reversed(list(pairs)))


KeyLike: TypeAlias = str | Callable[[Facts], object]
KeyReader: TypeAlias = Callable[[Facts], bytes | None]

_FORMS = (
    "'client_ip', 'path', 'header:NAME', 'cookie:NAME', 'query:NAME', or a callable of the request's facts"
)


def as_key(value: object) -> bytes | None:
    """`value` as the bytes that are hashed; None stays None: no key."""
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()


def key_reader(key: KeyLike) -> KeyReader:
    """The function that reads `key` off a request.

    Raises:
        ValueError: `key` is a string of another form.
        TypeError: `key` is neither a string nor callable.
    """
    if callable(key):
        own = key
        return lambda facts: as_key(own(facts))
    if not isinstance(key, str):
        raise TypeError(f"key is {key!r}; write {_FORMS}")
    kind, colon, name = key.partition(":")
    if kind == "client_ip" and not colon:
        return lambda facts: as_key(facts.client_ip)
    if kind == "path" and not colon:
        return lambda facts: as_key(facts.path)
    if name and kind == "header":
        return lambda facts: as_key(facts.header(name))
    if name and kind == "cookie":
        return lambda facts: as_key(facts.cookies.get(name))
    if name and kind == "query":
        return lambda facts: as_key(facts.query.get(name))
    raise ValueError(f"key is {key!r}; write {_FORMS}")
