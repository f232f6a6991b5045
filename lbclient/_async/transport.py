"""The transport: `httpx.AsyncClient(transport=AsyncBalancedTransport([...]))`, and each request picks its backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from time import time
from types import MappingProxyType, TracebackType
from typing import Any

import httpx

from lbclient._async.engine import Answer, Engine, Progress
from lbclient._async.errors import NoBackendAvailable, explained, failure_of
from lbclient._async.pool_io import Inner, PoolIO
from lbclient._async.prober import wait_until_ready
from lbclient._async.streams import BalancedStream
from lbclient.core import errors as core_errors
from lbclient.core.attempts import Attempts
from lbclient.core.explain import Record
from lbclient.core.facts import Facts, Header
from lbclient.core.members import BackendLike
from lbclient.core.outcome import Failure, Outcome
from lbclient.core.pool import ASK_FOR_TIME, Pool
from lbclient.core.ticket import Ticket

_NO_TIMEOUTS: Mapping[str, float | None] = MappingProxyType({})


class AsyncBalancedTransport(httpx.AsyncBaseTransport):
    """Spreads the requests of an `httpx.AsyncClient` over backends.

    Args:
        target: A `Pool`, or a list of URLs and `Backend`s.
        inner: A function from `Backend` to `httpx.AsyncBaseTransport`, for those who bring their own connections:
            `ASGITransport`, `MockTransport`, proxies.
        pool_options: Arguments of `Pool`, when `target` is a list.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.

    Passing `transport=` to a client turns its environment proxies off: that is httpx's rule.
    """

    def __init__(
        self, target: Pool | Iterable[BackendLike], *, inner: Inner | None = None, **pool_options: Any
    ) -> None:
        if isinstance(target, Pool):
            if pool_options:
                raise TypeError(
                    f"{', '.join(pool_options)}: options of a pool go to Pool(...) when you make it yourself"
                )
            pool = target
        else:
            pool = Pool(target, **pool_options)
        self._io = PoolIO(pool, inner)
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncBalancedTransport {self._io.pool!r}{', closed' if self._closed else ''}>"

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools by name."""
        return {self._io.pool.name: self._io.pool}

    def connections(self) -> dict[str, tuple[int, int]]:
        """Connections (open, idle) by backend URL; empty-handed for transports of the caller's own."""
        return self._io.connections()

    async def wait_until_ready(self, timeout: float = 10.0) -> None:
        """Wait for the first probe result of every backend.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: Some backend is still unknown; the message names it.
        """
        self._check_open()
        if not self._io.probing:
            self._io.probe_in_a_thread()
        await wait_until_ready(self._io.pool, timeout)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` to a backend; to another one when nothing was sent.

        Raises:
            NoBackendAvailable: Nobody may be picked (it is an `httpx.ConnectError`).
            httpx.HTTPError: As httpx's own transport would, with a note that names the backend and with the record as
                `.lbclient`.
            RuntimeError: The transport is closed.
        """
        self._check_open()
        io = self._io
        if not io.probing:
            io.probe_in_a_thread()
        headers = request.headers.raw
        plan = io.pool.attempts(_RequestFacts(request, headers))
        try:
            ticket = plan.first()
        except core_errors.NoBackendAvailable as exc:
            error = NoBackendAvailable(str(exc))
            explained(error, Record(plan))
            raise error from None  # the same words; the core's exception adds nothing
        engine = await io.engine()
        while True:
            try:
                answer = await self._attempt(engine, plan, ticket, request, headers)
            except Exception as exc:
                following = plan.another()
                if following is None:
                    explained(exc, Record(plan))
                    raise
                ticket = following
            else:
                return self._respond(plan, ticket, answer)

    async def _attempt(
        self, engine: Engine, plan: Attempts, ticket: Ticket, request: httpx.Request, headers: list[Header]
    ) -> Answer:
        """One attempt; whatever becomes of it, the plan and the pool know."""
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout") or _NO_TIMEOUTS
        clock = plan.pool.clock
        if plan.others_left(ticket):
            own = timeouts.get("connect")
            most = plan.pool.connect.connect_timeout
            timeouts = {**timeouts, "connect": most if own is None else min(own, most)}
        progress = Progress()
        try:
            answer = await engine.send(ticket.backend, request, headers.copy(), timeouts, progress)
        except BaseException as exc:
            elapsed = clock() - ticket.started
            kind = failure_of(exc)
            plan.observe(ticket, _failed(exc, kind, progress, elapsed))
            # A connection that was closed while it was idle is nobody's fault.
            ticket.failed("local" if progress.stale else kind, elapsed)
            raise
        elapsed = clock() - ticket.started
        plan.observe(ticket, Outcome(status=answer.status, elapsed=elapsed))
        asked = _retry_after(answer.headers) if answer.status in ASK_FOR_TIME else None
        ticket.answered(elapsed, answer.status, asked)
        return answer

    def _respond(self, plan: Attempts, ticket: Ticket, answer: Answer) -> httpx.Response:
        record = Record(plan)
        answer.extensions["lbclient"] = record
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=BalancedStream(answer.stream, ticket, record, answer.lease),
            extensions=answer.extensions,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(
                "this balanced transport is closed; make a new one (a client closes its transport)"
            )

    async def __aenter__(self) -> AsyncBalancedTransport:
        self._check_open()
        self._io.probe_in_this_loop()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop probing and close every connection, also those in use. A closed transport refuses requests."""
        if not self._closed:
            self._closed = True
            await self._io.aclose()


class _RequestFacts(Facts):
    """The facts of an `httpx.Request`; its host is decoded when somebody asks."""

    def __init__(self, request: httpx.Request, headers: list[Header]) -> None:
        self._request = request
        self.method = request.method
        self.target = request.url.raw_path
        self.headers = headers
        self.options = request.extensions.get("lbclient") or {}

    @property
    def host(self) -> str:  # type: ignore[override]  # read-only here
        """The logical host."""
        return self._request.url.host


def _failed(exc: BaseException, kind: Failure, progress: Progress, elapsed: float) -> Outcome:
    # What is local is the caller's own doing, wherever it goes; but for our own limits, which are a backend's.
    unsent = progress.unsent and (kind != "local" or isinstance(exc, httpx.PoolTimeout))
    error = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    return Outcome(kind, unsent=unsent, stale=progress.stale, error=error, elapsed=elapsed)


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
