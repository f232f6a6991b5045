"""The split: several pools share the requests by weight. Canaries, and blue/green by degrees.

A split is a weighted round robin over pools instead of backends, so 95 to 5 is 19 and 1 of any 20 requests in a row,
and not roughly so.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from random import Random
from time import monotonic
from typing import NamedTuple, NoReturn

from lbclient.core.algorithms.smooth import WeightedRoundRobin
from lbclient.core.backend import Backend, BackendState
from lbclient.core.checks import check_flag, check_number
from lbclient.core.cookies import COOKIE_NAME, MOST_VALUES, cookie_values, set_cookie
from lbclient.core.facts import Facts, Header
from lbclient.core.forking import new_lock
from lbclient.core.pool import Pool
from lbclient.core.tokens import Secret, Signer


class Routed(NamedTuple):
    """Where a request goes, and what follows from it for the messages.

    Attributes:
        pool: It serves the request.
        set_cookie: To be added to the response that is handed back: the client has something new to keep.
        strip: The cookies that are between client and balancer, and not sent on.
    """

    pool: Pool
    set_cookie: Header | None = None
    strip: tuple[str, ...] = ()


class Split:
    """Pools that share requests by weight. Serves any number of loops and threads.

    Args:
        weights: The share of each pool: finite, >= 0, fractions allowed. 0 is off; not all of them may be. Shares are
            exact over a cycle (the sum of the weights as smallest whole numbers) from a random start.
        sticky: Whether a client stays on its side. A cookie says which that is: signed, opaque, and set only when the
            side is new or changed. When the weights change, clients stay where they are, but for those of a side that
            was turned off. Clients that come back take no turn of the new ones.
        secret: What the cookie is signed with, see `Signer`. None is a random one of this process: after a restart, and
            in every other process, clients are treated as new.
        name: For messages and `repr`.
        cookie: The name of the cookie. Splits that serve the same host need a name each.
        rng: Where the start of the rotation is drawn from.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    __slots__ = ("_cookie", "_rng", "_sides", "_signer", "name", "pools")

    def __init__(
        self,
        weights: Mapping[Pool, float],
        *,
        sticky: bool = False,
        secret: Secret = None,
        name: str | None = None,
        cookie: str = "LBCLIENT-SPLIT",
        rng: Random | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name is {name!r}; write a string, or leave it out")
        check_flag("sticky", sticky)
        if secret is not None and not sticky:
            raise ValueError("secret signs the cookie of a sticky split; write sticky=True, or leave it out")
        if not isinstance(cookie, str):
            raise TypeError(f"cookie is {cookie!r}; write a cookie name such as 'LBCLIENT-SPLIT'")
        if not COOKIE_NAME.fullmatch(cookie):
            raise ValueError(f"cookie is {cookie!r}; write a cookie name such as 'LBCLIENT-SPLIT'")
        checked = _checked(weights)
        names = [pool.name for pool in checked]
        for twice in names:
            if names.count(twice) > 1:
                raise ValueError(
                    f"two pools of a split are named {twice!r}; give each Pool(...) a name= of its own"
                )
        self.name = name
        self.pools: tuple[Pool, ...] = tuple(checked)
        self._cookie = cookie
        self._signer = Signer(secret) if sticky else None
        self._rng = rng if rng is not None else Random()
        self._sides = _Sides(checked, self.strip, self._rng)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a split has turns to keep, which belong to this process; make one where it is used")

    def __repr__(self) -> str:
        return f"<Split {self.describe()}{', sticky' if self._signer else ''}>"

    def describe(self) -> str:
        """The name and the weights, for messages."""
        shares = ", ".join(f"{pool.name!r} {weight:.15g}" for pool, weight in self.weights.items())
        return shares if self.name is None else f"{self.name!r}: {shares}"

    @property
    def weights(self) -> Mapping[Pool, float]:
        """The share of each pool; 0 is off."""
        return dict(self._sides.weights)

    @property
    def strip(self) -> tuple[str, ...]:
        """The cookie that is not sent on, if the split is sticky."""
        return () if self._signer is None else (self._cookie,)

    def set(self, weights: Mapping[Pool, float]) -> None:
        """Replace all weights at once: whoever picks sees the old ones or the new ones, and the new ones afterwards.

        Args:
            weights: As in the constructor, of the pools that were named there. One that is left out is off.

        Raises:
            ValueError, TypeError: They are not; nothing has changed.
        """
        checked = _checked(weights)
        for pool in checked:
            if pool not in self.pools:
                raise ValueError(
                    f"{pool!r} is none of the pools of this split ({_names(self.pools)}), and they are fixed: "
                    f"make the split with every pool it will ever need, with weight 0 for those that are off"
                )
        self._sides = _Sides({pool: checked.get(pool, 0) for pool in self.pools}, self.strip, self._rng)

    def pick(self, facts: Facts, now: float = 0.0) -> Routed:
        """The pool that serves a request: the client's own if it has one, or the next in turn.

        Args:
            facts: The request's; read only if the split is sticky.
            now: The wall clock, in seconds since 1970.
        """
        sides = self._sides  # read once: one request sees one set of weights
        signer = self._signer
        if signer is None:
            return sides.next()
        for value in islice(cookie_values(facts.headers, self._cookie), MOST_VALUES):
            name = signer.find(value, sides.by_name, now)
            if name is not None:
                return sides.by_name[name]
        routed = sides.next()
        value = signer.issue(routed.pool.name, now)
        secure = facts.scheme == "https"
        cookie = set_cookie(self._cookie, value, path="/", samesite="lax", secure=secure)
        return routed._replace(set_cookie=cookie)


class _Sides:
    """The weights until the next `set`, with the rotation over them. Replaced whole, never edited.

    Attributes:
        weights: Of all pools.
        by_name: The pools that are on. A client that is tied to another one is new.
    """

    __slots__ = ("_lock", "_picker", "_routed", "by_name", "weights")

    def __init__(self, weights: Mapping[Pool, float], strip: tuple[str, ...], rng: Random) -> None:
        self.weights = weights
        self.by_name = {
            pool.name: Routed(pool, strip=strip) for pool, weight in weights.items() if weight > 0
        }
        # Sides take turns as backends do. All that a rotation looks at is their weight.
        turns = [
            BackendState(Backend(f"http://side-{number}", weight=weights[routed.pool]), monotonic)
            for number, routed in enumerate(self.by_name.values())
        ]
        self._routed = dict(zip(turns, self.by_name.values(), strict=True))
        self._picker = WeightedRoundRobin().build(turns, rng)
        self._lock = new_lock()

    def next(self) -> Routed:
        """Whose turn it is."""
        with self._lock:
            side = self._picker.pick(None)
        return self._routed[side]


def _checked(weights: Mapping[Pool, float]) -> dict[Pool, float]:
    """A copy of weights that could be those of a split."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"the weights of a split are {weights!r}; write {{pool: weight, ...}}")
    if not weights:
        raise ValueError("a split has no pools; write {pool: weight, ...}")
    for pool, weight in weights.items():
        if not isinstance(pool, Pool):
            raise TypeError(f"a split is over pools, and {pool!r} is none; write {{pool: weight, ...}}")
        check_number(f"the weight of pool {pool.name!r}", weight, at_least=0)
    if not any(weights.values()):
        raise ValueError(
            f"every weight of the split is 0 ({_names(weights)}), so nobody would serve; write one above 0"
        )
    return dict(weights)


def _names(pools: Mapping[Pool, float] | tuple[Pool, ...]) -> str:
    return ", ".join(repr(pool.name) for pool in pools)
