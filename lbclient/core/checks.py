"""Range checks for the arguments of configuration objects: the wrong value, and what is allowed instead."""

from __future__ import annotations

import math
from collections.abc import Collection
from datetime import timedelta
from typing import cast


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    instead: str = "",
) -> float:
    """`value`, if it is a finite number in the range; `instead` is what to write where that is not all.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of the range.
    """
    allowed = instead or _range("a number", above, at_least, at_most)
    if isinstance(value, timedelta):
        raise TypeError(f"{name} is {value!r}; write it in seconds, like {value.total_seconds():g}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; write {allowed}")
    if (
        not is_finite(value)
        or (above is not None and value <= above)
        or (at_least is not None and value < at_least)
        or (at_most is not None and value > at_most)
    ):
        raise ValueError(f"{name} is {value!r}; write {allowed}")
    return value


def is_finite(value: float) -> bool:
    """Whether a number is one that a float can be."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an int of some hundred digits
        return False


def check_fraction(name: str, value: object) -> float:
    """`value`, if it is a share from 0 to 1."""
    return check_number(name, value, at_least=0, at_most=1)


def check_whole(name: str, value: object, *, at_least: int, at_most: int | None = None) -> int:
    """`value`, if it is a whole number in the range.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is out of the range.
    """
    allowed = _range("a whole number", None, at_least, at_most)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; write {allowed}")
    if value < at_least or (at_most is not None and value > at_most):
        raise ValueError(f"{name} is {value!r}; write {allowed}")
    return value


def check_flag(name: str, value: object) -> bool:
    """`value`, if it is True or False: the string "false" is neither, and would count as true.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; write True or False")
    return value


def check_peer(peer: object) -> None:
    """`peer` is (index, count): which of `count` clients this one is, from 0.

    Raises:
        TypeError: It is no pair of whole numbers.
        ValueError: The index is not below the count.
    """
    allowed = "(index, count), like (0, 3) for the first of three clients"
    numbers = cast("tuple[object, ...]", peer) if isinstance(peer, tuple) else ()
    if len(numbers) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise TypeError(f"peer is {peer!r}; write {allowed}")
    index, count = cast("tuple[int, int]", numbers)
    if not 0 <= index < count:
        raise ValueError(f"peer is {peer!r}; the index is from 0 to count - 1: write {allowed}")


def check_statuses(name: str, statuses: object) -> None:
    """`statuses` is a collection of HTTP statuses.

    Raises:
        TypeError: It is no collection, or has something else than whole numbers.
        ValueError: One of them is no status.
    """
    if isinstance(statuses, (str, bytes)) or not isinstance(statuses, Collection):
        raise TypeError(f"{name} is {statuses!r}; write a collection, like (502, 503)")
    for status in cast("Collection[object]", statuses):
        check_whole(f"a status in {name}", status, at_least=100, at_most=599)


def check_methods(methods: Collection[str]) -> None:
    """`methods` is a collection of HTTP methods in upper case.

    Raises:
        TypeError: It is a single string, or no collection.
        ValueError: One of them is not in upper case.
    """
    if isinstance(methods, (str, bytes)) or not isinstance(methods, Collection):
        raise TypeError(f"methods is {methods!r}; write a collection, like ('GET', 'PUT')")
    for method in methods:
        if not isinstance(method, str) or method != method.upper():
            raise ValueError(f"a method is {method!r}; write it in upper case, like 'GET'")


def _range(kind: str, above: float | None, at_least: float | None, at_most: float | None) -> str:
    if at_least is not None and at_most is not None:
        return f"{kind} from {at_least} to {at_most}"
    if above is not None:
        return f"{kind} above {above}"
    if at_least is not None:
        return f"{kind} of {at_least} or more"
    return kind if at_most is None else f"{kind} of {at_most} or less"
