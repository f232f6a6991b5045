"""Routes and routers: who takes which request, and which mistakes are found before there is one."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient import CookieAffinity, Facts, Pool
from lbclient.core.routing import NoRoute, Route, Router
from lbclient.core.split import Routed, Split

API, STATIC, ADMIN = (Pool(["http://10.0.0.1:80"], name=name) for name in ("api", "static", "admin"))
API_2 = Pool(["http://10.0.0.3:80"], name="api-2")
NAMESAKE = Pool(["http://10.0.0.2:80"], name="api")


def takes(facts: Facts, **conditions: Any) -> bool:
    return Route(**conditions, to=API).matches(facts)


def at(path: str = "/", host: str = "orders", method: str = "GET") -> Facts:
    return Facts(method, host, path.encode("latin-1"))


# Paths


@pytest.mark.parametrize(
    ("pattern", "taken", "passed"),
    [
        ("/health", ["/health", "/health?deep=1"], ["/health/", "/healthy", "/Health", "/x/health", "/"]),
        ("/", ["/", "/?a=/b"], ["/a", "//", ""]),
        ("/api/", ["/api/"], ["/api", "/api/x"]),
        (
            "/api/*",
            ["/api", "/api/", "/api/x", "/api/x/y/", "/api?x", "/api//", "/api/\n"],
            ["/apix", "/", "/v/api/x"],
        ),
        ("/api*", ["/api", "/apix", "/api-2"], ["/api/x", "/apix/y", "/ap"]),
        ("/*", ["/", "/a", "/a/b", "//", "", "*", "host:443"], []),
        ("/*/", ["/a/"], ["/", "//", "/a", "/a/b/"]),
        ("/*/*", ["/a", "/a/", "/a/b", "/a/b/c"], ["/", "//", "//b"]),
        ("/users/*/posts", ["/users/7/posts"], ["/users//posts", "/users/7/8/posts", "/users/7/posts/1"]),
        ("/users/*/posts/*", ["/users/7/posts", "/users/7/posts/1/2"], ["/users/7", "/users/posts/1"]),
        ("/*.js", ["/a.js", "/.js", "/a.js.js"], ["/a.jsx", "/d/a.js", "/ajs", "/a.js/b"]),
        ("/a*b*c", ["/abc", "/a-b-c", "/abbcc"], ["/ac", "/acb", "/a/b/c", "/abcd"]),
        ("/v*/items", ["/v1/items", "/v/items"], ["/w1/items", "/v1/x/items"]),
        ("/a.c", ["/a.c"], ["/abc"]),
        ("/caf%C3%A9/*", ["/caf%C3%A9/x"], ["/caf\xe9/x", "/caf%c3%a9/x"]),
        ("/a%2Fb", ["/a%2Fb"], ["/a/b"]),
    ],
)
def test_a_path_takes_what_it_says_and_nothing_else(
    pattern: str, taken: list[str], passed: list[str]
) -> None:
    route = Route(path=pattern, to=API)
    assert [path for path in taken if not route.matches(at(path))] == []
    assert [path for path in passed if route.matches(at(path))] == []


def naive_path(pattern: str, path: str) -> bool:
    """The words of `Route`, segment by segment."""
    if pattern == "/*":
        return True
    wanted, have = pattern.split("/"), path.split("/")
    if wanted[-1] == "*" and len(wanted) > 1:
        wanted = wanted[:-1]
        have = have[: len(wanted)]
    return len(wanted) == len(have) and all(map(naive_segment, wanted, have))


def naive_segment(wanted: str, have: str) -> bool:
    if wanted == "*":
        return have != ""
    if "*" not in wanted:
        return wanted == have
    start, rest = wanted.split("*", 1)
    if not have.startswith(start):
        return False
    have = have.removeprefix(start)
    tails = (have[skip:] for skip in range(len(have) + 1))
    return any(naive_segment(rest, tail) if rest != "*" else True for tail in tails)


PATTERNS = st.text("ab/*", max_size=7).map(lambda text: "/" + re.sub(r"\*+", "*", text))
PATHS = st.text("ab/", max_size=7).map(lambda text: "/" + text)


@given(PATTERNS, PATHS)
def test_paths_match_as_the_words_say(pattern: str, path: str) -> None:
    assert takes(at(path), path=pattern) == naive_path(pattern, path)


def test_no_path_makes_a_pattern_slow() -> None:
    route = Route(path="/a*a*a*a*a*a*a*a*b/*/c*d*e", to=API)
    paths = ["/" + "a" * 50_000, "/" + "a" * 50_000 + "b/x/" + "cd" * 25_000]
    started = time.perf_counter()
    for path in paths:
        assert not route.matches(at(path))
    assert time.perf_counter() - started < 1


# Hosts


@pytest.mark.parametrize(
    ("pattern", "taken", "passed"),
    [
        ("orders", ["orders", "ORDERS", "orders:8080", "orders."], ["orders2", "x.orders", "", "order"]),
        ("Api.Example.com", ["api.example.com"], ["api-example.com", "apixexample.com"]),
        (
            "*.example.com",
            ["a.example.com", "A.B.Example.com:443", "a.example.com."],
            ["example.com", ".example.com", "badexample.com", "a.example.com.evil.org"],
        ),
        ("*.b.example.com", ["a.b.example.com"], ["b.example.com", "a.example.com"]),
        ("*", ["orders", "a.b", ""], []),
        ("10.0.0.1", ["10.0.0.1", "10.0.0.1:80"], ["10.0.0.10"]),
        ("::1", ["::1", "[::1]", "[::1]:80"], ["::2", "1"]),
        ("[2001:DB8::1]", ["2001:db8::1", "[2001:db8::1]:8080"], ["2001"]),
        ("bücher.example", ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example"], ["bucher.example"]),
        ("xn--bcher-kva.example", ["bücher.example", "xn--bcher-kva.example:80"], ["xn--bcher.example"]),
        ("*.xn--bcher-kva.example", ["a.bücher.example"], ["bücher.example"]),
        ("api.example", ["api.example"], ["xn--api-.example"]),
        ("é" * 99, ["É" * 99], ["xn--" + ("é" * 99).encode("punycode").decode()]),  # longer than DNS allows
        (
            "api.example.com.",
            ["api.example.com"],
            ["xn--\xff.example", "xn--99999999.example", "xn--" + "a" * 9999],
        ),
    ],
)
def test_a_host_takes_what_it_says_and_nothing_else(
    pattern: str, taken: list[str], passed: list[str]
) -> None:
    route = Route(host=pattern, to=API)
    assert [host for host in taken if not route.matches(at(host=host))] == []
    assert [host for host in passed if route.matches(at(host=host))] == []


@given(st.text(max_size=80), st.sampled_from(["", "xn--", "[", "a.xn--", ":"]))
def test_no_host_breaks_a_router(text: str, start: str) -> None:
    router = Router([Route(host="a.example", to=API), Route(host="*.b", to=STATIC)], default=ADMIN)
    assert router.route(at(host=start + text)).pool in router.pools


# Methods, headers, cookies, query


def test_methods_are_names_in_any_case() -> None:
    route = Route(methods=["get", "Head"], to=API)
    assert [method for method in ("GET", "HEAD", "POST", "") if route.matches(at(method=method))] == [
        "GET",
        "HEAD",
    ]
    assert route.methods == {"GET", "HEAD"}


REQUEST = Facts(
    "GET",
    "orders",
    b"/items?v=2&v=3&empty=&name=%C3%A9",
    [(b"X-Canary", b"yes"), (b"x-canary", b"no"), (b"Cookie", b"beta=1; user=ann"), (b"X-None", b"")],
)


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"headers": {"x-canary": "yes"}}, True),
        ({"headers": {"X-CANARY": "yes"}}, True),
        ({"headers": {"x-canary": "no"}}, False),
        ({"headers": {"x-canary": "ye"}}, False),
        ({"headers": {"x-canary": True}}, True),
        ({"headers": {"x-none": True}}, True),
        ({"headers": {"x-none": ""}}, True),
        ({"headers": {"x-missing": True}}, False),
        ({"headers": {"x-missing": ""}}, False),
        ({"headers": {"x-missing": re.compile(".*")}}, False),
        ({"headers": {"x-canary": re.compile("y.s")}}, True),
        ({"headers": {"x-canary": re.compile("YES")}}, False),
        ({"headers": {"x-canary": re.compile("YES", re.IGNORECASE)}}, True),
        ({"headers": {"x-canary": re.compile("ye")}}, False),
        ({"headers": {}}, True),
        ({"cookies": {"beta": "1"}}, True),
        ({"cookies": {"beta": "2"}}, False),
        ({"cookies": {"Beta": True}}, False),
        ({"cookies": {"beta": True, "user": re.compile("[a-z]+")}}, True),
        ({"cookies": {"beta": True, "user": "bob"}}, False),
        ({"query": {"v": "2"}}, True),
        ({"query": {"v": "3"}}, False),
        ({"query": {"empty": True}}, True),
        ({"query": {"name": "é"}}, True),
        ({"query": {"missing": True}}, False),
        ({"methods": ["GET"], "host": "orders", "path": "/items", "query": {"v": "2"}}, True),
        ({"methods": ["PUT"], "host": "orders", "path": "/items", "query": {"v": "2"}}, False),
        ({"methods": ["GET"], "host": "order", "path": "/items", "query": {"v": "2"}}, False),
        ({"methods": ["GET"], "host": "orders", "path": "/item", "query": {"v": "2"}}, False),
        ({"methods": ["GET"], "host": "orders", "path": "/items", "query": {"v": "1"}}, False),
        ({}, True),
    ],
)
def test_all_conditions_have_to_hold(conditions: dict[str, Any], holds: bool) -> None:
    assert takes(REQUEST, **conditions) is holds


HOSTS = st.sampled_from([None, "*", "a", "*.a", "*.b.a", "x.b.a"])
METHODS = st.none() | st.sets(st.sampled_from(["GET", "PUT", "HEAD"]), min_size=1)
EXPECTED = st.sampled_from(["1", "2", True, re.compile("[12]"), re.compile("[1-9]+")])
CONDITIONS = st.none() | st.dictionaries(st.sampled_from(["x", "y"]), EXPECTED)
ROUTES = st.builds(
    Route,
    host=HOSTS,
    path=st.none() | PATTERNS,
    methods=METHODS,
    headers=CONDITIONS,
    cookies=CONDITIONS,
    query=CONDITIONS,
    to=st.just(API),
)
VALUES = st.sampled_from([None, "1", "2", "33"])


@st.composite
def requests(draw: st.DrawFn) -> Facts:
    pairs = {kind: {name: draw(VALUES) for name in "xy"} for kind in ("headers", "cookies", "query")}
    there = {kind: {n: v for n, v in values.items() if v is not None} for kind, values in pairs.items()}
    target = draw(PATHS) + "?" + "&".join(f"{name}={value}" for name, value in there["query"].items())
    cookies = "; ".join(f"{name}={value}" for name, value in there["cookies"].items())
    headers = [(name.upper().encode(), value.encode()) for name, value in there["headers"].items()]
    return Facts(
        draw(st.sampled_from(["GET", "PUT", "HEAD"])),
        draw(st.sampled_from(["a", "b.a", "x.b.a", "y.x.b.a"])),
        target.encode(),
        [*headers, (b"Cookie", cookies.encode())],
    )


def naive(route: Route, facts: Facts) -> bool:
    """The words of `Route`, read one by one."""
    if route.host not in (None, "*"):
        assert route.host is not None
        suffix = route.host.removeprefix("*")
        if not (facts.host == route.host or (suffix != route.host and facts.host.endswith(suffix))):
            return False
    if route.path is not None and not naive_path(route.path, facts.path):
        return False
    if route.methods is not None and facts.method not in route.methods:
        return False
    lowered = {name.lower().decode(): value.decode() for name, value in facts.headers}
    for wanted, have in (
        (route.headers, lowered),
        (route.cookies, facts.cookies),
        (route.query, facts.query),
    ):
        for name, expected in (wanted or {}).items():
            value = have.get(name)
            if value is None:
                return False
            if isinstance(expected, str) and value != expected:
                return False
            if isinstance(expected, re.Pattern) and not expected.fullmatch(value):
                return False
    return True


@given(ROUTES, requests())
def test_a_route_takes_what_its_words_say(route: Route, facts: Facts) -> None:
    assert route.matches(facts) == naive(route, facts)


# Unreachable routes


ALL_PATHS = ["/" + "".join(letters) for length in range(7) for letters in product("ac/", repeat=length)]
SHORT_PATTERNS = st.text("a/*", max_size=4).map(lambda text: "/" + re.sub(r"\*+", "*", text))


@given(SHORT_PATTERNS, SHORT_PATTERNS)
def test_a_path_covers_another_exactly_when_it_takes_all_its_paths(earlier: str, later: str) -> None:
    first, second = Route(path=earlier, to=API), Route(path=later, to=STATIC)
    counterexample = next(
        (path for path in ALL_PATHS if second.matches(at(path)) and not first.matches(at(path))), None
    )
    # "c" is in no pattern, so whatever is not covered shows among these paths; what is no path at all is "/*" alone's
    if later == "/*" and earlier != "/*":
        assert not first.covers(second)
    else:
        assert first.covers(second) == (counterexample is None)


@given(ROUTES, ROUTES, requests())
def test_a_route_that_is_covered_has_nothing_to_itself(earlier: Route, later: Route, facts: Facts) -> None:
    if earlier.covers(later) and later.matches(facts):
        assert earlier.matches(facts)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {"path": "/api"}),
        ({"path": "/*"}, {"host": "orders"}),
        ({"path": "/api/*"}, {"path": "/api"}),
        ({"path": "/api/*"}, {"path": "/api/v1/*"}),
        ({"path": "/*.js"}, {"path": "/app.js", "methods": ["GET"]}),
        ({"path": "/users/*/posts"}, {"path": "/users/a*/posts"}),
        ({"host": "*.example.com"}, {"host": "a.example.com", "path": "/x"}),
        ({"host": "*.example.com"}, {"host": "*.a.example.com"}),
        ({"host": "*"}, {"host": "*.example.com"}),
        ({"methods": ["GET", "HEAD"]}, {"methods": ["GET"]}),
        ({"headers": {"x-a": True}}, {"headers": {"X-A": "1"}, "path": "/a"}),
        ({"cookies": {"a": re.compile("[0-9]+")}}, {"cookies": {"a": "12", "b": True}}),
        ({"query": {"a": True}}, {"query": {"a": re.compile("[0-9]")}}),
        ({"headers": {}}, {"query": {"v": "1"}}),
    ],
)
def test_a_route_that_is_never_reached_is_reported(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    routes = [Route(**earlier, to=API), Route(**later, to=STATIC)]
    with pytest.raises(
        ValueError, match=r"routes\[2\] \(.*'static'\) is never reached: routes\[1\] \(.*'api'"
    ):
        Router([Route(methods=["PURGE"], path="/purge", to=ADMIN), *routes])
    Router(routes[::-1])  # the specific one first is how it is meant


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"path": "/api"}, {"path": "/api/*"}),
        ({"path": "/api*"}, {"path": "/api/*"}),
        ({"path": "/users/*"}, {"path": "/*/posts"}),
        ({"path": "/a*"}, {"path": "/*a"}),
        ({"path": "/api/*"}, {}),
        ({"path": "/*/*"}, {"path": "/"}),
        ({"path": "/api/*/*"}, {"path": "/api/*"}),
        ({"host": "*.example.com"}, {"host": "example.com"}),
        ({"host": "*.example.com"}, {"host": "*"}),
        ({"host": "*.example.com", "path": "/*"}, {"path": "/x"}),
        ({"methods": ["GET"]}, {"methods": ["GET", "HEAD"]}),
        ({"methods": ["GET"]}, {"path": "/x"}),
        ({"path": "/api/*", "headers": {"x-canary": "yes"}}, {"path": "/api/*"}),
        ({"headers": {"a": "1"}}, {"headers": {"a": "2"}}),
        ({"headers": {"a": "1"}}, {"headers": {"a": True}}),
        ({"headers": {"a": "1"}}, {"cookies": {"a": "1"}}),
        ({"headers": {"a": re.compile("x")}}, {"headers": {"a": re.compile("y")}}),
        ({"query": {"a": re.compile("[0-9]+")}}, {"query": {"a": "x"}}),
    ],
)
def test_a_route_that_is_reached_is_not(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    Router([Route(**earlier, to=API), Route(**later, to=STATIC)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path": "/api/*", "methods": ["get"]}, {"path": "/api/*", "methods": {"GET"}}),
        ({"path": "/*"}, {}),
        ({"host": "Orders."}, {"host": "orders"}),
        ({"headers": {"X-A": re.compile("a")}}, {"headers": {"x-a": re.compile("a")}}),
    ],
)
def test_routes_that_take_the_same_requests_are_reported(one: dict[str, Any], other: dict[str, Any]) -> None:
    words = r"routes\[1\] \(.* -> pool 'static'\) takes the same requests as routes\[0\] \(.* -> pool 'api'\)"
    with pytest.raises(ValueError, match=words):
        Router([Route(**one, to=API), Route(**other, to=STATIC)])


# Routers


def test_the_first_route_that_takes_a_request_serves_it() -> None:
    router = Router(
        [
            Route(path="/static/*", to=STATIC),
            Route(path="/admin/*", methods=["GET"], to=ADMIN),
            Route(path="/*", to=API),
        ]
    )
    served = {
        path: router.route(at(path)).pool.name for path in ("/static/a.js", "/admin", "/admin/x", "/", "/x")
    }
    assert served == {
        "/static/a.js": "static",
        "/admin": "admin",
        "/admin/x": "admin",
        "/": "api",
        "/x": "api",
    }
    assert router.route(at("/admin", method="PUT")).pool is API
    assert router.pools == (STATIC, ADMIN, API)


def test_hosts_are_told_apart() -> None:
    router = Router([Route(host="static", to=STATIC), Route(host="*.static", path="/x", to=ADMIN)], API)
    assert router.route(at(host="STATIC:80")).pool is STATIC
    assert router.route(at("/x", host="a.static")).pool is ADMIN
    assert router.route(at("/y", host="a.static")).pool is API


def test_the_default_serves_what_no_route_takes() -> None:
    router = Router([Route(path="/static/*", to=STATIC)], default=API)
    assert router.route(at("/x")) == Routed(API)
    assert Router([], default=API).route(at("/x")).pool is API
    # who writes both a last resort and a default has made no mistake: the default still can be named
    both = Router([Route(to=STATIC)], default=API)
    assert both.route(Facts(options={"pool": "api"})).pool is API


def test_a_request_that_nobody_takes_is_told_what_there_is() -> None:
    router = Router(
        [
            Route(
                host="*.example.com",
                path="/api/*",
                methods=["PUT", "get"],
                headers={"X-Canary": "yes"},
                cookies={"beta": True},
                query={"v": re.compile("[0-9]")},
                to=API,
            ),
            Route(path="/static/*", to=Split({STATIC: 9, ADMIN: 1})),
            Route(methods=["TRACE"], to=Split({STATIC: 1}, name="trace")),
        ]
    )
    with pytest.raises(NoRoute) as caught:
        router.route(at("/x\n?secret=1", method="POST"))
    assert str(caught.value) == (
        r"no route takes POST of path '/x\n' at host 'orders' ("
        "routes[0]: method GET or PUT, host *.example.com, path /api/*, header x-canary is 'yes', "
        "cookie beta is there, query v matches '[0-9]' -> pool 'api'; "
        "routes[1]: path /static/* -> split 'static' 9, 'admin' 1; "
        "routes[2]: method TRACE -> split 'trace': 'static' 1); "
        "write a Route for it, or give the Router a default"
    )
    assert isinstance(caught.value, LookupError)


def test_the_list_of_routes_has_an_end() -> None:
    router = Router([Route(path=f"/{number}", to=API) for number in range(50)])
    with pytest.raises(NoRoute, match=r"routes\[19\]: path /19 -> pool 'api'; and 30 more\)"):
        router.route(at("/x"))


def test_a_request_can_name_its_pool() -> None:
    split = Split({STATIC: 1, ADMIN: 0})
    router = Router([Route(path="/api/*", to=API), Route(path="/static/*", to=split)])
    for name in ("api", "static", "admin"):
        assert router.route(Facts(target=b"/api/x", options={"pool": name})).pool.name == name
        assert router.route(Facts(target=b"/nowhere", options={"pool": name})).pool.name == name
    assert router.route(Facts(target=b"/api/x", options={"pool": None})).pool is API
    assert router.route(Facts(target=b"/api/x", options={"key": "k"})).pool is API


@pytest.mark.parametrize("name", ["other", "", 7, ["api"], API])
def test_a_pool_that_there_is_not_is_told_with_those_there_are(name: object) -> None:
    router = Router([Route(path="/static/*", to=STATIC)], default=API)
    with pytest.raises(NoRoute, match=r"asks for pool .*; the pools are 'static', 'api'"):
        router.route(Facts(options={"pool": name}))


def test_the_repr_tells_who_is_served() -> None:
    assert repr(Router([Route(to=API)])) == "<Router 1 route to 'api'>"
    router = Router(
        [Route(path="/a", to=API), Route(path="/b", to=STATIC)], default=Split({API: 1, ADMIN: 2})
    )
    assert repr(router) == "<Router 2 routes to 'api', 'static', 'admin', else split 'api' 1, 'admin' 2>"
    assert str(Route(to=API)) == "any request -> pool 'api'"


# Routers with splits


def test_a_split_shares_the_requests_of_its_route() -> None:
    split = Split({API: 3, ADMIN: 1}, rng=random.Random(1))
    router = Router([Route(path="/static/*", to=STATIC), Route(path="/api/*", to=split)], default=split)
    names = []
    for _ in range(8):
        names += [router.route(at(path)).pool.name for path in ("/api/x", "/static/y", "/other")]
    assert Counter(names) == {"api": 12, "static": 8, "admin": 4}, (
        "one rotation, by whichever way it is reached"
    )
    assert router.pools == (STATIC, API, ADMIN)
    split.set({API: 0, ADMIN: 1})
    assert router.route(at("/api/x")).pool is ADMIN


def test_the_cookies_of_all_splits_are_taken_out_of_every_request() -> None:
    pages = Split({STATIC: 1}, sticky=True, cookie="pages")
    api = Split({API: 1, API_2: 1}, sticky=True, cookie="api")
    router = Router(
        [
            Route(path="/pages/*", to=pages),
            Route(path="/api/*", to=api),
            Route(path="/plain/*", to=ADMIN),
            Route(path="/split/*", to=Split({ADMIN: 1})),
        ]
    )
    for path in ("/pages/1", "/api/1", "/plain/1", "/split/1"):
        assert router.route(at(path)).strip == ("pages", "api"), "a client sends them wherever it goes"
    named = router.route(Facts(target=b"/api/1", options={"pool": "api"}))
    assert named == Routed(API, None, ("pages", "api"))
    only = Router([Route(path="/pages/*", to=pages)], default=ADMIN)
    assert only.route(at("/pages/1")).strip == only.route(at("/x")).strip == ("pages",)


def test_a_sticky_split_keeps_its_clients_through_a_router() -> None:
    router = Router([Route(path="/*", to=Split({API: 1, ADMIN: 1}, sticky=True))])
    first = router.route(at("/a"), now=1000.0)
    assert first.set_cookie is not None
    pair = first.set_cookie[1].partition(b";")[0]
    for _ in range(4):
        again = router.route(Facts(target=b"/b", headers=[(b"cookie", pair)]), now=2000.0)
        assert again == Routed(first.pool, None, ("LBCLIENT-SPLIT",))


def test_two_splits_cannot_keep_clients_by_one_cookie() -> None:
    splits = [Split({pool: 1}, sticky=True) for pool in (API, STATIC)]
    with pytest.raises(ValueError, match=r"two splits .* cookie 'LBCLIENT-SPLIT'.*a cookie= of its own"):
        Router([Route(path="/api/*", to=splits[0])], default=splits[1])
    Router([Route(path="/api/*", to=splits[0])], default=splits[0])


def tied(pool: str, **cookie: Any) -> Pool:
    return Pool(["http://a:1"], name=pool, affinity=CookieAffinity(**cookie))


def test_two_pools_cannot_keep_clients_by_one_cookie() -> None:
    with pytest.raises(ValueError, match=r"pools 'one' and 'two' .* cookie 'LBCLIENT'.*a name= of its own"):
        Router([Route(path="/api/*", to=tied("one"))], default=tied("two"))
    with pytest.raises(ValueError, match=r"pools 'one' and 'two'"):
        Router([Route(path="/api/*", to=tied("one", path="/api"))], default=tied("two"))
    split = Split({API: 1}, sticky=True, cookie="LBCLIENT")
    with pytest.raises(ValueError, match=r"pool 'one' and a split .* cookie 'LBCLIENT'"):
        Router([Route(path="/api/*", to=tied("one"))], default=split)


def test_cookies_of_every_pool_are_kept_from_whichever_serves() -> None:
    one, two = tied("one", path="/api"), tied("two", path="/apis")
    router = Router(
        [Route(path="/api/*", to=one), Route(path="/apis/*", to=two)], default=tied("three", name="C")
    )
    assert router.route(at("/api/1")).strip == router.route(at("/")).strip == ("LBCLIENT", "C")


# Construction


@pytest.mark.parametrize(
    ("conditions", "error", "words"),
    [
        ({"path": "api"}, ValueError, "path is 'api', which does not start with '/'; write a path such as"),
        ({"path": "*"}, ValueError, "does not start with '/'"),
        ({"path": ""}, ValueError, "does not start with '/'"),
        ({"path": b"/api"}, TypeError, "path is b'/api'; write a path such as"),
        ({"path": "/api?x=1"}, ValueError, "query="),
        ({"path": "/api#x"}, ValueError, "more than a path"),
        ({"path": "/café/*"}, ValueError, "as it goes over the wire ('/caf%C3%A9/*')"),
        ({"path": "/a b"}, ValueError, "'/a%20b'"),
        ({"path": "/a\0"}, ValueError, "'/a%00'"),
        ({"path": "/users/{id}"}, ValueError, "'*' for a part that varies"),
        ({"path": "/static/**"}, ValueError, "'/*' at the end for all below"),
        ({"host": ""}, ValueError, "host is ''; write a name such as 'api.example.com'"),
        ({"host": "."}, ValueError, "host is '.'"),
        ({"host": ".example.com"}, ValueError, "'*.example.com' for all below it"),
        ({"host": "http://orders"}, ValueError, "host is 'http://orders'; write a name"),
        ({"host": "a b"}, ValueError, "host is 'a b'"),
        ({"host": "orders/x"}, ValueError, "host is 'orders/x'"),
        ({"host": "orders:8080"}, ValueError, "write 'orders': routes do not tell ports apart"),
        ({"host": "[::1]:80"}, ValueError, "write '::1'"),
        ({"host": "www.example.*"}, ValueError, "leftmost label"),
        ({"host": "a*.example.com"}, ValueError, "leftmost label"),
        ({"host": "*.*.example.com"}, ValueError, "leftmost label"),
        ({"host": ["a"]}, TypeError, "host is ['a']"),
        ({"methods": "GET"}, TypeError, "methods is 'GET'; write a collection of names such as"),
        ({"methods": 7}, TypeError, "methods is 7"),
        ({"methods": []}, ValueError, "no request would match"),
        ({"methods": ["GET "]}, ValueError, "methods has 'GET '"),
        ({"methods": [b"GET"]}, TypeError, "methods has b'GET'"),
        ({"headers": [("a", "b")]}, TypeError, "headers is [('a', 'b')]; write a mapping"),
        ({"headers": {"a b": "c"}}, ValueError, "headers has 'a b', which cannot be a name there"),
        ({"headers": {b"a": "c"}}, TypeError, "headers has b'a'; names are strings"),
        ({"headers": {"a": None}}, TypeError, "headers has 'a': None; write the exact value, True"),
        ({"headers": {"a": False}}, TypeError, "'a': False"),
        ({"headers": {"a": 1}}, TypeError, "'a': 1"),
        ({"headers": {"a": re.compile(b"x")}}, TypeError, "of text"),
        ({"headers": {"A": "1", "a": "2"}}, ValueError, "headers has 'a' twice"),
        ({"cookies": {"a;b": True}}, ValueError, "cookies has 'a;b'"),
        ({"query": {"": True}}, ValueError, "query has ''"),
        ({"to": "http://a"}, TypeError, "to is 'http://a'; write the Pool or Split"),
        ({"to": None}, TypeError, "to is None"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(
    conditions: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        Route(**{"to": API, **conditions})


@pytest.mark.parametrize(
    ("routes", "default", "error", "words"),
    [
        ([], None, ValueError, "somebody to route to; write a Route"),
        (Route(to=API), None, TypeError, "write a list of Route"),
        (API, None, TypeError, "write a list of Route"),
        ("routes", None, TypeError, "write a list of Route"),
        (7, None, TypeError, "write a list of Route"),
        ([Route(path="/a", to=API), STATIC], None, TypeError, "routes[1] is <Pool 'static'"),
        ([], "api", TypeError, "default is 'api'; write a Pool, a Split, or None"),
        (
            [Route(path="/a", to=API), Route(to=NAMESAKE)],
            None,
            ValueError,
            "two pools of a router are named 'api'",
        ),
        ([Route(path="/a", to=API)], NAMESAKE, ValueError, "a name= of its own"),
        ([Route(path="/a", to=API)], Split({STATIC: 1, NAMESAKE: 1}), ValueError, "named 'api'"),
    ],
)
def test_a_router_that_cannot_work_is_refused(
    routes: Any, default: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        Router(routes, default)


def test_a_route_is_a_value() -> None:
    conditions: dict[str, Any] = {"headers": {"X-A": "1"}}
    route = Route(host="Orders", path="/a", methods=["get"], to=API, **conditions)
    conditions["headers"]["X-B"] = "2"
    assert route == Route(host="orders", path="/a", methods=("GET",), headers={"x-a": "1"}, to=API)
    assert hash(route) == hash(replace(route))
    assert replace(route, to=STATIC) != route
    assert replace(route, path="/b").matches(Facts(host="orders", target=b"/b", headers=[(b"x-a", b"1")]))
    with pytest.raises(AttributeError):
        route.path = "/b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        route.headers["x-b"] = "2"  # type: ignore[index]


def test_a_router_says_whether_there_is_somebody_for_a_request() -> None:
    router = Router([Route(path="/a/*", to=API), Route(host="b", to=STATIC)])
    asked = [Facts(target=b"/a/1"), Facts(host="b"), Facts()]
    assert [router.takes(facts) for facts in asked] == [True, True, False]
    assert Router([Route(path="/a", to=API)], default=STATIC).takes(Facts())
