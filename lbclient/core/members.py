"""Who belongs to a pool: the states of its backends by URL, in declared order.

The dict is replaced whole and never edited, so that whoever reads it without the lock sees one set or the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias, cast

from lbclient.core.backend import Backend, BackendState
from lbclient.core.health import Admin, Health

BackendLike: TypeAlias = Backend | str
Members: TypeAlias = Mapping[str, BackendState]


def admit(
    pool: str,
    backends: Iterable[BackendLike],
    known: Members,
    clock: Callable[[], float],
    ramp_since: float | None,
    left: Members = MappingProxyType({}),
    *,
    may_be_empty: bool = False,
) -> Members:
    """A whole set of members. Those that are known keep their numbers and their health.

    Whoever returns while requests that it was sent before are in flight keeps its numbers, too, since it is as busy as
    they say. Its health starts anew.

    Args:
        pool: Its name, for the messages.
        backends: The whole set.
        known: The members before.
        clock: The pool's.
        ramp_since: When the slow start of the new ones begins; None for no slow start.
        left: Those who were members once, and have requests in flight.
        may_be_empty: Whether nobody is a set.

    Raises:
        ValueError: The set is empty, or has a URL twice, or one that leads nowhere. Nothing has changed then.
        TypeError: It is no list.
    """
    declared = declared_as(backends)
    if not declared and not may_be_empty:
        raise ValueError(f"pool {pool!r} has no backends; write at least one, like 'http://10.0.0.5:8080'")
    urls = [backend.url for backend in declared]
    if len(set(urls)) < len(urls):
        twice = sorted({url for url in urls if urls.count(url) > 1})
        raise ValueError(
            f"pool {pool!r} has {', '.join(twice)} more than once; use weight= for a larger share"
        )
    members: dict[str, BackendState] = {}
    for backend in declared:
        state = known.get(backend.url)
        if state is None:
            state = left.get(backend.url)
            if state is None:
                state = BackendState(backend, clock)
            else:
                state.health = Health(state.health.epoch + 1)
            state.health.ramp_since = ramp_since
            if backend.draining:
                state.health.admin = Admin.DRAINING
        elif backend.draining != state.backend.draining:
            _drain_or_not(state.health, backend.draining, ramp_since)
        state.backend = backend
        members[backend.url] = state
    return members


def declared_as(backends: object) -> list[Backend]:
    """The backends of a set, each as it is declared.

    Raises:
        ValueError: One leads nowhere.
        TypeError: It is no list of them.
    """
    if isinstance(backends, Mapping):
        raise TypeError(f"backends is {backends!r}; write a list of Backend(url, weight=...)")
    if isinstance(backends, (str, bytes, Backend)) or not isinstance(backends, Iterable):
        raise TypeError(f"backends is {backends!r}; write a list of URLs or Backends")
    return [Backend.of(backend) for backend in cast("Iterable[BackendLike]", backends)]


def _drain_or_not(health: Health, draining: bool, ramp_since: float | None) -> None:
    """What is declared has changed: it begins or ends a drain, and nothing else that an operator said."""
    if draining and health.admin is Admin.ACTIVE:
        health.admin = Admin.DRAINING
        health.drain_until = math.inf  # until it leaves
    elif not draining and health.admin is Admin.DRAINING:
        health.admin = Admin.ACTIVE
        health.ramp_since = ramp_since


def known_as(url: str) -> str:
    """What a backend is known by, for whoever writes its URL with a trailing slash.

    Raises:
        TypeError: It is no string.
    """
    if not isinstance(url, str):
        raise TypeError(f"url is {url!r}; write the URL of a backend, like 'http://10.0.0.5:8080'")
    return url.rstrip("/")


def find(pool: str, members: Members, url: str) -> BackendState:
    """The state of the backend that is known by `url`.

    Raises:
        ValueError: There is none; the message lists those there are.
        TypeError: It is no string.
    """
    state = members.get(known_as(url))
    if state is None:
        raise ValueError(f"{url!r} is not in pool {pool!r}; it has {', '.join(members)}")
    return state
