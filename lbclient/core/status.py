"""What a person or a dashboard wants to see of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lbclient.core.algorithms.picker import Avoided
    from lbclient.core.backend import BackendState


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One backend at one moment.

    Attributes:
        url: How it is known.
        weight: Its declared weight.
        zone, priority: As declared.
        admin: "active", "draining", "standby" or "disabled".
        check: What the active probes say: "unknown", "passing" or "failing".
        ejected: Whether live requests took it out.
        ejected_for: Seconds until that ends; 0 when it is not ejected.
        available: Whether it may be picked.
        in_flight: Requests that have not ended, bodies included.
        picks, successes, failures: Counts since it was added.
        latency: Moving average of the seconds to the response headers; None before the first answer.
        why: The state in words.
        ejections: How often live requests took it out since it was added.
        avoided: Whether the algorithm prefers others to it, though it is available: it fails, hangs or is slow (`why`).
    """

    url: str
    weight: float
    zone: str | None
    priority: int
    admin: str
    check: str
    ejected: bool
    ejected_for: float
    available: bool
    in_flight: int
    picks: int
    successes: int
    failures: int
    latency: float | None
    why: str
    ejections: int = 0
    avoided: bool = False


class TierStatus(NamedTuple):
    """Backends that carry a part of the load together.

    Attributes:
        priority: Theirs.
        zone: Theirs; None where zones make no difference, and for backends without one.
        share: Their part of the load, 0 to 1.
    """

    priority: int
    zone: str | None
    share: float


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """Where the backends of a pool come from, at one moment.

    Attributes:
        name: The source's.
        well: Whether the last it said was a set. While it is not, the last set stays.
        sets: How often it has said a set.
        changes: How many of those were another one than before.
        age: Seconds since it said a set; None before the first.
        last_error: What went wrong last, in words; empty when nothing ever did.
        last_error_age: Seconds since that; None when nothing ever did.
    """

    name: str
    well: bool
    sets: int
    changes: int
    age: float | None
    last_error: str
    last_error_age: float | None


@dataclass(frozen=True, slots=True)
class ShadowStatus:
    """What another algorithm, or a health policy, would have done with the same traffic.

    Attributes:
        algorithm: The other one's name; empty when there is none.
        picks: How often it was asked.
        differed: How often it would have picked another backend.
        chosen: How often it would have picked each.
        ejections: How often the policy would have ejected each.
        ejected: Who would be ejected now.
    """

    algorithm: str
    picks: int
    differed: int
    chosen: Mapping[str, int]
    ejections: Mapping[str, int]
    ejected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool at one moment.

    Attributes:
        name: The pool's.
        algorithm: By name.
        generation: Grows with every change of who may be picked.
        panic: Whether picks ignore health, because too few backends are healthy.
        backends: In declared order.
        tiers: Which priorities and zones carry the load; the shares sum to 1. Empty when nobody may be picked.
        degraded: Whether the first priority does not carry all of the load: others help out, health is ignored, or
            nobody may be picked.
        why: What is wrong, in words; empty when it is not degraded.
        retries: Attempts after the first, of all requests.
        hedges: Copies of slow requests.
        source: Where the backends come from; None when they are a list.
        shadow: What another algorithm would have done, under a `Shadow`.
    """

    name: str
    algorithm: str
    generation: int
    panic: bool
    backends: tuple[BackendStatus, ...]
    tiers: tuple[TierStatus, ...] = ()
    degraded: bool = False
    why: str = ""
    retries: int = 0
    hedges: int = 0
    source: SourceStatus | None = None
    shadow: ShadowStatus | None = None


def status_of(state: BackendState, now: float, avoided: Avoided | None) -> BackendStatus:
    """What there is to see of a backend."""
    backend, health = state.backend, state.health
    ejected_for = health.ejected_for(now)
    why = health.describe(now)
    if not health.available:
        avoided = None  # it is out anyway
    if avoided is not None:
        why = f"{why}, but avoided: {avoided.why}"
    return BackendStatus(
        url=state.url,
        weight=backend.weight,
        zone=backend.zone,
        priority=backend.priority,
        admin=health.admin.value,
        check=health.check.value,
        ejected=ejected_for > 0,
        ejected_for=ejected_for,
        available=health.available and backend.weight > 0,
        in_flight=state.in_flight,
        picks=state.picks,
        successes=state.successes,
        failures=state.failures,
        latency=state.latency,
        ejections=health.ejected_ever,
        why=why,
        avoided=avoided is not None,
    )
