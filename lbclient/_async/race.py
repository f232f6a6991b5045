"""Attempts beside each other: the first that connects gets the request, or the first that answers ends it.

Two races, for two reasons, and one request may run both:

* to connect (`Connect(start_next_after=)`): while a backend takes its time to take a connection, another one is asked
  as well. Nothing has been sent yet, so any method may. Who has a connection first *claims* the request.
* to answer (`Hedge`): when the response takes unusually long, a copy goes to another backend, and the first answer
  wins.

Losers are cancelled, and their connections closed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from lbclient._async.body import Body
from lbclient._async.engine import Answer, Faster, Progress
from lbclient._async.streams import BalancedStream
from lbclient.core.attempts import Attempts
from lbclient.core.explain import Record
from lbclient.core.ticket import Ticket

Attempt: TypeAlias = Callable[[Ticket, Progress], Awaitable[Answer]]


class Beaten(Exception):
    """Another attempt has claimed the request."""


class _Runner:
    """One attempt of the race."""

    def __init__(self, ticket: Ticket, progress: Progress, is_copy: bool) -> None:
        self.ticket = ticket
        self.progress = progress
        self.is_copy = is_copy
        self.connected = is_copy  # who answers first is all that matters to a copy
        self.scope = anyio.CancelScope()
        self.answer: Answer | None = None
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.answer is not None or self.error is not None or self.progress.beaten is not None

    def lose(self, to: Faster) -> None:
        """Another one was faster."""
        if not self.over:
            self.progress.beaten = to
            self.scope.cancel()


class _Race:
    def __init__(self, attempt: Attempt, plan: Attempts, body: Body) -> None:
        self._attempt = attempt
        self._plan = plan
        self._body = body
        self._changed = anyio.Event()
        self.runners: list[_Runner] = []

    def new(self, ticket: Ticket, is_copy: bool) -> _Runner:
        plan = self._plan
        within = plan.pool.connect.connect_timeout if plan.others_left(ticket) else None
        progress = Progress(self._body, within)
        runner = _Runner(ticket, progress, is_copy)
        if not is_copy:
            progress.claim = lambda: self._claim(runner)
        self.runners.append(runner)
        return runner

    async def run(self, runner: _Runner) -> None:
        try:
            with runner.scope:
                runner.answer = await self._attempt(runner.ticket, runner.progress)
        except Exception as exc:  # noqa: BLE001  # raised by `race`, if nobody does better
            runner.error = exc
        finally:
            self._changed.set()

    def _claim(self, runner: _Runner) -> None:
        if runner.connected:
            return  # it has it, and had to take another connection
        if self.claimed:
            runner.progress.beaten = "another"  # and not a later one: this one has connected, too
            raise Beaten("another backend took a connection first")
        runner.connected = True
        to: Faster = "a later one"
        for other in self.runners:  # in the order in which they began
            if other is runner:
                to = "another"
            elif not other.connected:
                other.lose(to)

    @property
    def claimed(self) -> bool:
        """Whether one of them has the request."""
        return any(r.connected and not r.is_copy for r in self.runners)

    @property
    def winner(self) -> _Runner | None:
        """Who has answered."""
        return next((r for r in self.runners if r.answer is not None), None)

    @property
    def over(self) -> bool:
        """Whether nothing more is to come."""
        return self.winner is not None or all(r.over for r in self.runners)

    async def change(self, until: float) -> None:
        """Wait until something has happened, or for that moment."""
        if self._changed.is_set():
            self._changed = anyio.Event()
            return
        with anyio.move_on_at(until):
            await self._changed.wait()
            self._changed = anyio.Event()


async def race(
    attempt: Attempt,
    plan: Attempts,
    ticket: Ticket,
    body: Body,
    connect_delay: float | None,
    hedge_delay: float | None,
) -> tuple[Ticket, Answer]:
    """Carry an attempt out, with others beside it.

    Args:
        attempt: Carries one out, and tells plan and pool how it ended.
        plan: Has the tickets of those beside the first.
        ticket: The first one's.
        body: What they all send.
        connect_delay: Seconds that an attempt to connect goes on alone; None for as long as it takes.
        hedge_delay: Seconds that the response is waited for before a copy is made; None for ever.

    Raises:
        httpx.HTTPError: None of them answered; of the one that the plan looks at.
    """
    state = _Race(attempt, plan, body)
    now = anyio.current_time()
    connect_at = math.inf if connect_delay is None else now + connect_delay
    hedge_at = math.inf if hedge_delay is None else now + hedge_delay
    winner: _Runner | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(state.run, state.new(ticket, False))
            while not state.over:
                await state.change(min(hedge_at, math.inf if state.claimed else connect_at))
                now = anyio.current_time()
                if connect_delay is not None and now >= connect_at and not state.claimed and not state.over:
                    other = plan.beside()
                    connect_at = math.inf if other is None else now + connect_delay
                    if other is not None:
                        group.start_soon(state.run, state.new(other, False))
                if now >= hedge_at and not state.over:
                    hedge_at = math.inf
                    copy = plan.copy()
                    if copy is not None:
                        group.start_soon(state.run, state.new(copy, True))
            winner = state.winner
            for runner in state.runners:
                if runner is not winner:
                    runner.lose("another")
    except BaseException:
        winner = None
        raise
    finally:
        for runner in state.runners:
            if runner is not winner and runner.answer is not None:
                stream = BalancedStream(
                    runner.answer.stream, runner.ticket, Record(plan), runner.answer.lease
                )
                await stream.discard(read=False)
    _judge_copies(plan, state.runners, winner)
    if winner is not None:
        assert winner.answer is not None
        plan.settle_on(winner.ticket)
        return winner.ticket, winner.answer
    assert plan.last is not None
    error = next(r.error for r in state.runners if r.ticket is plan.last[0])
    assert error is not None
    try:
        raise error
    finally:
        del error, state  # which would keep each other, and all that the traceback knows, alive


def _judge_copies(plan: Attempts, runners: list[_Runner], winner: _Runner | None) -> None:
    hedging = plan.pool.hedging
    if hedging is not None:
        for runner in runners:
            if runner.is_copy:
                hedging.ended(runner is winner)
