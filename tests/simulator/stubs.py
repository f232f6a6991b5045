"""The simulator's servers behind real sockets: the same model, moved by an event loop's clock instead of a virtual one.

    python -m tests.simulator.stubs '{"servers": [...], "changes": [...], "sharing": true, "numbers": [0, 4, 8]}'

A process is some of the fleet's servers, each on a free port, which it prints. `GET /begin` of any of its ports starts
the time of the changes. A request says in its path how many seconds of work it is; an answer is a status and two bytes.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from random import Random
from typing import Any, cast

from lbclient.core.outcome import Failure
from lbclient.simulator import Failing, Scenario, Speed
from lbclient.simulator.servers import ModelServer, QueueingServer, SharingServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"


class Job:
    """A request, as far as a model server looks at it."""

    __slots__ = ("connection", "work")

    def __init__(self, connection: "Connection", work: float) -> None:
        self.connection = connection
        self.work = work


class RealWorld:
    """What a model server knows of the world: what time it is, and who wants an answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = [0.0]
        self._loop = loop
        self._began = loop.time()

    def look(self) -> None:
        """At the clock."""
        self.time[0] = self._loop.time() - self._began

    def begin(self) -> None:
        """Time is 0 now. Nobody may be working."""
        self._began = self._loop.time()
        self.look()

    def at(self, when: float, what: Callable[[Any], None], whom: Any) -> None:
        """Have something happen; the clock then says the time it was planned for, so that nothing adds up."""

        def happen() -> None:
            self.time[0] = max(self.time[0], when)
            what(whom)

        self._loop.call_at(self._began + when, happen)

    def answer(self, job: Job, after: float, failure: Failure | None) -> None:
        """A server is done with a request."""
        self._loop.call_later(after, job.connection.answer, OK if failure is None else FAILED)


class Connection(asyncio.Protocol):
    """A connection; one request at a time."""

    def __init__(self, server: ModelServer, world: RealWorld, begin: Callable[[], None]) -> None:
        self._server = server
        self._world = world
        self._begin = begin
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if not self._head.endswith(b"\r\n\r\n"):
            return
        path = self._head.split(b" ", 2)[1]
        self._head = b""
        if path == b"/begin":
            self._begin()
            self.answer(OK)
            return
        self._world.look()
        self._server.arrive(cast("Any", Job(self, float(path[1:]))))

    def answer(self, response: bytes) -> None:
        """Send it, if anybody is there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)


async def serve(scenario: Scenario, numbers: list[int]) -> None:
    """Be these servers of the scenario's until standard input ends."""
    loop = asyncio.get_running_loop()
    world = RealWorld(loop)
    kind = SharingServer if scenario.sharing else QueueingServer
    servers: dict[int, ModelServer] = {}
    for number in numbers:
        spec = scenario.servers[number]
        servers[number] = kind(
            f"http://server-{number}:80", spec.cores, spec.speed, cast("Any", world), Random(number)
        )

    def begin() -> None:
        world.begin()
        for change in scenario.changes:
            if change.server in servers:
                world.at(change.at, happen, change)

    def happen(change: Any) -> None:
        world.look()
        server = servers[change.server]
        if isinstance(change, Speed):
            server.change_speed(change.factor)
        elif isinstance(change, Failing):
            server.fail(change.share, change.after)

    ports: list[int] = []
    for number in numbers:
        listener = await loop.create_server(
            lambda server=servers[number]: Connection(server, world, begin),  # type: ignore[misc]
            "127.0.0.1",
            0,
        )
        ports.append(listener.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    mine = told.pop("numbers")
    asyncio.run(serve(Scenario.from_dict(told), mine))
