"""What an algorithm is to the pool: frozen configuration that builds a picker for one set of backends.

A picker never looks at health: every backend it was built over may be picked. All its methods are called under
the pool's lock, so it needs none of its own. Besides `pick` it may have any of these, and the pool uses what it finds:

    pick_other(key, avoid)                 the choice when some of its backends are out of the question
    pick_for(key, again)                   `pick` for a request of which `again()` says whether it would be sent again,
                                           should it fail: what would not is spared from trying who may fail
    started(state)                         a ticket on `state` was taken, by this picker or past it; in flight grew
    ended(state)                           a ticket on `state` ended; in flight has shrunk
    observed(state, latency, failed, now)  an attempt's seconds to the response headers, or to its failure
    refused(state, latency, now)           instead of that, when the answer was 429
    reported(state, in_flight, now)        a server said how many requests it has in flight, over all its clients
    avoided(state, now)                    why a backend gets less than others, as an `Avoided`; None if it does not
    drawn                                  the number that decided the last pick, for the record
    costs                                  what the last pick compared, a number per backend, for the record
    reason                                 next to `costs`: why the last pick did not go by them; None when it did

An algorithm whose `charges_failures` is true sees failures itself, and is not given passive ejection unasked.

`started`, `ended` and `observed` are also told of backends that the picker was not built over (an ejected one whose
last requests end): those it ignores. Numbers that have to survive a rebuild live in `BackendState.memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

from lbclient.core.backend import BackendState

if TYPE_CHECKING:
    from lbclient.core.status import ShadowStatus

Again: TypeAlias = Callable[[], bool]
PickOther: TypeAlias = Callable[[bytes | None, Collection[BackendState]], BackendState | None]


class Avoided(NamedTuple):
    """Why an algorithm prefers others to a backend.

    Attributes:
        why: In words.
        failing: It fails or hangs: even clients that are tied to it should go elsewhere.
    """

    why: str
    failing: bool


@runtime_checkable
class Picker(Protocol):
    """Chooses one of the backends it was built over."""

    def pick(self, key: bytes | None, /) -> BackendState:
        """The backend for the next request; `key` is None when the request has none."""
        ...  # pragma: no cover - a protocol


@runtime_checkable
class Explains(Protocol):
    """A picker that tells what its last pick compared, in the order of its backends."""

    costs: Sequence[float | None]


@runtime_checkable
class Shadows(Protocol):
    """A picker beside which another one is asked."""

    def shadow(self, now: float) -> ShadowStatus:
        """What the other one would have done."""
        ...  # pragma: no cover - a protocol


@runtime_checkable
class Algorithm(Protocol):
    """Builds pickers. Anything with this method can be a pool's `algorithm`."""

    def build(self, backends: Sequence[BackendState], rng: Random, /) -> Picker:
        """A picker over `backends` (never empty), drawing from `rng`."""
        ...  # pragma: no cover - a protocol


def pick_knowing(picker: Picker, key: bytes | None, again: Again) -> BackendState:
    """The choice of `picker` for a request of which `again` says whether it would be sent again."""
    own: Callable[[bytes | None, Again], BackendState] | None = getattr(picker, "pick_for", None)
    return picker.pick(key) if own is None else own(key, again)


def pick_around(
    picker: Picker | None,
    algorithm: Algorithm,
    backends: Sequence[BackendState],
    rng: Random,
    key: bytes | None,
    avoid: Collection[BackendState],
) -> BackendState | None:
    """The choice of `picker` (`algorithm`'s, over `backends`) among those not in `avoid`; None when nobody is left."""
    own: PickOther | None = getattr(picker, "pick_other", None)
    if own is not None:
        return own(key, avoid)
    return pick_by_rebuilding(algorithm, backends, rng, key, avoid)


def pick_by_rebuilding(
    algorithm: Algorithm,
    backends: Sequence[BackendState],
    rng: Random,
    key: bytes | None,
    avoid: Collection[BackendState],
) -> BackendState | None:
    """The choice among those not in `avoid`, for a picker that has no `pick_other`; None when nobody is left."""
    rest = [state for state in backends if state not in avoid]
    return algorithm.build(rest, rng).pick(key) if rest else None
