"""One request carried out: attempt after attempt, as its plan says, until there is something to hand back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from time import time
from types import MappingProxyType

import anyio
import httpx

from lbclient._async.background import Wake
from lbclient._async.body import Body, OnceBody, body_of, is_replayable
from lbclient._async.deadline import TrimmedTimeouts
from lbclient._async.engine import Answer, Engine, Progress
from lbclient._async.errors import DeadlineExceeded, NoBackendAvailable, ending_of, explained
from lbclient._async.race import race
from lbclient._async.streams import BalancedStream
from lbclient.core import errors as core_errors
from lbclient.core.attempts import SOON, Attempts, Step
from lbclient.core.explain import Record
from lbclient.core.facts import Header
from lbclient.core.learning import ASK_FOR_TIME
from lbclient.core.load_report import reported_in_flight
from lbclient.core.outcome import BACKEND_S_FAULT, ENDINGS, Ending, Outcome
from lbclient.core.ticket import Ticket

Timeouts = Mapping[str, float | None]
MOST_DISCARDED_BYTES = 16_384
FIRST_SET_WITHIN = 5.0  # seconds, for a request without timeouts: httpx's default
_NO_TIMEOUTS: Timeouts = MappingProxyType({})


class Exchange:
    """A request on its way through the attempts of its plan.

    Args:
        plan: Decides.
        request: The caller's; never touched.
        headers: What is sent of them.
        is_closed: Whether the transport was closed meanwhile: nothing is sent again then.
    """

    __slots__ = ("_body", "_headers", "_is_closed", "_plan", "_request", "_timeouts")

    def __init__(
        self, plan: Attempts, request: httpx.Request, headers: list[Header], is_closed: Callable[[], bool]
    ) -> None:
        self._plan = plan
        self._is_closed = is_closed
        self._request = request
        self._headers = headers
        retry = plan.pool.retry
        self._body: Body = body_of(request, 0 if retry is None else retry.max_buffer)
        if isinstance(self._body, OnceBody):
            plan.replayable = False
        timeouts: Timeouts = request.extensions.get("timeout") or _NO_TIMEOUTS
        self._timeouts = timeouts if plan.deadline is None else TrimmedTimeouts(timeouts, plan.left)

    def first_at_once(self) -> Ticket | None:
        """What `first` would give without giving way to the event loop; None when it has to wait, or to refuse."""
        try:
            return self._plan.first()
        except core_errors.NoBackendAvailable:
            return None

    async def first(self) -> Ticket:
        """The ticket of the first attempt; in a full pool, or one that does not know its backends yet, after a wait.

        Raises:
            NoBackendAvailable: Nobody may be picked, or the pool's source has not said in time who may.
            httpx.PoolTimeout: The limits of the pool were reached for as long as the pool timeout.
        """
        try:
            return self._plan.first()
        except core_errors.NoSetYet:
            await self._wait_for_set()
            return await self.first()
        except core_errors.PoolFull as exc:
            timeout = self._timeouts.get("pool")
            if timeout is None:
                raise self._nobody(exc) from None
        except core_errors.NoBackendAvailable as exc:
            raise self._nobody(exc) from None
        try:
            return await self._wait_for_room(timeout)
        except core_errors.NoBackendAvailable as exc:
            raise self._nobody(exc) from None

    async def _wait_for_set(self) -> None:
        """Return when the pool's source has said its first set, within the pool timeout, else the connect timeout."""
        pool, supply = self._plan.pool, self._plan.pool.supply
        assert supply is not None
        timeout = self._timeouts.get("pool") or self._timeouts.get("connect") or FIRST_SET_WITHIN
        give_up = pool.clock() + timeout
        said = Wake()
        unsubscribe = pool.subscribe(said.wake)
        try:
            while supply.missing:
                left = give_up - pool.clock()
                if left <= 0:
                    why = f"{supply.why_nobody()}; {timeout:.3g} s waited"
                    words = f"no backend of pool {pool.name!r} is available ({why})"
                    raise self._nobody(core_errors.NoSetYet(words)) from None
                with anyio.move_on_after(left):
                    await said.wait()
        finally:
            unsubscribe()

    async def _wait_for_room(self, timeout: float) -> Ticket:
        plan, pool = self._plan, self._plan.pool
        assert pool.queue is not None
        room = Wake()
        place = pool.queue.join(room.wake)
        give_up = pool.clock() + timeout
        try:
            while True:
                try:
                    return plan.first(place)
                except core_errors.PoolFull as exc:
                    refused = exc
                left = give_up - pool.clock()
                if left <= 0:
                    words = f"{refused}: no room within {timeout:.3g} s"
                    raise self._explained(httpx.PoolTimeout(words, request=self._request)) from None
                with anyio.move_on_after(min(left, pool.changes_in())):
                    await room.wait()
        finally:
            pool.queue.leave(place)

    def _nobody(self, exc: core_errors.NoBackendAvailable) -> Exception:
        """The same words as an error that users of httpx catch."""
        return self._explained(NoBackendAvailable(str(exc)))

    async def carry_out(self, engine: Engine, ticket: Ticket) -> tuple[Ticket, Answer]:
        """The response to hand back, and the ticket that is in flight until its body ends.

        Raises:
            httpx.HTTPError: The last attempt's, with the record.
        """
        plan = self._plan
        fresh = False
        while True:
            following: Ticket | None = None
            connect_delay, hedge_delay = self._delays(fresh)
            try:
                if connect_delay is None and hedge_delay is None:
                    most = plan.pool.connect.connect_timeout if plan.others_left(ticket) else None
                    answer = await self._attempt(engine, ticket, Progress(self._body, most, fresh))
                else:
                    attempt = partial(self._attempt, engine)
                    ticket, answer = await race(attempt, plan, ticket, self._body, connect_delay, hedge_delay)
            except Exception as exc:
                step = self._following(exc)
                if step is not None:
                    following = await self._after_wait(step)
                if following is None:
                    if plan.left() > SOON:
                        explained(exc, Record(plan))
                        raise
                    words = f"the deadline of the request passed, in its attempt {len(plan.log)}: {exc}"
                    raise self._explained(DeadlineExceeded(words, request=self._request)) from exc
            else:
                if not plan.asks_again_after(answer.status):
                    return ticket, answer
                step = self._following(None)
                if step is not None:
                    following = await self._instead_of(ticket, answer, step)
                if following is None:
                    return ticket, answer
            assert step is not None
            ticket, fresh = following, step.fresh

    def _following(self, error: Exception | None) -> Step | None:
        return None if self._is_closed() else self._plan.another(is_replayable(self._body), error)

    async def _after_wait(self, step: Step) -> Ticket | None:
        if step.ticket is not None:
            return step.ticket
        await anyio.sleep(step.wait)
        return None if self._is_closed() else self._plan.again()

    async def _instead_of(self, ticket: Ticket, answer: Answer, step: Step) -> Ticket | None:
        """The ticket that follows a response nobody will see; None when that is the one to hand back after all."""
        following: Ticket | None = None
        try:
            following = await self._after_wait(step)
            if following is not None:
                await self.stream(ticket, answer).discard(read=_is_short(answer.headers))
        except BaseException:
            if following is not None:
                following.release()
            else:
                with anyio.CancelScope(shield=True):
                    await self.stream(ticket, answer).discard(read=False)
            raise
        return following

    def _delays(self, fresh: bool) -> tuple[float | None, float | None]:
        """Seconds until another attempt may connect, and until a copy may be made, beside the one that is due."""
        pool = self._plan.pool
        connect_delay = pool.connect.start_next_after
        if fresh or (connect_delay is None and pool.hedging is None):
            return None, None
        can_be_copied = not self._plan.log and isinstance(self._body, httpx.ByteStream)
        return connect_delay, self._plan.hedge_delay() if can_be_copied else None

    async def _attempt(self, engine: Engine, ticket: Ticket, progress: Progress) -> Answer:
        """One attempt; whatever becomes of it, the plan and the pool know."""
        plan = self._plan
        clock = plan.pool.clock
        try:
            answer = await engine.send(
                ticket.state.backend, self._request, self._headers, self._timeouts, progress
            )
        except BaseException as exc:
            elapsed = max(0.0, clock() - ticket.started)
            ending = ending_of(exc, progress)
            if self._once is not None and self._once.raised and isinstance(exc, Exception):
                ending = Ending.OURS  # a body may come from another server, and raise what that did
            if ending in _TIMEOUTS and plan.hurried(ticket):
                ending = Ending.HURRIED
            if self._is_closed() and ENDINGS[ending].failure in BACKEND_S_FAULT:
                ending = Ending.CUT
            error = ""  # a cancellation says nothing of its own
            if isinstance(exc, Exception):
                error = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
            outcome = Outcome(ending, None, progress.unsent, None, error, elapsed)
            plan.observe(ticket, outcome)
            if progress.beaten == "a later one":
                ticket.beaten()
            else:
                assert outcome.failure is not None
                ticket.failed(outcome.failure, elapsed)
            raise
        elapsed = clock() - ticket.started
        asked = _retry_after(answer.headers) if answer.status in ASK_FOR_TIME else None
        plan.observe(ticket, Outcome(status=answer.status, retry_after=asked, elapsed=elapsed))
        if ticket.snapshot.reported is not None:
            in_flight = reported_in_flight(answer.headers)
            if in_flight is not None:
                ticket.reported(in_flight)
        ticket.answered(elapsed, answer.status, asked)
        return answer

    def stream(self, ticket: Ticket, answer: Answer) -> BalancedStream:
        """The body of a response, which holds the ticket and the connection."""
        plan = self._plan
        left = None if plan.deadline is None else plan.left
        return BalancedStream(answer.stream, ticket, Record(plan), answer.lease, left, self._once)

    @property
    def _once(self) -> OnceBody | None:
        """The body, where it is a stream of the caller's, which may raise."""
        return self._body if isinstance(self._body, OnceBody) else None

    def _explained(self, exc: Exception) -> Exception:
        explained(exc, Record(self._plan))
        return exc


_TIMEOUTS = (Ending.UNREACHABLE, Ending.SLOW)


def _is_short(headers: list[Header]) -> bool:
    """Whether a body is known to be short."""
    length = next((value for name, value in headers if name.lower() == b"content-length"), b"")
    return length.isdigit() and int(length) <= MOST_DISCARDED_BYTES


def _retry_after(headers: list[Header]) -> float | None:
    """Seconds of a `Retry-After`, which is a number or a date (RFC 9110, 10.2.3); None when there is none to read."""
    values = {name.lower(): value for name, value in headers}
    value = values.get(b"retry-after", b"").decode("latin-1").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None
    try:
        now = parsedate_to_datetime(values.get(b"date", b"").decode("latin-1")).timestamp()
    except ValueError:
        now = time()
    return max(0.0, moment - now)
