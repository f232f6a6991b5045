"""Who the client is and what backends are told of it; where a response seems to come from; where a mount ends."""

from __future__ import annotations

from typing import Any

import pytest

from lbclient.asgi.forwarding import Trust, client_of, forwarded_headers
from lbclient.asgi.framing import Asked, asked_of, framing_of, split_prefix
from lbclient.asgi.headers import RequestFields, end_to_end
from lbclient.asgi.outgoing import RawURL
from lbclient.asgi.refusals import Refusal
from lbclient.asgi.rewriting import rewrite_cookie, rewrite_location, seen_from

PROXIES = ["10.0.0.0/8", "2001:db8::/32"]


def scope(
    peer: Any = ("10.0.0.1", 1), headers: list[tuple[bytes, bytes]] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "type": "http",
        "client": peer,
        "headers": headers or [],
        "path": "/",
        "query_string": b"",
        "http_version": "1.1",
        **more,
    }


@pytest.mark.parametrize(
    ("chain", "ip"),
    [
        (b"", "10.0.0.1"),
        (b"203.0.113.7", "203.0.113.7"),
        (b"198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (b"198.51.100.1, 203.0.113.7, 10.2.2.2", "203.0.113.7"),
        (b"10.3.3.3, 10.2.2.2", "10.3.3.3"),
        (b"198.51.100.1, unknown, 10.2.2.2", "10.2.2.2"),
        (b"198.51.100.1, _hidden", "10.0.0.1"),
        (b"203.0.113.7:4711", "203.0.113.7"),
        (b"[2001:db9::1]:4711, 2001:db8::5", "2001:db9::1"),
        (b"::ffff:203.0.113.7, ::ffff:10.1.1.1", "::ffff:203.0.113.7"),
        (b",, 203.0.113.7 ,", "203.0.113.7"),
    ],
)
def test_the_client_is_the_last_who_is_no_proxy_of_ours(chain: bytes, ip: str) -> None:
    assert client_of(scope(headers=[(b"x-forwarded-for", chain)]), Trust(PROXIES)).ip == ip


@pytest.mark.parametrize(
    ("value", "ip", "scheme", "host"),
    [
        (
            b'for=203.0.113.7;proto=https;host="shop.example:8443"',
            "203.0.113.7",
            b"https",
            b"shop.example:8443",
        ),
        (b'For="[2001:db9::1]:4711"', "2001:db9::1", b"http", b"inner"),
        (b'for=198.51.100.1, for="203.0.113.7:80";proto=https', "203.0.113.7", b"http", b"inner"),
        (b"for=203.0.113.7, for=10.2.2.2", "203.0.113.7", b"http", b"inner"),
        (b"for=unknown;proto=https", "10.0.0.1", b"https", b"inner"),
        (b'for="a,b\\"c";proto=gopher', "10.0.0.1", b"http", b"inner"),
        (b"nonsense", "10.0.0.1", b"http", b"inner"),
    ],
)
def test_forwarded_says_it_too(value: bytes, ip: str, scheme: bytes, host: bytes) -> None:
    headers = [(b"host", b"inner"), (b"forwarded", value), (b"x-forwarded-for", b"192.0.2.66")]
    client = client_of(scope(headers=headers), Trust(PROXIES), "forwarded")
    assert (client.ip, client.scheme, client.host) == (ip, scheme, host)


def test_the_scheme_stays_that_of_a_websocket() -> None:
    headers = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"shop.example")]
    client = client_of(scope(headers=headers, scheme="ws"), Trust(PROXIES))
    assert (client.scheme, client.secure, client.host) == (b"wss", True, b"shop.example")
    assert client_of(scope(headers=headers, scheme="http"), Trust(PROXIES)).scheme == b"https"
    assert client_of(scope(headers=headers, scheme="http"), Trust([])).scheme == b"http"


def test_whom_to_trust() -> None:
    assert "10.255.0.1" in Trust(PROXIES)
    assert "11.0.0.1" not in Trust(PROXIES)
    assert "testclient" in Trust(["*"])
    assert "testclient" not in Trust(PROXIES)
    assert None in Trust(["unix"])
    assert None not in Trust(PROXIES)
    trust = Trust(["10.0.0.0/8"])
    assert sum(f"10.0.{index >> 8}.{index & 255}" in trust for index in range(5000)) == 5000


def test_an_untrusted_clients_word_is_replaced_in_every_spelling() -> None:
    spoofed = [
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x_forwarded_for", b"1.1.1.1"),
        (b"x-forwarded_for", b"1.1.1.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-port", b"443"),
        (b"x-forwarded-prefix", b"/x"),
        (b"x-forwarded-client-cert", b"me"),
        (b"x-real-ip", b"1.1.1.1"),
        (b"forwarded", b"for=1.1.1.1"),
        (b"content_length", b"5"),
        (b"transfer_encoding", b"chunked"),
        (b"x_mine", b"kept"),
    ]
    asked = scope(("192.0.2.1", 5), [(b"host", b"h"), *spoofed])
    client = client_of(asked, Trust([]))
    assert forwarded_headers(RequestFields(asked["headers"]).passed, client, b"h", b"", False) == [
        (b"x_mine", b"kept"),
        (b"x-forwarded-for", b"192.0.2.1"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"h"),
    ]


