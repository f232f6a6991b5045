"""Cookies as they go over the wire: one is taken out, and all others stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient.core.cookies import cookie_values, without_cookie
from lbclient.core.facts import Header

TOKEN_LETTERS = "!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"
VALUE_LETTERS = "".join(chr(i) for i in range(0x21, 0x7F) if chr(i) not in '",;\\')

names = st.text(TOKEN_LETTERS, min_size=1, max_size=6).filter(lambda name: name != "LB")
plain = st.text(VALUE_LETTERS, max_size=8)
quoted = st.text(VALUE_LETTERS + "; =", max_size=8).map(lambda value: f'"{value}"')
foreign = st.builds("{}={}".format, names, plain | quoted)
own = st.builds("{}LB={}".format, st.sampled_from(["", " "]), plain | quoted)


@given(st.lists(st.lists(foreign | own, min_size=1, max_size=5), max_size=3))
def test_one_cookie_is_taken_out_and_all_others_stay_as_they_are(sent: list[list[str]]) -> None:
    def headers(cookies: list[list[str]]) -> list[Header]:
        found = [(b"cookie", "; ".join(pairs).encode("ascii")) for pairs in cookies if pairs]
        return [(b"Host", b"LB"), *found, (b"X-LB", b"LB=1")]

    before = headers(sent)
    kept = [[pair for pair in pairs if not pair.lstrip().startswith("LB=")] for pairs in sent]
    assert without_cookie(before, "LB") == headers(kept)
    assert before == headers(sent)
    assert len(list(cookie_values(before, "LB"))) == sum(map(len, sent)) - sum(map(len, kept))


@given(st.binary(max_size=60) | st.text('LB="\\; a', max_size=60).map(str.encode))
def test_afterwards_the_cookie_is_gone_and_a_second_time_changes_nothing(junk: bytes) -> None:
    before = [(b"Cookie", junk), (b"cookie", b"LB=1; " + junk), (b"COOKIE", junk + b";LB=2")]
    after = without_cookie(before, "LB")
    assert not list(cookie_values(after, "LB"))
    assert without_cookie(after, "LB") == after
    if not list(cookie_values(before[:1], "LB")):
        assert after[0] == before[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LB=1", None),
        ("LB=1;", None),
        (" ; LB=1 ; ", None),
        ("LB=1; LB=2", None),
        ("a=1; LB=1; b=2", "a=1; b=2"),
        ("LB=1; a=1", "a=1"),
        ("a=1; LB=1", "a=1"),
        ("a=1;LB=1;b=2", "a=1;b=2"),
        ("a=1;  LB = 1 ;\tb = 2 ", "a=1;\tb = 2 "),
        ('a="x; LB=1"; LB="2; 3"; b=2', 'a="x; LB=1"; b=2'),
        ('a="x\\"; LB=1"; LB=2', 'a="x\\"; LB=1"'),
        ('a="x; LB=1; b=2', 'a="x; b=2'),  # a quote that does not end is none
        ('a="x"y; LB=1', 'a="x"y'),
        ("ALB=1; LBA=2; lb=3; LB; a=LB", "ALB=1; LBA=2; lb=3; LB; a=LB"),
        ("", ""),
        ("a=\xe9; LB=1", "a=\xe9"),
        ("\x0bLB=1; LB=2", "\x0bLB=1"),
    ],
)
def test_cookies_without_one(before: str, after: str | None) -> None:
    expected = [] if after is None else [(b"Cookie", after.encode("latin-1"))]
    assert without_cookie([(b"Cookie", before.encode("latin-1"))], "LB") == expected


def test_long_headers_of_quotes_are_read_in_good_time() -> None:
    for junk in (
        b'a="' * 20_000,
        b'LB="x;' * 20_000,
        b'LB="\\' * 20_000,
        b"LB=" + b'"' * 60_000,
        b"=" * 60_000,
    ):
        without_cookie([(b"Cookie", junk + b";LB=1")], "LB")
