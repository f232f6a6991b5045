"""Two things in the same tick: a grant and a cancellation, a wait and what comes free."""

from __future__ import annotations

from typing import Any, cast

import anyio
import anyio.lowlevel
import httpcore

from lbclient import Connect
from lbclient._async.connections import OPEN, Connections
from lbclient._async.httpcore_connection import HttpcoreConnection
from lbclient._async.network import CountedStream


class Still(httpcore.AsyncNetworkStream):
    """A stream on which nothing happens."""

    holds_bytes = False

    def __init__(self, readable: bool = False) -> None:
        self._readable = readable

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return self._readable if info == "is_readable" else None


async def taken(connections: Connections, readable: bool = False) -> HttpcoreConnection:
    """A connection in use, that may be used again."""
    assert await connections.take(None) is OPEN
    core = httpcore.AsyncHTTP11Connection(httpcore.Origin(b"http", b"a", 1), Still(readable))
    core._state = type(core._state).IDLE
    connection = HttpcoreConnection(core, cast(CountedStream, Still()))
    connections.opened(connection)
    return connection


async def cancelled_when_granted(connections: Connections, held: Any) -> list[object]:
    """Two wait; the first one is cancelled, and gets `held` before it knows. What the second one then gets."""
    got: list[object] = []
    first_got: list[object] = []

    async def wait(got: list[object]) -> None:
        got.append(await connections.take(None))

    async with anyio.create_task_group() as group:
        async with anyio.create_task_group() as first:
            first.start_soon(wait, first_got)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(wait, got)
            await anyio.wait_all_tasks_blocked()
            first.cancel_scope.cancel()  # it has not run yet
            connections.put(held)
        assert not first_got
        with anyio.fail_after(5):
            while not got:
                await anyio.lowlevel.checkpoint()
    return got


async def test_cancelled_in_the_tick_of_its_grant_a_waiter_passes_the_connection_on() -> None:
    connections = Connections("http://a:1", Connect(max_connections=1))
    connection = await taken(connections)
    assert await cancelled_when_granted(connections, connection) == [connection]
    assert connections.counts() == (1, 0)
    await connections.give_back(connection)
    assert connections.counts() == (1, 1)


async def test_cancelled_in_the_tick_of_its_grant_a_waiter_passes_the_right_to_open_on() -> None:
    connections = Connections("http://a:1", Connect(max_connections=1))
    assert await connections.take(None) is OPEN
    assert await cancelled_when_granted(connections, OPEN) == [OPEN]
    assert connections.counts() == (1, 0)
    await connections.give_back(OPEN)
    assert connections.counts() == (0, 0)


async def test_what_comes_free_while_the_dead_are_closed_is_not_missed() -> None:
    """`take` closes abandoned connections before it waits. One given back meanwhile finds nobody in line."""
    connections = Connections("http://a:1", Connect(max_connections=1))
    abandoned = HttpcoreConnection(
        httpcore.AsyncHTTP11Connection(httpcore.Origin(b"http", b"a", 1), Still()),
        cast(CountedStream, Still()),
    )
    connections._abandoned.append(abandoned)
    closing, go_on = anyio.Event(), anyio.Event()

    async def aclose() -> None:
        closing.set()
        await go_on.wait()

    cast(Any, abandoned.core).aclose = aclose
    used = HttpcoreConnection(
        httpcore.AsyncHTTP11Connection(httpcore.Origin(b"http", b"a", 1), Still()),
        cast(CountedStream, Still()),
    )
    cast(Any, used.core)._state = type(cast(Any, used.core)._state).IDLE
    connections._all.add(used)
    connections._slots = 1
    got: list[object] = []

    async def wait() -> None:
        got.append(await connections.take(2.0))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await closing.wait()
        await connections.give_back(used)
        go_on.set()
    assert got == [used]


async def test_what_has_something_to_read_does_not_go_to_the_next_in_line() -> None:
    """Stray bytes, or the server's close: the next in line opens a connection of its own."""
    connections = Connections("http://a:1", Connect(max_connections=1))
    connection = await taken(connections, readable=True)
    closed: list[bool] = []

    async def aclose() -> None:
        closed.append(True)

    cast(Any, connection.core).aclose = aclose
    got: list[object] = []

    async def wait() -> None:
        got.append(await connections.take(2.0))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await connections.give_back(connection)
    assert got == [OPEN]
    assert closed == [True]
    assert connections.counts() == (1, 0)
