"""What may be said of a pool: each option is checked, and what was left out is filled in."""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import TypeVar, cast

from lbclient.core.affinity import Affinity
from lbclient.core.algorithms import Adaptive, from_name
from lbclient.core.algorithms.picker import Algorithm
from lbclient.core.connect import Connect
from lbclient.core.facts import KeyLike, KeyReader, key_reader
from lbclient.core.health import PassiveHealth
from lbclient.core.learning import DEFAULT_PASSIVE
from lbclient.core.members import known_as

_T = TypeVar("_T")

_SHARED_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class LeftOut(enum.Enum):
    """For an argument whose default depends on others."""

    LEFT_OUT = "left out"


LEFT_OUT = LeftOut.LEFT_OUT


_CONNECT = frozenset(each.name for each in fields(Connect))
_ELSEWHERE = {
    "health_check": "probe=HttpProbe('/health')",
    "limits": "connect=Connect(max_connections=..., max_idle=..., keepalive_expiry=...)",
    "mounts": "inner=, a function from a Backend to the transport that reaches it",
    "proxies": "inner=, a function from a Backend to the transport that reaches it",
    "proxy": "inner=lambda backend: httpx.AsyncHTTPTransport(proxy=...)",
    "retries": "retry=Retry(stop=stop_after_attempt(3)), or retry=None",
    "timeout": "it at the client: httpx.AsyncClient(transport=..., timeout=...)",
    "uds": "Backend(url, uds=...)",
    "weights": "Backend(url, weight=...)",
}
"""What people coming from httpx's transports, or from other balancers, may look for."""


def check_options(options: Iterable[str], known: Collection[str]) -> None:
    """Each of `options` is one of a pool.

    Raises:
        TypeError: One is not; the message says where it belongs.
    """
    for name in options:
        if name in known:
            continue
        if name in _CONNECT:
            words = f"write connect=Connect({name}=...)"
        elif name in _ELSEWHERE:
            words = f"write {_ELSEWHERE[name]}"
        else:
            words = f"its options are {', '.join(sorted(known))}"
            if similar := get_close_matches(name, known, 1):
                words = f"did you mean {similar[0]}?"
        raise TypeError(f"{name} is no option of a pool; {words}")


def algorithm_name(algorithm: Algorithm) -> str:
    """What an algorithm is called in configuration, status and records."""
    return str(getattr(algorithm, "name", type(algorithm).__name__))


def algorithm_of(algorithm: str | Algorithm, peer: tuple[int, int] | None) -> Algorithm:
    """The algorithm that was named or given, told which of how many clients this one is."""
    if isinstance(algorithm, str):
        algorithm = from_name(algorithm)
    elif isinstance(algorithm, type) or not isinstance(algorithm, Algorithm):
        raise TypeError(
            f"algorithm is {algorithm!r}; write a name such as 'round_robin', or an object with build(backends, rng)"
        )
    if peer is None:
        return algorithm
    if not isinstance(algorithm, Adaptive):
        raise ValueError(f"peer is for Adaptive, which has an aperture; {algorithm_name(algorithm)} has none")
    return replace(algorithm, peer=peer)


def passive_of(passive: PassiveHealth | LeftOut | None, algorithm: Algorithm) -> PassiveHealth | None:
    """The passive health that was given; left out, the usual one, except where the algorithm charges failures."""
    if isinstance(passive, LeftOut):
        return None if getattr(algorithm, "charges_failures", False) else DEFAULT_PASSIVE
    return instance_of("passive", passive, PassiveHealth)


def reader_of(algorithm: Algorithm) -> KeyReader | None:
    """What reads the key of an algorithm that hashes off a request; None for the others."""
    key: KeyLike | None = getattr(algorithm, "key", None)
    return None if key is None else key_reader(key)


def check_affinity(affinity: object) -> None:
    """`affinity` is one, or None."""
    if affinity is not None and (isinstance(affinity, type) or not isinstance(affinity, Affinity)):
        raise TypeError(f"affinity is {affinity!r}; write CookieAffinity(...) or another affinity, or None")


def check_cost(cost: object) -> None:
    """`cost` can be called, or is None."""
    if cost is not None and not callable(cost):
        raise TypeError(f"cost is {cost!r}; write a function from the facts of a request to a whole number")


def check_name(name: object) -> None:
    """`name` is one: it stands in records, metrics and messages, and requests ask for their pool by it."""
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; write a string, like 'orders'")
    if not name:
        raise ValueError("name is ''; write one, like 'orders', or leave it out")


def check_clock(clock: object) -> None:
    """`clock` can be called."""
    if not callable(clock):
        raise TypeError(f"clock is {clock!r}; write a function such as time.monotonic, or leave it out")


def check_rng(rng: object) -> None:
    """`rng` draws what algorithms draw, as a `random.Random` does; or it is None."""
    if rng is not None and not all(callable(getattr(rng, name, None)) for name in ("random", "getrandbits")):
        raise TypeError(f"rng is {rng!r}; write random.Random(...), or None")


def checked_exclude(exclude: object) -> Collection[str]:
    """The URLs that are not to be picked, as backends are known by.

    Raises:
        TypeError: `exclude` is one URL, whose letters would exclude nobody, or no collection.
    """
    if isinstance(exclude, str) or not isinstance(exclude, Collection):
        raise TypeError(f"exclude is {exclude!r}; write a collection of URLs, like ['http://10.0.0.5:8080']")
    return {known_as(url) for url in cast("Collection[str]", exclude)}


def check_shared(shared: object, clock: Callable[[], float]) -> None:
    """`shared` is a name that may stand in a file's, and the clock one that all processes have; or None."""
    if shared is None:
        return
    if not (isinstance(shared, str) and _SHARED_NAME.fullmatch(shared)):
        raise ValueError(f"shared is {shared!r}; write a name of letters, digits, '.', '_' and '-', up to 64")
    if clock is not time.monotonic:
        raise ValueError("shared= needs the clock that all processes have, time.monotonic; leave clock= out")


def instance_of(name: str, value: _T, *kinds: type) -> _T:
    """`value`, if it is None or of one of `kinds`."""
    if value is not None and not isinstance(value, kinds):
        wanted = " or ".join(f"{kind.__name__}(...)" for kind in kinds)
        raise TypeError(f"{name} is {value!r}; write {wanted}, or None")
    return value
