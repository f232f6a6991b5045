"""Messages that say the wrong value and what to write instead."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from lbclient import Hedge
from lbclient.core.checks import check_methods, check_number, check_statuses, check_whole
from lbclient.core.options import check_options
from lbclient.core.pool import OPTIONS
from lbclient.testing import FakeClock


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "a number"),
        ({"above": 0}, "a number above 0"),
        ({"at_least": 1}, "a number of 1 or more"),
        ({"at_most": 1}, "a number of 1 or less"),
        ({"at_least": 0, "at_most": 1}, "a number from 0 to 1"),
    ],
)
def test_the_allowed_range_is_told(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^share is nan; write {words}$"):
        check_number("share", float("nan"), **limits)
    with pytest.raises(TypeError, match=f"^share is None; write {words}$"):
        check_number("share", None, **limits)


def test_a_time_is_in_seconds() -> None:
    with pytest.raises(TypeError, match=r"^grace is .*seconds=90\); write it in seconds, like 90$"):
        check_number("grace", timedelta(minutes=1.5), at_least=0)


def test_what_else_may_be_written_is_told() -> None:
    with pytest.raises(
        TypeError, match=r"^delay is None; write a percentile like 'p95', or seconds above 0$"
    ):
        Hedge(delay=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("verify", "write connect=Connect(verify=...)"),
        ("retries", "write retry=Retry(stop=stop_after_attempt(3)), or retry=None"),
        ("timeout", "write it at the client: httpx.AsyncClient(transport=..., timeout=...)"),
        ("algoritm", "did you mean algorithm?"),
        ("xyz", "its options are affinity, algorithm,"),
    ],
)
def test_an_option_that_no_pool_has_is_told_where_it_belongs(name: str, words: str) -> None:
    check_options(["algorithm", "retry"], OPTIONS)
    with pytest.raises(TypeError, match=f"^{name} is no option of a pool; {re.escape(words)}"):
        check_options(["algorithm", name], OPTIONS)


def test_what_is_in_range_passes() -> None:
    assert check_number("share", 0.5, above=0, at_most=1) == 0.5
    assert check_whole("count", 3, at_least=1, at_most=3) == 3


@pytest.mark.parametrize("statuses", [503, "503", b"503", (status for status in (502, 503)), None])
def test_statuses_are_a_collection(statuses: object) -> None:
    with pytest.raises(TypeError, match=r"^statuses is .*; write a collection, like \(502, 503\)$"):
        check_statuses("statuses", statuses)
    with pytest.raises(ValueError, match="a status in statuses is 99; write a whole number from 100 to 599"):
        check_statuses("statuses", [99])
    check_statuses("statuses", range(500, 600))


@pytest.mark.parametrize("methods", ["GET", b"GET", (method for method in ("GET",)), 3])
def test_methods_are_a_collection(methods: object) -> None:
    with pytest.raises(TypeError, match=r"^methods is .*; write a collection, like \('GET', 'PUT'\)$"):
        check_methods(methods)  # type: ignore[arg-type]


def test_true_is_no_number() -> None:
    with pytest.raises(TypeError):
        check_number("share", True)
    with pytest.raises(TypeError):
        check_whole("count", True, at_least=0)


def test_time_does_not_go_back() -> None:
    clock = FakeClock(5)
    clock.advance(0)
    assert clock() == 5
    with pytest.raises(ValueError, match="time does not go back"):
        clock.advance(-1)