def test_a_trusted_proxys_word_is_continued() -> None:
    headers = [
        (b"x-forwarded-for", b"203.0.113.7"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"shop.example"),
        (b"x-forwarded-port", b"443"),
        (b"forwarded", b"for=203.0.113.7;proto=https"),
    ]
    asked = scope(("2001:db8::1", 5), [(b"host", b"in:80"), *headers])
    client = client_of(asked, Trust(PROXIES))
    assert forwarded_headers(RequestFields(asked["headers"]).passed, client, b"in:80", b"/api", False) == [
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"shop.example"),
        (b"x-forwarded-port", b"443"),
        (b"x-forwarded-for", b"203.0.113.7, 2001:db8::1"),
        (b"x-forwarded-prefix", b"/api"),
        (b"forwarded", b'for=203.0.113.7;proto=https, for="[2001:db8::1]";proto=https;host="in:80"'),
    ]


def test_pairs_stay_pairs_also_where_something_is_for_this_hop_only() -> None:
    cookies = [(b"set-cookie", b"a=1"), (b"x-a", b"1"), (b"set-cookie", b"b=2")]
    assert end_to_end([*cookies, (b"connection", b"keep-alive, x-a")]) == [cookies[0], cookies[2]]
    assert end_to_end([*cookies, (b"te", b"trailers")]) == cookies


def test_what_connection_names_is_for_this_hop() -> None:
    headers = [
        (b"connection", b"close, X-Mine"),
        (b"connection", b"cookie"),
        (b"x-mine", b"1"),
        (b"cookie", b"a=1"),
        (b"x-forwarded-for", b"9.9.9.9"),
        (b"te", b"trailers"),
        (b"x-kept", b"1"),
    ]
    assert RequestFields(headers).passed == [
        (b"x-forwarded-for", b"9.9.9.9"),
        (b"x-kept", b"1"),
        (b"te", b"trailers"),
    ]


