"""Which pool serves a request: routes are tried in order, and the first one whose conditions all hold takes it.

A route that no request can get to is a mistake, so a router that has one is refused. Looked for is *one* earlier route
that takes all its requests; what only several take together goes unnoticed, and nothing is refused that can be reached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

from lbclient.core.affinity import CookieAffinity
from lbclient.core.facts import Facts
from lbclient.core.patterns import (
    Pattern,
    checked_host,
    checked_path,
    host_pattern,
    known_host,
    path_pattern,
)
from lbclient.core.pool import Pool
from lbclient.core.split import Routed, Split

Expected: TypeAlias = str | Literal[True] | re.Pattern[str]
"""What a header, cookie or parameter has to be: this very text, there at all, or matched by it as a whole."""

_MOST_SHOWN = 20


class NoRoute(LookupError):
    """No route takes the request, or it asks for a pool that there is not; the message lists what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The requests that go to a pool: those for which every condition holds. One without conditions takes all.

    Args:
        host: A name such as "api.example.com", or "*.example.com" for all below it however deep, but not itself (as in
            NGINX and Envoy). Case and the request's port do not matter; international names in either spelling.
        path: As it goes over the wire, percent-encoded: "/health" is that path alone, and "/api/*" is "/api" and
            all below it, but not "/apix" (as a `PathPrefix` of Kubernetes' Gateway API). Anywhere else "*" stays inside
            its segment: "/users/*/posts" needs something there, and "/*.js" takes "/.js" too. "/*" takes everything.
        methods: Names such as "GET", in any case.
        headers: What some headers have to be, by name: the exact value, True for "there at all", or a compiled regular
            expression that matches all of it. Of several with one name the first counts.
        cookies: The same for cookies.
        query: The same for the parameters of the query, decoded.
        to: Who serves these requests.

    Raises:
        ValueError, TypeError: A condition is none of the above; the message says what to write.
    """

    host: str | None = None
    path: str | None = None
    methods: Collection[str] | None = None
    headers: Mapping[str, Expected] | None = field(default=None, hash=False)
    cookies: Mapping[str, Expected] | None = field(default=None, hash=False)
    query: Mapping[str, Expected] | None = field(default=None, hash=False)
    to: Pool | Split

    _host: Pattern | None = field(init=False, repr=False, compare=False)
    _path: Pattern | None = field(init=False, repr=False, compare=False)
    _tests: tuple[_Test, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.to, (Pool, Split)):
            raise TypeError(f"to is {self.to!r}; write the Pool or Split that serves these requests")
        put = object.__setattr__
        put(self, "host", checked_host(self.host))
        put(self, "methods", _checked_methods(self.methods))
        put(self, "headers", _checked_conditions("headers", self.headers, _TOKEN, str.lower))
        put(self, "cookies", _checked_conditions("cookies", self.cookies, _TOKEN))
        put(self, "query", _checked_conditions("query", self.query, _ANYTHING))
        put(self, "_host", host_pattern(self.host))
        put(self, "_path", path_pattern(checked_path(self.path)))
        put(self, "_tests", tuple(_tests_of(self)))

    def __str__(self) -> str:
        words = [] if self.methods is None else ["method " + " or ".join(sorted(self.methods))]
        words += [f"{part} {value}" for part, value in (("host", self.host), ("path", self.path)) if value]
        for kind, conditions in (("header", self.headers), ("cookie", self.cookies), ("query", self.query)):
            words += [f"{kind} {name} {_in_words(value)}" for name, value in (conditions or {}).items()]
        return f"{', '.join(words) or 'any request'} -> {_target_in_words(self.to)}"

    def matches(self, facts: Facts) -> bool:
        """Whether every condition holds for a request."""
        return self._takes(facts.method, known_host(facts.host), facts.path, facts)

    def covers(self, other: Route) -> bool:
        """Whether this route takes all that `other` takes, as far as that can be decided from the conditions.

        Exact for hosts, paths and methods. Other conditions count as covered when `other` asks for the same, or for
        more where that is plain.
        """
        return (
            (self._path is None or self._path.covers(other._path))
            and (self._host is None or self._host.covers(other._host))
            and (
                self.methods is None
                or (other.methods is not None and set(self.methods) >= set(other.methods))
            )
            and _all_asked(self.headers, other.headers)
            and _all_asked(self.cookies, other.cookies)
            and _all_asked(self.query, other.query)
        )

    def _takes(self, method: str, host: str, path: str, facts: Facts) -> bool:
        return (
            (self._path is None or self._path.match(path) is not None)
            and (self._host is None or self._host.match(host) is not None)
            and (self.methods is None or method in self.methods)
            and (not self._tests or all(test(facts) for test in self._tests))
        )


class Router:
    """Routes, tried in order: the first one that takes a request decides which pool serves it.

    A request may name its pool itself, in `request.extensions["lbclient"]["pool"]`; then no route is asked.

    Args:
        routes: In the order in which they are tried.
        default: Who serves what no route takes.

    Raises:
        ValueError: There is nothing to route to; a route is never reached; or two pools, or the cookies of two splits
            or pools, have the same name.
        TypeError: Something is no route, or no pool.
    """

    def __init__(self, routes: Iterable[Route], default: Pool | Split | None = None) -> None:
        if isinstance(routes, (str, Route, Pool, Split)) or not isinstance(routes, Iterable):
            raise TypeError(f"routes is {routes!r}; write a list of Route(..., to=pool)")
        self.routes = tuple(routes)
        if default is not None and not isinstance(default, (Pool, Split)):
            raise TypeError(f"default is {default!r}; write a Pool, a Split, or None")
        for index, route in enumerate(self.routes):
            if not isinstance(route, Route):
                raise TypeError(f"routes[{index}] is {route!r}; write Route(..., to=pool)")
        if not self.routes and default is None:
            raise ValueError("a router needs somebody to route to; write a Route(..., to=pool), or a default")
        self.default = default
        targets = [route.to for route in self.routes]
        targets += [] if default is None else [default]
        self.pools: tuple[Pool, ...] = _distinct_pools(targets)
        _check_reached(self.routes)
        self._strip = _cookies_of(targets, self.pools)
        self._by_name = {pool.name: Routed(pool, strip=self._strip) for pool in self.pools}
        self._answers = tuple((route._takes, self._answer(route.to)) for route in self.routes)
        self._otherwise = None if default is None else self._answer(default)
        self._reads_host = any(route.host is not None for route in self.routes)

    def __repr__(self) -> str:
        routes = f"{len(self.routes)} route{'' if len(self.routes) == 1 else 's'}"
        default = "" if self.default is None else f", else {_target_in_words(self.default)}"
        return f"<Router {routes} to {_names(self.pools)}{default}>"

    def route(self, facts: Facts, now: float = 0.0) -> Routed:
        """The pool that serves a request.

        Args:
            facts: The request's.
            now: The wall clock, in seconds since 1970; sticky splits look at it.

        Raises:
            NoRoute: No route takes it and there is no default, or it asks for a pool that there is not.
        """
        if facts.options:
            name = facts.options.get("pool")
            if name is not None:
                return self._named(name)
        found = self._otherwise
        if self._answers:
            method, path = facts.method, facts.path
            host = known_host(facts.host) if self._reads_host else ""
            for takes, answer in self._answers:
                if takes(method, host, path, facts):
                    found = answer
                    break
        if found is None:
            raise NoRoute(self._why_not(facts))
        if isinstance(found, Split):
            routed = found.pick(facts, now)
            # a client sends the cookies of all splits and pools, whichever serves it
            return routed if routed.strip == self._strip else routed._replace(strip=self._strip)
        return found

    def takes(self, facts: Facts) -> bool:
        """Whether there is somebody for a request: a route, or the default."""
        return self.default is not None or any(route.matches(facts) for route in self.routes)

    def _answer(self, target: Pool | Split) -> Routed | Split:
        return target if isinstance(target, Split) else self._by_name[target.name]

    def _named(self, name: object) -> Routed:
        routed = self._by_name.get(name) if isinstance(name, str) else None
        if routed is None:
            raise NoRoute(f"the request asks for pool {name!r}; the pools are {_names(self.pools)}")
        return routed

    def _why_not(self, facts: Facts) -> str:
        shown = "; ".join(f"routes[{at}]: {route}" for at, route in enumerate(self.routes[:_MOST_SHOWN]))
        more = f"; and {len(self.routes) - _MOST_SHOWN} more" if len(self.routes) > _MOST_SHOWN else ""
        return (
            f"no route takes {facts.method} of path {facts.path!r} at host {facts.host!r} ({shown}{more}); "
            f"write a Route for it, or give the Router a default"
        )


def _distinct_pools(targets: Iterable[Pool | Split]) -> tuple[Pool, ...]:
    """All pools in order of appearance; a name is one pool's."""
    by_name: dict[str, Pool] = {}
    for target in targets:
        for pool in target.pools if isinstance(target, Split) else (target,):
            if by_name.setdefault(pool.name, pool) is not pool:
                raise ValueError(
                    f"two pools of a router are named {pool.name!r}; give each Pool(...) a name= of its own"
                )
    return tuple(by_name.values())


def _cookies_of(targets: Iterable[Pool | Split], pools: Iterable[Pool]) -> tuple[str, ...]:
    """The cookies of all sticky splits and pools; a name is one's own, or each would replace what the other has set.

    Two pools may share a name where no request belongs to the paths of both.
    """
    split_of: dict[str, Split] = {}
    for target in targets:
        if isinstance(target, Split):
            for cookie in target.strip:
                if split_of.setdefault(cookie, target) is not target:
                    raise ValueError(
                        f"two splits of a router keep their clients by the cookie {cookie!r} "
                        f"({split_of[cookie]!r} and {target!r}); give each Split(...) a cookie= of its own"
                    )
    ties: list[tuple[str, str, Pool]] = []
    for pool in pools:
        own = None if pool.affinity is None else pool.affinity.strip
        if own is None:
            continue
        path = pool.affinity.path if isinstance(pool.affinity, CookieAffinity) else "/"
        if own in split_of:
            raise ValueError(
                f"pool {pool.name!r} and a split of the router keep their clients by the cookie {own!r}; "
                f"give CookieAffinity(...) a name= of its own"
            )
        for before, its_path, other in ties:
            if before == own and _overlap(its_path, path):
                raise ValueError(
                    f"pools {other.name!r} and {pool.name!r} of a router keep their clients by the cookie {own!r}; "
                    f"give each CookieAffinity(...) a name= of its own"
                )
        ties.append((own, path, pool))
    return tuple(dict.fromkeys([*split_of, *(cookie for cookie, _, _ in ties)]))


def _overlap(one: str, other: str) -> bool:
    """Whether a client sends cookies of both paths with some request (RFC 6265, 5.1.4)."""
    one, other = (path if path.endswith("/") else f"{path}/" for path in (one, other))
    return one.startswith(other) or other.startswith(one)


def _check_reached(routes: tuple[Route, ...]) -> None:
    for later, route in enumerate(routes):
        for earlier, before in enumerate(routes[:later]):
            if not before.covers(route):
                continue
            if route.covers(before):
                raise ValueError(
                    f"routes[{later}] ({route}) takes the same requests as routes[{earlier}] ({before}); "
                    f"take one of them out, or put both pools in a Split"
                )
            raise ValueError(
                f"routes[{later}] ({route}) is never reached: routes[{earlier}] ({before}) takes all its requests; "
                f"put it before that one, or take it out"
            )


def _target_in_words(target: Pool | Split) -> str:
    return f"split {target.describe()}" if isinstance(target, Split) else f"pool {target.name!r}"


def _names(pools: Iterable[Pool]) -> str:
    return ", ".join(repr(pool.name) for pool in pools)


# Methods, headers, cookies, query

_Test: TypeAlias = Callable[[Facts], bool]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_ANYTHING = re.compile(r".+", re.DOTALL)


def _checked_methods(methods: object) -> frozenset[str] | None:
    if methods is None:
        return None
    write = "write a collection of names such as ('GET', 'HEAD')"
    if isinstance(methods, (str, bytes)) or not isinstance(methods, Collection):
        raise TypeError(f"methods is {methods!r}; {write}")
    if not methods:
        raise ValueError(f"methods is {methods!r}, so no request would match; {write}, or leave it out")
    names: set[str] = set()
    for method in cast("Collection[object]", methods):
        if not isinstance(method, str):
            raise TypeError(f"methods has {method!r}; {write}")
        if not _TOKEN.fullmatch(method):
            raise ValueError(f"methods has {method!r}; {write}")
        names.add(method.upper())
    return frozenset(names)


def _checked_conditions(
    argument: str, conditions: object, form: re.Pattern[str], fold: Callable[[str], str] = str
) -> Mapping[str, Expected] | None:
    if conditions is None:
        return None
    if not isinstance(conditions, Mapping):
        raise TypeError(f"{argument} is {conditions!r}; write a mapping such as {{'name': 'value'}}")
    folded: dict[str, Expected] = {}
    for name, expected in cast("Mapping[object, object]", conditions).items():
        if not isinstance(name, str):
            raise TypeError(f"{argument} has {name!r}; names are strings")
        if not form.fullmatch(name):
            raise ValueError(f"{argument} has {name!r}, which cannot be a name there")
        if not _is_expected(expected):
            raise TypeError(
                f"{argument} has {name!r}: {expected!r}; write the exact value, True for 'there at all', "
                f"or re.compile(...) of text"
            )
        if fold(name) in folded:
            raise ValueError(f"{argument} has {name!r} twice, in different case; keep one")
        folded[fold(name)] = cast("Expected", expected)
    return MappingProxyType(folded)


def _is_expected(value: object) -> bool:
    if isinstance(value, re.Pattern):
        return isinstance(cast("re.Pattern[str] | re.Pattern[bytes]", value).pattern, str)
    return isinstance(value, str) or value is True


def _tests_of(route: Route) -> Iterator[_Test]:
    for conditions, read in ((route.headers, _header), (route.cookies, _cookie), (route.query, _query)):
        for name, expected in (conditions or {}).items():
            yield _test(read, name, expected)


def _header(facts: Facts, name: str) -> str | None:
    return facts.header(name)


def _cookie(facts: Facts, name: str) -> str | None:
    return facts.cookies.get(name)


def _query(facts: Facts, name: str) -> str | None:
    return facts.query.get(name)


def _test(read: Callable[[Facts, str], str | None], name: str, expected: Expected) -> _Test:
    return lambda facts: _holds(expected, read(facts, name))


def _holds(expected: Expected, value: str | None) -> bool:
    if expected is True or value is None:
        return value is not None
    return value == expected if isinstance(expected, str) else expected.fullmatch(value) is not None


def _all_asked(earlier: Mapping[str, Expected] | None, later: Mapping[str, Expected] | None) -> bool:
    """Whether every request that meets the later conditions meets the earlier ones; False when that is not plain."""
    return all(_is_asked(expected, (later or {}).get(name)) for name, expected in (earlier or {}).items())


def _is_asked(earlier: Expected, later: Expected | None) -> bool:
    if later is None or later == earlier:
        return later is not None
    return earlier is True or (isinstance(later, str) and _holds(earlier, later))


def _in_words(expected: Expected) -> str:
    if expected is True:
        return "is there"
    return f"is {expected!r}" if isinstance(expected, str) else f"matches {expected.pattern!r}"
