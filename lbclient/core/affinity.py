"""Sticky sessions: what ties a client to a backend.

    CookieAffinity      the balancer's own cookie says who: signed, opaque, taken out before the request is sent
    AppCookieAffinity   the application's cookie does, once it has been seen with an answer; only read, never changed
    KeyAffinity         a hash of the request does; nothing is kept anywhere

An affinity proposes and nothing more. `tie` names one of those it is given or nobody, so a client cannot reach a
backend that may not serve it, whatever it sends; and a tie that leads nowhere is no error: the request is balanced like
any other, and `answer` ties its client to whoever answered.

The time here is the wall clock, since what a client keeps outlives processes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Literal, Protocol, get_args, runtime_checkable

from lbclient.core.algorithms.rendezvous import RendezvousLots
from lbclient.core.checks import check_flag, check_number, check_whole
from lbclient.core.cookies import (
    COOKIE_NAME,
    COOKIE_PATH,
    MOST_VALUES,
    cookie_values,
    cookies_set,
    set_cookie,
)
from lbclient.core.facts import Facts, Header, KeyLike, KeyReader, key_reader
from lbclient.core.forking import new_lock
from lbclient.core.hashing import stable64
from lbclient.core.tokens import Secret, Signer

SameSite = Literal["strict", "lax", "none"]


@runtime_checkable
class Affinity(Protocol):
    """What ties a client to a backend. Called from any thread, by several at once."""

    @property
    def sticky_while_draining(self) -> bool:
        """Whether a backend that drains goes on serving those who are tied to it."""
        ...  # pragma: no cover - a protocol

    @property
    def strip(self) -> str | None:
        """The cookie that is between client and balancer and not sent on (`without_cookie`)."""
        ...  # pragma: no cover - a protocol

    def tie(self, facts: Facts, members: Mapping[str, float], now: float) -> str | None:
        """The URL of the backend this client is tied to; None when it is tied to nobody in `members`.

        Args:
            facts: The request's.
            members: Who may serve tied clients right now, and the weight with which each takes *new* ones: 0 for one
                that only keeps those it has, such as one that drains. In declared order. Replaced when it changes and
                never edited: what is derived from it is kept for as long as the object is the same.
            now: The wall clock.
        """
        ...  # pragma: no cover - a protocol

    def answer(self, facts: Facts, chosen: str, headers: Sequence[Header], now: float) -> Header | None:
        """What to add to the response that is handed back, if the client has something new to keep.

        Args:
            facts: The request's, as they were for `tie`.
            chosen: The URL of the backend that answered.
            headers: Of its response; an affinity may learn from them.
            now: The wall clock.
        """
        ...  # pragma: no cover - a protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieAffinity:
    """The balancer's own cookie ties a client to the backend that answered it first.

    The cookie is set when the choice is new or changed, and only then; one that is stale, forged, expired or for a
    backend that may not serve is ignored and replaced. Behind another balancer of this kind, take another `name`.

    Args:
        name: Of the cookie.
        secret: What the values are signed with: at least 16 bytes, or several, of which the first signs and all verify.
            None is a random one of this process, so its clients start anew after a restart; see `Signer`.
        max_age: Seconds from the choice until it is made anew, in use or not; > 0. None: as long as the client's
            session lasts.
        path: The part of the service that shares the choice; starts with "/".
        secure: Whether the cookie is for https only; None: when it was set over https.
        samesite: Which requests from other sites carry it: "strict", "lax" or "none". Browsers take "none" over https
            only.
        sticky_while_draining: Whether a backend that drains goes on serving its clients until it is gone.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    name: str = "LBCLIENT"
    secret: Secret = field(default=None, repr=False, hash=False)
    max_age: float | None = None
    path: str = "/"
    secure: bool | None = None
    samesite: SameSite = "lax"
    sticky_while_draining: bool = True

    _signer: Signer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_text("name", self.name, COOKIE_NAME, "a cookie name such as 'LBCLIENT'")
        _check_text(
            "path", self.path, COOKIE_PATH, "a path that starts with '/', percent-encoded, like '/shop'"
        )
        if self.max_age is not None:
            check_number("max_age", self.max_age, above=0)
        if self.secure is not None and not isinstance(self.secure, bool):
            raise TypeError(f"secure is {self.secure!r}; write True, False, or None for: on https")
        check_flag("sticky_while_draining", self.sticky_while_draining)
        if self.samesite not in get_args(SameSite):
            raise ValueError(f"samesite is {self.samesite!r}; write 'strict', 'lax' or 'none'")
        if self.samesite == "none" and self.secure is False:
            raise ValueError("samesite='none' needs secure cookies; leave secure=False out")
        object.__setattr__(self, "_signer", Signer(self.secret))

    @property
    def strip(self) -> str:
        """The cookie is nothing to the backend."""
        return self.name

    def tie(self, facts: Facts, members: Mapping[str, float], now: float) -> str | None:
        """The member that the client's cookie was issued for."""
        for value in self._values(facts):
            url = self._signer.find(value, members, now)
            if url is not None:
                return url
        return None

    def answer(self, facts: Facts, chosen: str, headers: Sequence[Header], now: float) -> Header | None:
        """A `Set-Cookie` for `chosen`, unless the client's cookie says so already."""
        if any(self._signer.is_for(value, chosen, now) for value in self._values(facts)):
            return None
        value = self._signer.issue(chosen, now, self.max_age)
        return set_cookie(
            self.name,
            value,
            path=self.path,
            samesite=self.samesite,
            secure=facts.scheme == "https" if self.secure is None else self.secure,
            max_age=self.max_age,
        )

    def _values(self, facts: Facts) -> Iterator[str]:
        # Another path, or a neighbour's domain, can put a cookie of the same name before ours; but not any number.
        return islice(cookie_values(facts.headers, self.name), MOST_VALUES)