def test_cookie_lines_become_one() -> None:
    headers = [(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3")]
    assert RequestFields(headers).passed == [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]


# Where a mount ends


@pytest.mark.parametrize(
    ("raw_path", "root_path", "expected"),
    [
        (b"/api/users", "/api", (b"/api", b"/users")),
        (b"/api", "/api", (b"/api", b"/")),
        (b"/api/", "/api/", (b"/api", b"/")),
        (b"/a%70i/x%2Fy", "/api", (b"/a%70i", b"/x%2Fy")),
        (b"/one/two/three", "/one/two", (b"/one/two", b"/three")),
        (b"/my%20api/x", "/my api", (b"/my%20api", b"/x")),
        (b"/%C3%A4/x", "/\u00e4", (b"/%C3%A4", b"/x")),
        (b"/users", "/api", (b"", b"/users")),
        (b"/apix/users", "/api", (b"", b"/apix/users")),
        (b"/users", "", (b"", b"/users")),
        (b"/u", "/a/very/long/one", (b"", b"/u")),
    ],
)
def test_where_a_mount_ends(raw_path: bytes, root_path: str, expected: tuple[bytes, bytes]) -> None:
    assert split_prefix(raw_path, root_path) == expected


def asks(asked: dict[str, Any]) -> Asked:
    return asked_of(asked, RequestFields(asked["headers"]), True)


@pytest.mark.parametrize(
    ("raw_path", "host", "target"),
    [
        (b"/x", b"h", b"/x"),
        (b"http://h/x", b"h", b"/x"),
        (b"HTTP://H:80", b"h:80", b"/"),
        (b"http://h?q", b"h", b"/?q"),
    ],
)
def test_targets(raw_path: bytes, host: bytes, target: bytes) -> None:
    assert asks(scope(raw_path=raw_path, headers=[(b"host", host)])).target == target


@pytest.mark.parametrize(
    ("raw_path", "host"),
    [
        (b"x", b"h"),
        (b"/x#y", b"h"),
        (b"/x y", b"h"),
        (b"/\xff", b"h"),
        (b"http://other/", b"h"),
        (b"ftp://h/", b"h"),
        (b"*", b"h"),
        (b"/", b""),
        (b"/", b"a b"),
        (b"/", b"user@h"),
        (b"/", b"h/x"),
        (b"/", b"h:99999"),
        (b"/", b"h:port"),
        (b"/", b"[::1"),
        (b"/", b"h\x00"),
    ],
)
def test_targets_and_hosts_that_are_none(raw_path: bytes, host: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        asks(scope(raw_path=raw_path, headers=[(b"host", host)]))
    assert refused.value.status == 400


def test_a_server_without_raw_path_and_one_without_host() -> None:
    old = scope(http_version="1.0", path="/a b/\u00e4", server=("127.0.0.1", 80))
    assert asks(old) == Asked(b"127.0.0.1:80", b"/a%20b/%C3%A4", b"")
    assert asks({**old, "server": ("::1", 80)}).host == b"[::1]:80"
    assert asks({**old, "server": ("/run/app.sock", None)}).host == b"localhost"
    with pytest.raises(Refusal, match="no Host"):
        asks(scope())
    with pytest.raises(Refusal, match="more than one"):
        asks(scope(headers=[(b"host", b"a"), (b"host", b"a")]))


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ([(b"content-length", b"5"), (b"content-length", b"5")], "1.1"),
        ([(b"content-length", b"5, 5")], "1.1"),
        ([(b"content-length", b"+5")], "1.1"),
        ([(b"content-length", b"")], "1.1"),
        ([(b"content-length", b"9" * 19)], "1.1"),
        ([(b"content-length", "\u0665".encode())], "1.1"),
        ([(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], "1.1"),
        ([(b"transfer-encoding", b"xchunked")], "1.1"),
        ([(b"transfer-encoding", b"chunked")], "2"),
        ([(b"transfer-encoding", b"chunked")], "1.0"),
    ],
)
def test_bodies_whose_end_is_in_doubt(headers: list[tuple[bytes, bytes]], version: str) -> None:
    with pytest.raises(Refusal) as refused:
        framing_of(scope(http_version=version), RequestFields(headers))
    assert refused.value.status == 400
    assert (b"connection", b"close") in refused.value.headers


# Where a response seems to come from

SEEN = seen_from(b"https://shop.example", b"/api", "http://backend.internal:8080/v1")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"/login", b"/api/login"),
        (b"/", b"/api/"),
        (b"/api/login", b"/api/login"),
        (b"/apix", b"/api/apix"),
        (b"https://shop.example/login", b"https://shop.example/api/login"),
        (b"HTTPS://SHOP.example?x", b"HTTPS://SHOP.example/api/?x"),
        (b"https://shop.example", b"https://shop.example/api/"),
        (b"https://shop.example.evil/login", b"https://shop.example.evil/login"),
        (b"https://elsewhere/login", b"https://elsewhere/login"),
        (b"//elsewhere/login", b"//elsewhere/login"),
        (b"login", b"login"),
        (b"?page=2", b"?page=2"),
        (b"", b""),
    ],
)
def test_locations(value: bytes, expected: bytes) -> None:
    assert rewrite_location(value, SEEN) == expected
    assert rewrite_location(value, seen_from(b"https://shop.example", b"", "http://b")) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a=1", b"a=1"),
        (b"a=1; Path=/; HttpOnly", b"a=1; Path=/api; HttpOnly"),
        (b"a=1; path = /cart", b"a=1; path = /api/cart"),
        (b"a=1; Path=/v1/cart", b"a=1; Path=/api/cart"),
        (b"a=1; Path=/v1", b"a=1; Path=/api"),
        (b"a=1; Path=/api/cart", b"a=1; Path=/api/cart"),
        (b"a=1; Path=relative", b"a=1; Path=relative"),
        (b"a=1; Path=", b"a=1; Path="),
        (b"__Host-a=1; Path=/; Secure", b"__Host-a=1; Path=/; Secure"),
        (b"a=1; Domain=backend.internal; Secure", b"a=1; Secure"),
        (b"a=1; Domain=.INTERNAL", b"a=1"),
        (b"a=1; Domain=example.com", b"a=1; Domain=example.com"),
        (b"path=/x; domain=y", b"path=/x; domain=y"),
    ],
)
def test_cookies(value: bytes, expected: bytes) -> None:
    assert rewrite_cookie(value, SEEN) == expected


def test_cookies_of_a_backend_that_nothing_is_known_of() -> None:
    seen = seen_from(b"http://h", b"", "")
    assert rewrite_cookie(b"a=1; Domain=b; Path=/x", seen) == b"a=1; Domain=b; Path=/x"


def test_a_url_that_nobody_normalises_is_one_of_httpxs_all_the_same() -> None:
    url = RawURL("https", b"[::1]:8443", b'/a%2fb"?q')
    assert (url.host, url.netloc, url.raw_path, url.raw_scheme) == (
        "::1",
        b"[::1]:8443",
        b'/a%2fb"?q',
        b"https",
    )
    assert str(url) == "https://[::1]:8443/a%2fb%22?q"
    assert (url.port, url.path, url.query) == (8443, '/a/b"', b"q")
    assert RawURL("http", b"h:80", b"/").host == "h"
