"""The facts of a request and the keys read off them."""

from __future__ import annotations

import pytest

from lbclient import Facts
from lbclient.core.facts import as_key, key_reader

REQUEST = Facts(
    "GET",
    "orders",
    b"/items/a%2Fb?user=7&user=8&empty=",
    [(b"X-Tenant", b"acme"), (b"x-tenant", b"second"), (b"Cookie", b'a=1; bad cookie; session="s 1"; b=2')],
    {"client_ip": "10.1.2.3"},
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client_ip", b"10.1.2.3"),
        ("path", b"/items/a%2Fb"),
        ("header:x-tenant", b"acme"),
        ("header:X-Missing", None),
        ("cookie:a", b"1"),
        ("cookie:session", b"s 1"),
        ("cookie:missing", None),
        ("query:user", b"7"),
        ("query:empty", b""),
        ("query:missing", None),
        (lambda facts: facts.method, b"GET"),
        (lambda facts: 42, b"42"),
        (lambda facts: b"raw", b"raw"),
        (lambda facts: None, None),
    ],
)
def test_a_key_is_read_off_the_request(key: object, value: bytes | None) -> None:
    assert key_reader(key)(REQUEST) == value  # type: ignore[arg-type]


def test_what_a_request_does_not_have_is_no_key() -> None:
    nothing = Facts()
    for key in ("client_ip", "header:a", "cookie:a", "query:a"):
        assert key_reader(key)(nothing) is None
    assert key_reader("path")(nothing) == b"/"


@pytest.mark.parametrize("key", ["ip", "header", "header:", "path:x", "client_ip:x", "body:x", ""])
def test_an_unknown_key_is_refused_with_the_list(key: str) -> None:
    with pytest.raises(ValueError, match="write 'client_ip', 'path', 'header:NAME'"):
        key_reader(key)


def test_a_key_is_a_string_or_callable() -> None:
    with pytest.raises(TypeError, match="key is 7; write"):
        key_reader(7)  # type: ignore[arg-type]


def test_cookies_that_cannot_be_read_are_left_out() -> None:
    facts = Facts(headers=[(b"Cookie", b"a=1; b@d;,=; expires=x; c=3")])
    assert facts.cookies["a"] == "1"
    assert facts.cookies["c"] == "3"


def test_a_key_becomes_bytes() -> None:
    assert as_key("é") == "é".encode()
    assert as_key(7) == b"7"
    assert as_key(None) is None


def test_facts_are_told_in_words() -> None:
    assert repr(Facts(target=b"/x?y=1", host="orders")) == "<Facts GET /x at 'orders'>"
