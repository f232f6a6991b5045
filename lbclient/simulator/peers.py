"""Whom the algorithms are compared with, inside the simulator only: they ask the servers what no client can.

They are built like any other algorithm, once `bind` has told them of the servers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, ClassVar

from lbclient.core.algorithms.picker import Picker
from lbclient.core.backend import BackendState

if TYPE_CHECKING:
    from lbclient.simulator.engine import World


@dataclass(frozen=True, slots=True)
class Prequal:
    """Prequal (Wydrowski et al., NSDI 2024): asks some servers with every request, and picks from the answers.

    As published: three probes a request, a pool of 16 answers that are at most a second old, hot above the 84th
    percentile of the requests in flight that were seen, among cold ones the least latency, else the fewest in flight,
    and one answer, the oldest or the worst in turn, is dropped per pick. Probes cost nothing here and take no time. A
    server that failed is left alone for a second, twice as long each time, up to 16 s: its guard against sinkholes.
    """

    world: World | None = None

    name: ClassVar[str] = "prequal"
    because: ClassVar[str] = "what the servers said"
    charges_failures: ClassVar[bool] = True

    def bind(self, world: World) -> Prequal:
        """The same, for these servers."""
        return replace(self, world=world)

    def build(self, backends: Sequence[BackendState], rng: Random, /) -> Picker:
        """A picker that probes."""
        assert self.world is not None
        return PrequalPicker(self.world, backends, rng)


PROBES, POOL, AGE, HOT = 3, 16, 1.0, 0.84


class PrequalPicker:
    """One client's pool of answers."""

    def __init__(self, world: World, backends: Sequence[BackendState], rng: Random) -> None:
        self._world = world
        self._states = list(backends)
        self._random = rng.random
        self._answers: list[tuple[float, int, float, BackendState]] = []
        self._seen: deque[int] = deque(maxlen=128)
        self._drop_worst = False
        self._mean: dict[str, float] = {}
        self._shunned: dict[str, tuple[float, float]] = {}

    def _probe(self, now: float) -> None:
        for _ in range(PROBES):
            state = self._states[int(self._random() * len(self._states))]
            server = self._world.by_url[state.url]
            if server.down:
                continue
            pace = max(server.speed, 1e-3) * min(1.0, server.cores / (server.in_flight + 1))
            self._answers.append((now, server.in_flight, 1 / pace, state))
            self._seen.append(server.in_flight)
        del self._answers[:-POOL]

    def pick(self, key: bytes | None, /) -> BackendState:
        """The best answer's."""
        state = self.pick_other(key, ())
        assert state is not None
        return state

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        now = self._world.time[0]
        self._probe(now)
        self._answers = [one for one in self._answers if one[0] >= now - AGE]
        fit = [
            one
            for one in self._answers
            if one[3] not in avoid and now >= self._shunned.get(one[3].url, (0, 0))[0]
        ]
        if not fit:
            rest = [state for state in self._states if state not in avoid]
            return rest[int(self._random() * len(rest))] if rest else None
        ranked = sorted(self._seen)
        limit = ranked[min(len(ranked) - 1, int(HOT * len(ranked)))]
        cold = [one for one in fit if one[1] <= limit]
        best = min(cold, key=lambda one: (one[2], one[1])) if cold else min(fit, key=lambda one: one[1])
        self._answers.remove(best)
        at, in_flight, latency, state = best
        if in_flight + 1 <= limit:  # it may be used again, with what it was used for counted in
            self._answers.append((at, in_flight + 1, latency, state))
        if self._answers:
            worst = max(self._answers, key=lambda one: one[1]) if self._drop_worst else self._answers[0]
            self._answers.remove(worst)
            self._drop_worst = not self._drop_worst
        return state

    def observed(self, state: BackendState, latency: float, failed: bool, now: float, /) -> None:
        """Failures in a row are remembered."""
        if not failed:
            self._shunned.pop(state.url, None)
            return
        _, seconds = self._shunned.get(state.url, (0.0, 0.5))
        self._shunned[state.url] = (now + min(seconds * 2, 16.0), min(seconds * 2, 16.0))


@dataclass(frozen=True, slots=True)
class C3:
    """C3 (Suresh et al., NSDI 2015): ranks by response time and the cube of the queue that servers report.

    Score: R - 1/mu + q^3 / mu, q = 1 + in flight x clients + the reported queue; moving averages of 0.9. Its rate
    control is left out.
    """

    clients: int = 1
    world: World | None = None

    name: ClassVar[str] = "c3"
    because: ClassVar[str] = "the cube of the queue"

    def bind(self, world: World) -> C3:
        """The same, for these servers."""
        return replace(self, world=world)

    def build(self, backends: Sequence[BackendState], rng: Random, /) -> Picker:
        """A picker that ranks."""
        assert self.world is not None
        return C3Picker(self.world, backends, rng, self.clients)


class C3Picker:
    """One client's averages: response time, service time, queue."""

    def __init__(self, world: World, backends: Sequence[BackendState], rng: Random, clients: int) -> None:
        self._world = world
        self._states = list(backends)
        self._random = rng.random
        self._clients = clients
        self._known: dict[str, tuple[float, float, float]] = {}

    def pick(self, key: bytes | None, /) -> BackendState:
        """The least score, ties drawn."""
        state = self.pick_other(key, ())
        assert state is not None
        return state

    def pick_other(self, key: bytes | None, avoid: Collection[BackendState], /) -> BackendState | None:
        """The same among those not in `avoid`."""
        best, least = None, math.inf
        start = int(self._random() * len(self._states))
        for state in self._states[start:] + self._states[:start]:
            if state in avoid:
                continue
            response, service, queue = self._known.get(state.url, (0.0, 0.0, 0.0))
            waiting = 1 + state.in_flight * self._clients + queue
            score = response - service + waiting**3 * service
            if score < least:
                best, least = state, score
        return best

    def observed(self, state: BackendState, latency: float, failed: bool, now: float, /) -> None:
        """An answer carries the server's queue and service time."""
        server = self._world.by_url[state.url]
        queue = max(0, server.in_flight - server.cores)
        service = latency / max(1.0, server.in_flight / server.cores)
        old = self._known.get(state.url)
        if old is None:
            self._known[state.url] = (latency, service, queue)
        else:
            self._known[state.url] = (
                0.9 * old[0] + 0.1 * latency,
                0.9 * old[1] + 0.1 * service,
                0.9 * old[2] + 0.1 * queue,
            )
