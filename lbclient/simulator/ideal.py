"""The central queue that knows everything: what the algorithms of clients are measured by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from lbclient.core.outcome import Failure
from lbclient.simulator.engine import Arrival, Request, World, poisson
from lbclient.simulator.log import Log
from lbclient.simulator.scenario import Scenario
from lbclient.simulator.servers import ModelServer


class CentralQueue:
    """A request goes to the fastest server with an idle core, and waits for one when there is none.

    It knows who fails, who is down and how fast everybody is at the moment; not what will be.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: deque[Request] = deque()
        joins = [spec.joins for spec in world.scenario.servers]
        self._members = [s for s, at in zip(world.servers, joins, strict=True) if not at]
        for server, at in zip(world.servers, joins, strict=True):
            if at:
                world.at(at, self._members.append, server)

    def issue(self, now: float, work: float) -> None:
        """A request begins."""
        self._world.log.began()
        request = Request(SimpleNamespace(state=None), now, work, None)  # type: ignore[arg-type]  # nobody holds it
        self._place(request)

    def _place(self, request: Request) -> None:
        best: ModelServer | None = None
        for server in self._members:
            idle = server.in_flight < server.cores and server.speed > 0 and not server.failing
            if idle and (best is None or (server.speed, -server.in_flight) > (best.speed, -best.in_flight)):
                best = server
        if best is None:
            self._waiting.append(request)
            return
        request.ticket.state = cast("Any", best)
        best.arrive(request)

    def respond(self, request: Request, failure: Failure | None) -> None:
        """A core is idle."""
        world = self._world
        server: Any = request.ticket.state
        world.log.ended(request.began, world.time[0] + world.scenario.delay, server.url, failure)
        if self._waiting:
            self._place(self._waiting.popleft())


def play_ideal(
    scenario: Scenario,
    *,
    seed: int,
    arrivals: Sequence[Arrival] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Log:
    """Simulate the central queue."""
    world = World(scenario, seed)
    queue = CentralQueue(world)
    source = poisson(scenario, seed) if arrivals is None else iter(arrivals)
    world.run(source, queue.issue, queue.respond, progress)
    return world.log