@dataclass(frozen=True, slots=True)
class AppCookieAffinity:
    """The application's own session cookie ties a client to the backend that knows the session.

    Which backend that is gets learned from answers: whoever sets the cookie has the session, and whoever answers a
    request with an unknown one has it from then on (as with HAProxy's `stick on` and `stick store-response` together).
    So after a restart, or in a second process, a session may move, but only once. When its backend cannot serve,
    whoever answers instead takes the session over. The cookie itself is neither changed nor withheld, and of several
    with the name the first counts, which is the one with the longest path.

    Kept is a hash of the value, not the value: 16 bytes however long it is, and no session to steal from a memory dump.

    Args:
        name: Of the application's cookie.
        ttl: Seconds after its last use at which a session is forgotten; > 0. It is also forgotten when the application
            deletes the cookie.
        size: How many sessions are remembered; >= 1. Beyond that the one that was not used for longest is forgotten.
            Each takes about 250 bytes.
        sticky_while_draining: Whether a backend that drains goes on serving its sessions until it is gone.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    name: str = "JSESSIONID"
    ttl: float = field(default=86400.0, kw_only=True)
    size: int = field(default=100_000, kw_only=True)
    sticky_while_draining: bool = field(default=True, kw_only=True)

    _sessions: Sessions = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _check_text("name", self.name, COOKIE_NAME, "a cookie name such as 'JSESSIONID'")
        check_number("ttl", self.ttl, above=0)
        check_whole("size", self.size, at_least=1)
        check_flag("sticky_while_draining", self.sticky_while_draining)
        object.__setattr__(self, "_sessions", Sessions(self.ttl, self.size))

    @property
    def strip(self) -> None:
        """The cookie is the application's: it goes on."""

    def tie(self, facts: Facts, members: Mapping[str, float], now: float) -> str | None:
        """The member that has the client's session, as far as we know."""
        session = self._session(facts)
        url = self._sessions.recall(session, now) if session else None
        return url if url in members else None

    def answer(self, facts: Facts, chosen: str, headers: Sequence[Header], now: float) -> None:
        """Learn who has the client's session, or that it is over."""
        begun: list[str] = []
        ended: list[str] = []
        for value, over in cookies_set(headers, self.name, now):
            (ended if over or not value else begun).append(value)
        session = self._session(facts)
        if session:  # what a deletion ends is the session that the request came with
            (ended or begun).append(session)
        for value in ended:
            self._sessions.forget(value)
        for value in begun:
            self._sessions.learn(value, chosen, now)

    def _session(self, facts: Facts) -> str | None:
        return next(cookie_values(facts.headers, self.name), None)


