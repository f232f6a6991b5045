"""Closing connections where they live: any thread may."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from lbclient._sync.engine import Engine
from lbclient._sync.loops import Loop

_T = TypeVar("_T")


def leave_to_parent(engines: Iterable[Engine]) -> None:
    """After a fork: close our copies of their sockets, of which the peer and the parent notice nothing."""
    for engine in engines:
        engine.drop(also_in_use=True)


def in_every_loop(errands: Mapping[Loop, Callable[[], _T]], what: str) -> list[_T]:
    """Run each errand.

    Args:
        errands: By where they belong; those of another process are left to it.
        what: What they do.

    Returns:
        Their results.
    """
    return [errand() for errand in errands.values()]
