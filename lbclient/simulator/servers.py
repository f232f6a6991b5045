"""Servers, modelled: cores, two ways to share them, speeds that change, failures."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbclient.simulator.engine import Request, World


class ModelServer:
    """What both kinds have in common.

    Attributes:
        url: How clients know it.
        speed: Now.
        in_flight: Requests that it works on, or that wait in it.
    """

    __slots__ = (
        "_failing",
        "_fails_after",
        "_random",
        "_world",
        "cores",
        "declared",
        "down",
        "in_flight",
        "speed",
        "url",
    )

    def __init__(self, url: str, cores: int, speed: float, world: World, rng: Random) -> None:
        self.url = url
        self.cores = cores
        self.declared = self.speed = speed
        self.in_flight = 0
        self.down = False
        self._world = world
        self._random = rng.random
        self._failing = 0.0
        self._fails_after = 0.0

    @property
    def failing(self) -> float:
        """The share of its requests that fail; all while it is down."""
        return 1.0 if self.down else self._failing

    def fail(self, share: float, after: float) -> None:
        """From now on a share of its requests fails."""
        self._failing, self._fails_after = share, after

    def arrive(self, request: Request) -> None:
        """A request comes in."""
        if self.down:
            self._world.answer(request, 0.0, "connect")
        elif self._failing and self._random() < self._failing:
            self._world.answer(request, self._fails_after, "status")
        else:
            self.in_flight += 1
            self.accept(request)

    def accept(self, request: Request) -> None:
        """Work on it."""
        raise NotImplementedError

    def change_speed(self, factor: float) -> None:
        """From now on it is so many times as fast as declared."""
        raise NotImplementedError

    def crash(self) -> None:
        """What it was working on is lost, and nobody can connect until `restart`."""
        raise NotImplementedError

    def restart(self) -> None:
        """It takes connections again."""
        self.down = False


class SharingServer(ModelServer):
    """Processor sharing: with more requests than cores, all go on at the same pace.

    Time is counted in what each request has been given so far, so that a request is done when that clock has come to
    its number; only the next one to end is an event.
    """

    __slots__ = ("_at", "_event", "_jobs", "_order", "_pace", "_served")

    def __init__(self, url: str, cores: int, speed: float, world: World, rng: Random) -> None:
        super().__init__(url, cores, speed, world, rng)
        self._jobs: list[tuple[float, int, Request]] = []
        self._served = 0.0
        self._at = 0.0
        self._pace = speed
        self._event = 0
        self._order = 0

    def _advance(self) -> None:
        now = self._world.time[0]
        self._served += (now - self._at) * self._pace
        self._at = now

    def _expect(self) -> None:
        """Plan the next end."""
        count = len(self._jobs)
        self._pace = pace = self.speed if count <= self.cores else self.speed * self.cores / count
        self._event += 1
        if count and pace:
            at = self._at + (self._jobs[0][0] - self._served) / pace
            self._world.at(at, self._end, self._event)

    def accept(self, request: Request) -> None:
        """Work on it."""
        self._advance()
        self._order += 1
        job = (self._served + request.work, self._order, request)
        heappush(self._jobs, job)
        if len(self._jobs) > self.cores or self._jobs[0] is job:
            self._expect()

    def _end(self, event: int) -> None:
        if event != self._event:
            return
        self._advance()
        _, _, request = heappop(self._jobs)
        self._expect()
        self.in_flight -= 1
        self._world.answer(request, 0.0, None)

    def change_speed(self, factor: float) -> None:
        """From now on it is so many times as fast as declared."""
        self._advance()
        self.speed = self.declared * factor
        self._expect()

    def crash(self) -> None:
        """What it was working on is lost."""
        self._advance()
        self.down = True
        jobs, self._jobs = self._jobs, []
        self._expect()
        self.in_flight = 0
        for _, _, request in jobs:
            self._world.answer(request, 0.0, "reset")


class QueueingServer(ModelServer):
    """First come, first served: with more requests than cores, they wait in line."""

    __slots__ = ("_epoch", "_queue", "_running")

    def __init__(self, url: str, cores: int, speed: float, world: World, rng: Random) -> None:
        super().__init__(url, cores, speed, world, rng)
        self._queue: deque[Request] = deque()
        self._running: dict[Request, tuple[float, float]] = {}  # the work that was left, and when
        self._epoch = 0

    def accept(self, request: Request) -> None:
        """Work on it, or let it wait."""
        if len(self._running) < self.cores:
            self._begin(request, request.work)
        else:
            self._queue.append(request)

    def _begin(self, request: Request, work: float) -> None:
        now = self._world.time[0]
        self._running[request] = (work, now)
        if self.speed:
            self._world.at(now + work / self.speed, self._end, (request, self._epoch))

    def _end(self, ended: tuple[Request, int]) -> None:
        request, epoch = ended
        if epoch != self._epoch:
            return
        del self._running[request]
        self.in_flight -= 1
        if self._queue:
            following = self._queue.popleft()
            self._begin(following, following.work)
        self._world.answer(request, 0.0, None)

    def change_speed(self, factor: float) -> None:
        """From now on it is so many times as fast as declared."""
        now = self._world.time[0]
        left = [
            (request, max(0.0, work - (now - since) * self.speed))
            for request, (work, since) in self._running.items()
        ]
        self._epoch += 1
        self.speed = self.declared * factor
        for request, work in left:
            self._begin(request, work)

    def crash(self) -> None:
        """What it was working on is lost."""
        self.down = True
        self._epoch += 1
        lost = [*self._running, *self._queue]
        self._running.clear()
        self._queue.clear()
        self.in_flight = 0
        for request in lost:
            self._world.answer(request, 0.0, "reset")