@dataclass(frozen=True, slots=True)
class KeyAffinity:
    """A hash of the request decides: the same key goes to the same backend, for as long as it may serve.

    By rendezvous hashing over the backends' URLs, by weight: when one leaves, its keys spread over the others and no
    other key moves; when it returns, so do they. A request without the key is balanced like any other. No cookie, no
    memory, and every process that knows the same backends decides alike. Nobody can tell from a hash whether a client
    is new, so a backend that drains hands its keys over at once, and one of weight 0 has none.

    Args:
        key: What of a request is hashed: "client_ip", "header:NAME", "cookie:NAME", "query:NAME", "path", or a callable
            of the request's facts.

    Raises:
        ValueError, TypeError: `key` is something else.
    """

    key: KeyLike = "client_ip"

    _read: KeyReader = field(init=False, repr=False, compare=False)
    _lots: tuple[Mapping[str, float], tuple[str, ...], RendezvousLots | None] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_read", key_reader(self.key))
        object.__setattr__(self, "_lots", ({}, (), None))

    def __reduce__(self) -> tuple[type[KeyAffinity], tuple[KeyLike]]:
        # Without what reads the key, a closure, and what was built of another's members.
        return type(self), (self.key,)

    @property
    def strip(self) -> None:
        """There is no cookie."""

    @property
    def sticky_while_draining(self) -> bool:
        """A key that has lost its backend has another one at once."""
        return False

    def tie(self, facts: Facts, members: Mapping[str, float], now: float) -> str | None:
        """The member with the highest score for the request's key."""
        key = self._read(facts)
        if key is None:
            return None
        learned_from, urls, lots = self._lots
        if learned_from is not members:
            shares = {url: weight for url, weight in members.items() if weight > 0}
            urls = tuple(shares)
            lots = RendezvousLots(urls, tuple(shares.values())) if shares else None
            # one tuple, replaced whole: threads need no lock, whoever loses the race builds again
            object.__setattr__(self, "_lots", (members, urls, lots))
        return None if lots is None else urls[lots.find(stable64(key))]

    def answer(self, facts: Facts, chosen: str, headers: Sequence[Header], now: float) -> None:
        """The client has nothing to keep."""


class Sessions:
    """Which backend has a session, for the sessions used last. A lock of its own, held for a few dict operations."""

    __slots__ = ("_by_use", "_lock", "_size", "_ttl")

    def __init__(self, ttl: float, size: int) -> None:
        self._ttl = ttl
        self._size = size
        self._lock = new_lock()
        # (backend, last use), oldest use first
        self._by_use: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Sessions], tuple[float, int]]:
        # A copy starts without any: they are learned where it is used.
        return type(self), (self._ttl, self._size)

    def __repr__(self) -> str:
        return f"<Sessions, {len(self._by_use)} of at most {self._size}>"

    def recall(self, session: str, now: float) -> str | None:
        """The backend that has `session`; counts as a use."""
        digest = _digest(session)
        with self._lock:
            url, used = self._by_use.pop(digest, (None, 0.0))
            if url is None or now - used > self._ttl:
                return None
            self._by_use[digest] = (url, now)
            return url

    def learn(self, session: str, url: str, now: float) -> None:
        """`session` is on `url` from now on."""
        digest = _digest(session)
        with self._lock:
            self._by_use.pop(digest, None)
            while self._by_use:
                oldest, (_, used) = next(iter(self._by_use.items()))
                if len(self._by_use) < self._size and now - used <= self._ttl:
                    break
                del self._by_use[oldest]
            self._by_use[digest] = (url, now)

    def forget(self, session: str) -> None:
        """`session` is over."""
        with self._lock:
            self._by_use.pop(_digest(session), None)


def _digest(session: str) -> bytes:
    return blake2b(session.encode("latin-1"), digest_size=16).digest()


def _check_text(name: str, value: object, form: re.Pattern[str], words: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; write {words}")
    if not form.fullmatch(value):
        raise ValueError(f"{name} is {value!r}; write {words}")
