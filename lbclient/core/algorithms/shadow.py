"""A second algorithm, or a health policy, that sees the same traffic and decides without effect.

What would another one have done? `Pool(algorithm=Shadow("adaptive", beside="least_connections"))` picks by the first,
asks the second each time, and counts where they differ: in `pool.status().shadow`, and in the simulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import Random as Rng
from typing import ClassVar

from lbclient.core.algorithms.picker import Again, Algorithm, Avoided, Picker, pick_around, pick_knowing
from lbclient.core.backend import BackendState
from lbclient.core.health import Health, Passive, PassiveHealth
from lbclient.core.status import ShadowStatus


@dataclass(frozen=True, slots=True)
class Shadow:
    """One algorithm decides, another one and a health policy are only asked.

    Args:
        decides: Who picks: a name, or an algorithm.
        beside: Who is asked as well; None for nobody.
        passive: A policy whose ejections are counted and not carried out; None for none.

    Raises:
        ValueError, TypeError: One of them is none, or both algorithms are of one name.
    """

    decides: str | Algorithm = "adaptive"
    beside: str | Algorithm | None = None
    passive: PassiveHealth | None = None
    _one: Algorithm = field(init=False, repr=False)
    _other: Algorithm | None = field(init=False, repr=False)

    because: ClassVar[str] = "the choice of the one that decides"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_one", _algorithm("decides", self.decides))
        other = None if self.beside is None else _algorithm("beside", self.beside)
        object.__setattr__(self, "_other", other)
        if self.passive is not None and not isinstance(self.passive, PassiveHealth):
            raise TypeError(f"passive is {self.passive!r}; write PassiveHealth(...), or None")
        if other is None and self.passive is None:
            raise ValueError(
                "a shadow has nobody to ask; write beside='least_connections' or passive=PassiveHealth()"
            )
        if other is not None and _name(other) == _name(self._one):
            raise ValueError(f"both algorithms are {_name(other)!r}; they would share what they have learned")

    @property
    def name(self) -> str:
        """That of the one that decides."""
        return _name(self._one)

    @property
    def key(self) -> object:
        """What is hashed, if one of them hashes."""
        return getattr(self._one, "key", None) or getattr(self._other, "key", None)

    @property
    def charges_failures(self) -> bool:
        """Whether the one that decides does."""
        return bool(getattr(self._one, "charges_failures", False))

    def build(self, backends: Sequence[BackendState], rng: Rng, /) -> ShadowPicker:
        """Both pickers over `backends`."""
        ledger = next((s.memory["shadow"] for s in backends if "shadow" in s.memory), None)
        if not isinstance(ledger, _Ledger):
            ledger = _Ledger("" if self._other is None else _name(self._other))
        for state in backends:
            state.memory["shadow"] = ledger
        return ShadowPicker(self._one, self._other, self.passive, backends, rng, ledger)


class _Ledger:
    """What has been counted; it survives changes of the set."""

    __slots__ = ("chosen", "differed", "ejections", "health", "name", "picks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.picks = 0
        self.differed = 0
        self.chosen: Counter[str] = Counter()
        self.ejections: Counter[str] = Counter()
        self.health: dict[str, Health] = {}


class ShadowPicker:
    """Picks by one, asks the other.

    Attributes:
        drawn, costs, reason: Of the one that decides.
    """

    def __init__(
        self,
        one: Algorithm,
        other: Algorithm | None,
        passive: PassiveHealth | None,
        backends: Sequence[BackendState],
        rng: Rng,
        ledger: _Ledger,
    ) -> None:
        self._algorithm, self._backends, self._rng = one, backends, rng
        self._one: Picker = one.build(backends, rng)
        # dice of its own, so that those of the other roll as if it were not there
        self._other = None if other is None else other.build(backends, Rng(rng.getrandbits(64)))
        self._passive = passive
        self._ledger = ledger
        self._pickers = [picker for picker in (self._one, self._other) if picker is not None]

    @property
    def drawn(self) -> float | None:
        """The number that decided."""
        drawn: float | None = getattr(self._one, "drawn", None)
        return drawn

    @property
    def costs(self) -> Sequence[float | None]:
        """What the one that decides compared."""
        costs: Sequence[float | None] = getattr(self._one, "costs", ())
        return costs

    @property
    def reason(self) -> str | None:
        """Why the one that decides did not go by them."""
        reason: str | None = getattr(self._one, "reason", None)
        return reason

    def pick(self, key: bytes | None, /) -> BackendState:
        """The choice of the one that decides."""
        state = self._one.pick(key)
        self._count(state, None if self._other is None else self._other.pick(key))
        return state

    def pick_for(self, key: bytes | None, again: Again, /) -> BackendState:
        """The same for a request of which `again` says whether it would be sent again."""
        state = pick_knowing(self._one, key, again)
        self._count(state, None if self._other is None else pick_knowing(self._other, key, again))
        return state

    def _count(self, state: BackendState, chosen: BackendState | None) -> None:
        ledger = self._ledger
        ledger.picks += 1
        if chosen is not None:
            ledger.chosen[chosen.url] += 1
            ledger.differed += chosen is not state

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`; the other is not asked."""
        return pick_around(self._one, self._algorithm, self._backends, self._rng, key, avoid)

    def _tell(self, what: str, *facts: object) -> None:
        for picker in self._pickers:
            hook: Callable[..., None] | None = getattr(picker, what, None)
            if hook is not None:
                hook(*facts)

    def started(self, state: BackendState, /) -> None:
        """A ticket was taken."""
        self._tell("started", state)

    def ended(self, state: BackendState, /) -> None:
        """A ticket ended."""
        self._tell("ended", state)

    def observed(self, state: BackendState, latency: float, failed: bool, now: float, /) -> None:
        """An attempt was answered, or failed."""
        self._tell("observed", state, latency, failed, now)
        self._judge(state, failed, False, now)

    def refused(self, state: BackendState, latency: float, now: float, /) -> None:
        """An attempt was answered with 429."""
        for picker in self._pickers:
            refused: Callable[..., None] | None = getattr(picker, "refused", None)
            observed: Callable[..., None] | None = getattr(picker, "observed", None)
            if refused is not None:
                refused(state, latency, now)
            elif observed is not None:
                observed(state, latency, False, now)
        self._judge(state, False, True, now)

    def reported(self, state: BackendState, in_flight: float, now: float, /) -> None:
        """A server said how much it has in flight."""
        self._tell("reported", state, in_flight, now)

    def avoided(self, state: BackendState, now: float, /) -> Avoided | None:
        """What the one that decides says."""
        hook: Callable[[BackendState, float], Avoided | None] | None = getattr(self._one, "avoided", None)
        return None if hook is None else hook(state, now)

    def _judge(self, state: BackendState, failed: bool, overload: bool, now: float) -> None:
        policy, ledger = self._passive, self._ledger
        if policy is None:
            return
        health = ledger.health.get(state.url)
        if health is None:
            health = ledger.health[state.url] = Health()
        health.settle(now)
        if health.passive is Passive.HALF_OPEN:
            health.begin_trial()
            health.end_trial(not failed, policy, now, 1.0, "its trial failed")
            ledger.ejections[state.url] += failed
        elif health.passive is Passive.IN:
            reason = health.record(policy, now, failed, overload)
            if reason is not None:
                health.eject(policy, now, 1.0, reason)
                ledger.ejections[state.url] += 1

    def shadow(self, now: float) -> ShadowStatus:
        """What it would have done."""
        ledger = self._ledger
        return ShadowStatus(
            algorithm=ledger.name,
            picks=ledger.picks,
            differed=ledger.differed,
            chosen=dict(ledger.chosen),
            ejections=dict(ledger.ejections),
            ejected=tuple(url for url, health in ledger.health.items() if health.ejected_for(now) > 0),
        )


def _name(algorithm: Algorithm) -> str:
    return str(getattr(algorithm, "name", type(algorithm).__name__))


def _algorithm(argument: str, algorithm: str | Algorithm) -> Algorithm:
    if isinstance(algorithm, str):
        from lbclient.core.algorithms import from_name

        return from_name(algorithm)
    if isinstance(algorithm, type) or not isinstance(algorithm, Algorithm):
        raise TypeError(
            f"{argument} is {algorithm!r}; write a name such as 'least_connections', or an algorithm"
        )
    return algorithm
