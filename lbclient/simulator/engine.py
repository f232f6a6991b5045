"""The simulation: many clients, each with a real `Pool`, on one virtual clock.

Three things are to come at any moment: the next request, the next one that arrives over the network (all take the same
time, so they arrive in order), and the next event of a server. The earliest happens, and the clock is set to it. The
network's delay is put on the way there as a whole: servers do not see the difference, and neither do clients.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from operator import getitem
from random import Random
from threading import Lock
from typing import Any

from lbclient.core.algorithms.picker import Algorithm
from lbclient.core.backend import Backend
from lbclient.core.facts import Facts
from lbclient.core.hedging import Hedge
from lbclient.core.news import News
from lbclient.core.outcome import Ending, Failure, Outcome
from lbclient.core.pool import Pool
from lbclient.core.retry import Retry
from lbclient.core.ticket import Ticket
from lbclient.simulator.log import SLICES, Log
from lbclient.simulator.scenario import Antagonist, Change, Down, Failing, Scenario, Speed
from lbclient.simulator.servers import ModelServer, QueueingServer, SharingServer

LOOKED_AT = 10  # clients whose status is looked at: enough to see, and little work
_ENDINGS: dict[Failure, Ending] = {
    "connect": Ending.UNREACHABLE,
    "reset": Ending.BROKEN,
    "timeout": Ending.SLOW,
}
Arrival = tuple[float, float]


class Request:
    """One attempt under way.

    Attributes:
        ticket: Its hold on a backend.
        began: When the request began: of a retry, the first attempt.
        work: Seconds that it takes on an idle core of speed 1.
        call: What it is an attempt of, where there are retries or hedges; else None.
        over: Whether the client has its answer, or has given up.
    """

    __slots__ = ("began", "call", "over", "ticket", "work")

    def __init__(self, ticket: Ticket, began: float, work: float, call: Call | None) -> None:
        self.ticket = ticket
        self.began = began
        self.work = work
        self.call = call
        self.over = False


class Call:
    """What a client asked for, with all its attempts."""

    __slots__ = ("done", "plan", "under_way")

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.done = False
        self.under_way: list[Request] = []


class World:
    """The clock, what is to come, and the servers.

    Args:
        scenario: What happens.
        seed: Of everything that is random.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.time = [0.0]
        self.clock: Callable[[], float] = _clock_of(self.time)
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._numbers = 0
        self._wire: deque[tuple[float, ModelServer, Request]] = deque()
        kind = SharingServer if scenario.sharing else QueueingServer
        self.servers: list[ModelServer] = [
            kind(f"http://server-{number}:80", server.cores, server.speed, self, Random(seed * 1009 + number))
            for number, server in enumerate(scenario.servers)
        ]
        self.by_url = {server.url: server for server in self.servers}
        self.log = Log(scenario, [server.url for server in self.servers])
        self._respond: Callable[[Request, Failure | None], None] = _nobody
        for change in scenario.changes:
            self.at(change.at, self._change, change)
            if isinstance(change, Down):
                self.at(change.at + change.seconds, self._up, change)
        if scenario.antagonist is not None:
            rng = Random(seed * 31 + 7)
            for server in self.servers:
                self._disturb((server, scenario.antagonist, rng))

    def at(self, when: float, what: Callable[[Any], None], whom: Any) -> None:
        """Have something happen."""
        self._numbers += 1
        heappush(self._events, (when, self._numbers, what, whom))

    def send(self, request: Request) -> None:
        """Put a request on the wire."""
        server = self.by_url[request.ticket.state.url]
        self._wire.append((self.time[0] + self.scenario.delay, server, request))

    def answer(self, request: Request, after: float, failure: Failure | None) -> None:
        """A server is done with a request."""
        if after:
            self.at(self.time[0] + after, self._late, (request, failure))
        else:
            self._respond(request, failure)

    def _late(self, answer: tuple[Request, Failure | None]) -> None:
        self._respond(*answer)

    def run(
        self,
        arrivals: Iterator[Arrival],
        issue: Callable[[float, float], None],
        respond: Callable[[Request, Failure | None], None],
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Let time pass until every request that began has been answered.

        Args:
            arrivals: When requests begin, and how much work they are.
            issue: What a client does then.
            respond: What a client does when its answer comes.
            progress: Told how much of the time has passed, 0 to 1, now and then.
        """
        self._respond = respond
        events, wire, time = self._events, self._wire, self.time
        never = math.inf
        told = 0.0
        arrival, work = next(arrivals, (never, 0.0))
        while True:
            event = events[0][0] if events else never
            landing = wire[0][0] if wire else never
            if arrival <= event and arrival <= landing:
                if arrival == never:
                    return
                time[0] = arrival
                issue(arrival, work)
                if progress is not None and arrival >= told:
                    progress(min(1.0, arrival / self.scenario.seconds))
                    told = arrival + self.scenario.seconds / 100
                arrival, work = next(arrivals, (never, 0.0))
            elif landing <= event:
                at, server, request = wire.popleft()
                time[0] = at
                server.arrive(request)
            else:
                if arrival == never and not wire and not self.log.open:
                    return  # what is left are changes that nobody will see
                at, _, what, whom = heappop(events)
                time[0] = at
                what(whom)

    def _change(self, change: Change) -> None:
        server = self.servers[change.server]
        if isinstance(change, Speed):
            server.change_speed(change.factor)
        elif isinstance(change, Failing):
            server.fail(change.share, change.after)
        else:
            server.crash()

    def _up(self, change: Down) -> None:
        self.servers[change.server].restart()

    def _disturb(self, whom: tuple[ModelServer, Antagonist, Random]) -> None:
        server, antagonist, rng = whom
        server.change_speed(antagonist.low + (antagonist.high - antagonist.low) * rng.random())
        pause = -antagonist.every * math.log(1.0 - rng.random())
        if self.time[0] < self.scenario.seconds:
            self.at(self.time[0] + pause, self._disturb, whom)


def _clock_of(time: list[float]) -> Callable[[], float]:
    """Reads the time with a call into C, which costs half of a method of ours."""
    read: Any = getitem
    return partial(read, time, 0)


def _nobody(request: Request, failure: Failure | None) -> None:
    raise AssertionError("nobody waits for an answer before the run")


def poisson(scenario: Scenario, seed: int) -> Iterator[Arrival]:
    """Requests that know nothing of each other. The same for every algorithm."""
    times, draw = Random(seed * 3 + 1).random, scenario.work.sampler(Random(seed * 3 + 2))
    pause = -1 / scenario.requests_per_second
    log, end, at = math.log, scenario.seconds, 0.0
    while True:
        at += pause * log(1.0 - times())
        if at >= end:
            return
        yield at, draw()


class _Unheard(News):
    """A log is no place for what only happened in a simulation; listeners (of a full pool's queue) are told."""

    __slots__ = ()

    def __init__(self, lock: Lock, heard: News) -> None:
        super().__init__(lock)
        self._listeners = heard._listeners

    def tell(self) -> None:
        """Tell the listeners."""
        with self._lock:
            items, self.items = self.items, []
        if items:
            for callback in self._listeners:
                callback()


class Clients:
    """Clients with a pool each; a request is one of them's at random.

    Args:
        world: Where they live.
        algorithm: Theirs.
        count: How many.
        seed: Of their random numbers.
        retry, hedge: Theirs.
        options: More arguments of their pools.
    """

    def __init__(
        self,
        world: World,
        algorithm: Algorithm,
        count: int,
        seed: int,
        retry: Retry | None,
        hedge: Hedge | None,
        options: dict[str, Any],
    ) -> None:
        self._world = world
        self._log = world.log
        self._timeout = world.scenario.timeout
        self._random = Random(seed * 7 + 3).random
        scenario = world.scenario
        self._once = scenario.once
        self._draw = Random(seed * 11 + 5).random
        declared = [
            Backend(server.url, weight=spec.weight)
            for server, spec in zip(world.servers, scenario.servers, strict=True)
        ]
        first = [backend for backend, spec in zip(declared, scenario.servers, strict=True) if not spec.joins]
        self.pools = [
            Pool(
                first,
                algorithm=algorithm,
                retry=retry,
                hedge=hedge,
                clock=world.clock,
                rng=Random(seed * 100_003 + number),
                **_options_of(options, number, count),
            )
            for number in range(count)
        ]
        for pool in self.pools:
            pool._news = _Unheard(pool._lock, pool._news)
        for backend, spec in zip(declared, scenario.servers, strict=True):
            if spec.joins:
                world.at(spec.joins, self._join, backend)
        for number in range(SLICES):
            world.at((number + 0.5) / SLICES * scenario.seconds, self._look, number)
        self._deadlines: deque[tuple[float, Request]] = deque()
        self._plans = retry is not None or hedge is not None
        self._reports = bool(options.get("reports"))

    def _join(self, backend: Backend) -> None:
        for pool in self.pools:
            pool.add(backend)

    def _look(self, slice_: int) -> None:
        """Write down whom they keep away from. Looking changes nothing: a pool that time has changed is not asked."""
        asked = [pool.status() for pool in self.pools[:LOOKED_AT] if pool.changes_in() > 0]
        for status in asked:
            for backend in status.backends:
                if backend.avoided or not backend.available:
                    self._log.left_out[backend.url][slice_] += 1 / len(asked)

    def issue(self, now: float, work: float) -> None:
        """A request begins."""
        pools = self.pools
        pool = pools[int(self._random() * len(pools))]
        self._log.began()
        if self._plans:
            once = self._once > 0 and self._draw() < self._once
            call = Call(pool.attempts(_ONCE if once else _AGAIN))
            self._attempt(call, call.plan.first(), now, work)
            delay = call.plan.hedge_delay()
            if delay is not None:
                self._world.at(now + delay, self._copy, (call, now, work))
            return
        request = Request(pool.pick(), now, work, None)
        self._watch(request, now)
        self._world.send(request)

    def _attempt(self, call: Call, ticket: Ticket, began: float, work: float) -> None:
        request = Request(ticket, began, work, call)
        call.under_way.append(request)
        self._watch(request, self._world.time[0])
        self._world.send(request)

    def _watch(self, request: Request, now: float) -> None:
        """Timeouts come in order, so one event at a time is enough."""
        deadlines = self._deadlines
        if not deadlines:
            self._world.at(now + self._timeout, self._expire, None)
        deadlines.append((now + self._timeout, request))

    def _expire(self, _: object) -> None:
        deadlines = self._deadlines
        now = self._world.time[0]
        while deadlines and (deadlines[0][1].over or deadlines[0][0] <= now):
            _, request = deadlines.popleft()
            if not request.over:
                self.respond(request, "timeout")
        if deadlines:
            self._world.at(deadlines[0][0], self._expire, None)

    def respond(self, request: Request, failure: Failure | None) -> None:
        """An answer comes, or none."""
        if request.over:
            return
        request.over = True
        now = self._world.time[0]
        ticket = request.ticket
        latency = now - ticket.started
        if request.call is not None:
            self._went_on(request, request.call, failure, latency, now)
            return
        if self._reports and (failure is None or failure == "status"):
            ticket.reported(self._world.by_url[ticket.state.url].in_flight + 1)
        if failure is None:
            ticket.succeeded(latency)
        elif failure == "status":
            ticket.succeeded(latency, 500)
        else:
            ticket.failed(failure, latency)
        self._log.ended(request.began, now, ticket.state.url, failure)

    def _went_on(
        self, request: Request, call: Call, failure: Failure | None, latency: float, now: float
    ) -> None:
        """What the shell does with an outcome: ask the plan what follows."""
        ticket, plan = request.ticket, call.plan
        call.under_way.remove(request)
        if call.done:
            ticket.failed("cancelled")
            return
        if failure is None or failure == "status":
            status = 503 if failure else 200
            plan.observe(ticket, Outcome(status=status, elapsed=latency))
            ticket.succeeded(latency, status)
        else:
            unsent = failure == "connect"
            plan.observe(ticket, Outcome(_ENDINGS[failure], unsent=unsent, elapsed=latency))
            ticket.failed(failure, latency)
        if failure is not None:
            step = plan.another(True)
            if step is not None:
                self._world.at(now + step.wait, self._again, (call, step.ticket, request))
                return
            if call.under_way:
                return  # a copy may still answer
        call.done = True
        for other in call.under_way:
            other.over = True
            other.ticket.failed("cancelled")
        call.under_way.clear()
        self._log.ended(request.began, now, ticket.state.url, failure)

    def _again(self, whom: tuple[Call, Ticket | None, Request]) -> None:
        call, ticket, request = whom
        if call.done:
            if ticket is not None:
                ticket.failed("cancelled")
            return
        ticket = ticket or call.plan.again()
        if ticket is None:
            call.done = True
            self._log.ended(request.began, self._world.time[0], request.ticket.state.url, "status")
            return
        self._attempt(call, ticket, request.began, request.work)

    def _copy(self, whom: tuple[Call, float, float]) -> None:
        call, began, work = whom
        if call.done:
            return
        ticket = call.plan.copy()
        if ticket is not None:
            self._attempt(call, ticket, began, work)


_AGAIN, _ONCE = Facts("GET"), Facts("POST")


def _options_of(options: dict[str, Any], number: int, count: int) -> dict[str, Any]:
    """A client's own: `peer=True` becomes which of them it is."""
    own = {key: value for key, value in options.items() if key != "reports"}
    return {**own, "peer": (number, count)} if options.get("peer") else own


def play(
    scenario: Scenario,
    algorithm: Algorithm,
    *,
    clients: int,
    seed: int,
    retry: Retry | None = None,
    hedge: Hedge | None = None,
    arrivals: Sequence[Arrival] | None = None,
    progress: Callable[[float], None] | None = None,
    options: dict[str, Any] | None = None,
) -> Log:
    """Simulate; what happened to each request."""
    world = World(scenario, seed)
    bind = getattr(algorithm, "bind", None)
    if bind is not None:
        algorithm = bind(world)
    crowd = Clients(world, algorithm, clients, seed, retry, hedge, options or {})
    source = poisson(scenario, seed) if arrivals is None else iter(arrivals)
    world.run(source, crowd.issue, crowd.respond, progress)
    return world.log
