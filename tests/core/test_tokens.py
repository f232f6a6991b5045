"""Signed values: what was issued is found again, and nothing else finds anything."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient.core import tokens
from lbclient.core.tokens import LENGTH, Signer

SECRET, OTHER = "the first secret of all", b"another secret, not the first"
NAMES = ("http://10.0.0.5:8080", "http://10.0.0.6:8080", "http://10.0.0.7:8080/prefix")
NOW = 1_800_000_000.25

signer = Signer(SECRET)


@given(name=st.text(), others=st.frozensets(st.text(), max_size=5), now=st.floats(0, 1e10))
def test_what_was_issued_is_found_among_any_names(name: str, others: frozenset[str], now: float) -> None:
    value = signer.issue(name, now)
    assert signer.find(value, {*others, name}, now) == name
    assert signer.is_for(value, name, now)


def test_a_value_is_fit_for_a_cookie_and_names_nothing() -> None:
    values = {
        signer.issue(name, NOW + age, max_age) for name in NAMES for age in (0, 1) for max_age in (None, 60)
    }
    assert len(values) == 9  # without an expiry it does not depend on the time
    for value in values:
        assert len(value) == LENGTH
        assert set(value) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_one_that_is_not_among_the_names_is_nobody() -> None:
    value = signer.issue(NAMES[0], NOW)
    assert signer.find(value, NAMES[1:], NOW) is None
    assert signer.find(value, (), NOW) is None
    assert not signer.is_for(value, NAMES[1], NOW)


def test_an_old_secret_verifies_and_only_the_first_signs() -> None:
    old, new, both = Signer([SECRET]), Signer(OTHER), Signer((OTHER, SECRET))
    before, after = old.issue(NAMES[0], NOW), both.issue(NAMES[0], NOW)
    assert both.find(before, NAMES, NOW) == NAMES[0]
    assert both.is_for(before, NAMES[0], NOW)
    assert new.find(after, NAMES, NOW) == NAMES[0]
    assert old.find(after, NAMES, NOW) is None
    assert new.find(before, NAMES, NOW) is None


def test_text_and_its_bytes_are_one_secret() -> None:
    assert Signer("schlüssel für alle".encode()).is_for(
        Signer("schlüssel für alle").issue("a", NOW), "a", NOW
    )
    assert Signer("\udcff" * 16).issue("\udcff", NOW)  # as os.environ has bytes that are no UTF-8


def test_without_a_secret_each_signer_has_its_own() -> None:
    one, two = Signer(None), Signer(None)
    assert one.find(one.issue(NAMES[0], NOW), NAMES, NOW) == NAMES[0]
    assert two.find(one.issue(NAMES[0], NOW), NAMES, NOW) is None


@pytest.mark.parametrize("max_age", [0.25, 1, 1800, 1e9])
def test_a_value_is_good_until_its_age_is_exceeded(max_age: float) -> None:
    value = signer.issue(NAMES[0], NOW, max_age)
    assert signer.find(value, NAMES, NOW) == NAMES[0]
    assert signer.find(value, NAMES, NOW + max_age) == NAMES[0]
    assert signer.find(value, NAMES, NOW + max_age + 0.002) is None
    assert not signer.is_for(value, NAMES[0], NOW + max_age + 0.002)


@pytest.mark.parametrize("now", [-1e300, float("-inf"), -5.0])
def test_what_expires_does_not_become_eternal(now: float) -> None:
    assert signer.find(signer.issue("a", now, 1.0), ["a"], 1.0) is None


@pytest.mark.parametrize("now", [1e300, float("inf")])
def test_a_time_beyond_the_last_is_the_last(now: float) -> None:
    value = signer.issue("a", now, 1.0)
    assert signer.find(value, ["a"], 2.0**48 / 1000 - 1) == "a"
    assert signer.find(value, ["a"], 2.0**48 / 1000 + 1) is None


def test_no_time_is_in_time() -> None:
    assert signer.find(signer.issue("a", NOW, 1.0), ["a"], float("nan")) is None


@given(
    st.text()
    | st.text("AZaz09-_", min_size=LENGTH, max_size=LENGTH)
    | st.binary().map(lambda raw: raw.decode("latin-1"))
)
def test_junk_finds_nobody(junk: str) -> None:
    assert signer.find(junk, NAMES, NOW) is None
    assert not signer.is_for(junk, NAMES[0], NOW)


@pytest.mark.parametrize(
    "junk", [None, 7, b"x" * LENGTH, ["x"] * LENGTH, "x" * 8192, "é" * LENGTH, "A" * LENGTH + "\n"]
)
def test_anything_may_come_as_a_value(junk: object) -> None:
    assert signer.find(junk, NAMES, NOW) is None  # type: ignore[arg-type]


@given(st.integers(0, LENGTH - 1), st.characters(codec="latin-1"), st.sampled_from([None, 60.0]))
def test_a_value_with_another_letter_is_forged(place: int, letter: str, max_age: float | None) -> None:
    value = signer.issue(NAMES[0], NOW, max_age)
    forged = value[:place] + letter + value[place + 1 :]
    assert (signer.find(forged, NAMES, NOW) is None) == (forged != value)


@given(st.integers(0, LENGTH - 1))
def test_a_part_of_a_value_is_worth_nothing(length: int) -> None:
    value = signer.issue(NAMES[0], NOW)
    assert signer.find(value[:length], NAMES, NOW) is None
    assert signer.find(value + value[:length] + "=", NAMES, NOW) is None


def test_parts_of_two_values_do_not_make_a_third() -> None:
    one, other = signer.issue(NAMES[0], NOW, 60), signer.issue(NAMES[1], NOW, 3600)
    for place in (16, 24):  # where id and expiry end
        assert signer.find(one[:place] + other[place:], NAMES, NOW) is None


def test_the_oversized_is_refused_before_anything_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmac, "digest", None)
    assert signer.find("A" * 8192, NAMES, NOW) is None
    assert signer.find("A" * (LENGTH - 1) + "=", NAMES, NOW) is None


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was hashed since."""
    seen: list[bytes] = []
    digest = hmac.digest

    def count(key: bytes, message: bytes, how: str) -> bytes:
        seen.append(message)
        return digest(key, message, how)

    monkeypatch.setattr(hmac, "digest", count)
    return seen


def test_ten_thousand_names_are_hashed_once(hashed: list[bytes]) -> None:
    names = dict.fromkeys(f"http://10.0.{i >> 8}.{i & 255}:80" for i in range(10_000))
    fresh = Signer(SECRET)
    values = [fresh.issue(name, NOW) for name in list(names)[:100]]
    assert fresh.find(values[0], names, NOW)
    hashed.clear()
    assert [fresh.find(value, names, NOW) for value in values] == list(names)[:100]
    assert len(hashed) == len(values)  # the tag of each
    fewer = dict.fromkeys(list(names)[1:])
    assert fresh.find(values[0], fewer, NOW) is None
    assert (
        fresh.find(fresh.issue("http://gone", NOW), fewer, NOW) is None
    )  # unknown: whoever is new is looked at
    assert len(hashed) < len(values) + 10
    more = {**fewer, "http://new": None}
    hashed.clear()
    assert fresh.find(fresh.issue("http://new", NOW), more, NOW) == "http://new"
    assert len(hashed) == 4  # to issue, to verify, and the one new name


def test_junk_does_not_make_us_look_at_the_names(hashed: list[bytes]) -> None:
    fresh = Signer([SECRET, OTHER])
    for _ in range(3):
        assert fresh.find("A" * LENGTH, dict.fromkeys(NAMES), NOW) is None
    assert len(hashed) == 6  # a tag for each secret, no names


def test_a_value_for_one_who_left_makes_us_look_at_the_names_once() -> None:
    class Names(tuple[str, ...]):
        __slots__ = ()
        looked: ClassVar[list[int]] = []

        def __iter__(self) -> Iterator[str]:
            self.looked.append(len(self))
            return super().__iter__()

    fresh, names = Signer(SECRET), Names(NAMES)
    stale = fresh.issue("http://gone", NOW)
    assert [fresh.find(stale, names, NOW) for _ in range(5)] == [None] * 5
    assert Names.looked == [3]


def test_names_that_come_and_go_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MOST_NAMES", 10)
    fresh = Signer(SECRET)
    for number in range(100):
        name = f"http://{number}"
        assert fresh.find(fresh.issue(name, NOW), (name,), NOW) == name
        assert len(fresh._keys[0]._known[1]) <= 11
    assert fresh.find(fresh.issue("http://0", NOW), ("http://0",), NOW) == "http://0"


def test_threads_find_the_same() -> None:
    fresh = Signer(SECRET)
    sets = [tuple(f"http://{first + i}" for i in range(50)) for first in range(0, 200, 25)]
    wrong: list[str] = []

    def look(names: tuple[str, ...]) -> None:
        found = [fresh.find(fresh.issue(name, NOW), names, NOW) for name in names * 4]
        wrong.extend(name for name, got in zip(names * 4, found, strict=True) if got != name)

    threads = [threading.Thread(target=look, args=(names,)) for names in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("secret", ["", b"", "short", b"x" * 15, [SECRET, "short"], [], ()])
def test_a_secret_that_can_be_guessed_is_refused(secret: str | bytes | list[str | bytes]) -> None:
    with pytest.raises(
        ValueError, match=r"write at least 16 random bytes, such as `secrets.token_urlsafe\(32\)`"
    ):
        Signer(secret)


@pytest.mark.parametrize("secret", [7, {"a": 1}, [None], [7], bytearray(20), {SECRET}])
def test_a_secret_is_text_or_bytes(secret: object) -> None:
    with pytest.raises(TypeError, match="write str or bytes"):
        Signer(secret)  # type: ignore[arg-type]


def test_nothing_shows_the_secret() -> None:
    assert repr(signer) == "<Signer, 1 secret>"
    assert repr(Signer([SECRET, OTHER])) == "<Signer, 2 secrets>"
    with pytest.raises(ValueError) as caught:
        Signer("hunter2")
    assert "hunter2" not in str(caught.value)
