"""What the demo does, and what comes of it: traffic, a death, a return, and everything counted."""

from __future__ import annotations

import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Protocol

import anyio
import httpx

from lbclient import AsyncBalancedTransport, HttpProbe, PassiveHealth, Pool, PoolStatus, Record
from lbclient.algorithms import Algorithm
from lbclient.demo.processes import DemoServer, ServerDied

CUSTOMERS = 12
PAUSE = 0.06  # seconds between two requests of a customer, at most
LOOKS_BACK = 1.0  # seconds, for the share and the rate of now
RETURN_WITHIN = 20.0  # seconds that a slow machine gets on top, for the killed server to come back
AFTERMATH = 0.5  # seconds that the demo goes on for after that

ORDINARY = "An ordinary request"
FAILED_OVER = "A request that failed over"
SENT_AGAIN = "A request that was sent again"
TRIAL = "The one request that tried the returned server"


class Phase(Enum):
    """What part of the story a request belongs to."""

    ALL_UP = "all up"
    ONE_DEAD = "one dead"
    BACK = "after its return"


class Tone(Enum):
    """How an event is meant."""

    ACT = "act"  # the demo did it
    BAD = "bad"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `at` is in seconds since the beginning."""

    at: float
    text: str
    tone: Tone


class View(Protocol):
    """Shows a story while it happens, as a context manager, and sums it up."""

    every: float
    """Seconds between two looks at the story."""

    def __enter__(self) -> View: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def happened(self, event: Event) -> None:
        """Something did."""
        ...

    def look(self, story: Story) -> None:
        """Show how it stands."""
        ...

    def finish(self, story: Story) -> None:
        """Sum it up."""
        ...


class Story:
    """Everything that is known so far.

    Args:
        servers: Who answers.
        seconds: How long it shall take.
        algorithm: How backends are picked; None for a pool's default.

    Attributes:
        answered: Requests by phase and server.
        failed_over: Requests that lbclient sent elsewhere: the dead server had got nothing of them.
        sent_again: Requests that were cut off with their server, and that lbclient sent again elsewhere.
        failed: Why requests (or the demo) failed for good.
        victim: Who is killed, from the moment it is.
        noticed_after: Seconds from the kill to the first sign that it was noticed.
        returned_after: Seconds from the second start to the first answer.
        examples: Explained requests, by kind.
        shown: The kind and the text of the example that is of interest now.
    """

    def __init__(self, servers: Sequence[DemoServer], seconds: float, algorithm: Algorithm | None) -> None:
        self.servers = servers
        self.seconds = seconds
        self.names = {server.url: server.name for server in servers}
        options: dict[str, Any] = {} if algorithm is None else {"algorithm": algorithm}
        interval = min(max(seconds / 40, 0.25), 0.5)
        ejection = seconds / 15
        self.pool = Pool(
            [server.url for server in servers],
            name="demo",
            probe=HttpProbe("/health", interval=interval, timeout=interval, unhealthy_threshold=2),
            passive=PassiveHealth(consecutive_failures=3, base_ejection=ejection, max_ejection=2 * ejection),
            **options,
        )
        self.phase = Phase.ALL_UP
        self.events: list[Event] = []
        self.answered: dict[Phase, Counter[str]] = {phase: Counter() for phase in Phase}
        self.failed_over = 0
        self.sent_again = 0
        self.failed: list[str] = []
        self.victim: DemoServer | None = None
        self.noticed_after: float | None = None
        self.returned_after: float | None = None
        self.examples: dict[str, str] = {}
        self.shown = ("", "")
        self.over = False
        self.listener: Callable[[Event], None] = self.events.append
        self._began = 0.0
        self._killed_at = self._restarted_at = 0.0
        self._shown_at = 0.0
        self._recent: deque[tuple[float, str]] = deque()

    # How it stands

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return anyio.current_time() - self._began

    @property
    def total(self) -> int:
        """Requests that were answered."""
        return sum(counter.total() for counter in self.answered.values())

    def count_of(self, name: str) -> int:
        """Requests that a server answered."""
        return sum(counter[name] for counter in self.answered.values())

    def status(self) -> PoolStatus:
        """The pool's own account of itself."""
        return self.pool.status()

    def recent(self) -> Counter[str]:
        """Requests of the last second, by server."""
        while self._recent and self._recent[0][0] < self.now - LOOKS_BACK:
            self._recent.popleft()
        return Counter(name for _, name in self._recent)

    # What happens

    def begin(self) -> None:
        """Time starts to count."""
        self._began = anyio.current_time()
        self.tell(f"{len(self.servers)} servers are up, {CUSTOMERS} customers begin to ask", Tone.ACT)

    def kill(self) -> None:
        """The busiest server dies."""
        self.victim = max(self.servers, key=lambda server: self.count_of(server.name))
        self.victim.kill()
        self.phase = Phase.ONE_DEAD
        self._killed_at = self.now
        self.tell(f"{self.victim.name} is killed (SIGKILL)", Tone.ACT)

    def restart(self) -> None:
        """The dead server is started again."""
        assert self.victim is not None
        self.victim.start()
        self._restarted_at = self.now
        self.tell(f"{self.victim.name} is started again", Tone.ACT)

    def tell(self, text: str, tone: Tone) -> None:
        """An event."""
        self.listener(Event(self.now, text, tone))
        if tone is Tone.BAD and self.phase is Phase.ONE_DEAD and self.noticed_after is None:
            self.noticed_after = self.now - self._killed_at

    def got_answer(self, record: Record) -> None:
        """A customer is content."""
        assert record.backend is not None
        name = self.names[record.backend]
        if self.phase is Phase.ONE_DEAD and self._restarted_at and self.victim and name == self.victim.name:
            self.phase = Phase.BACK
            self.returned_after = self.now - self._restarted_at
            self.tell(f"{name} answers again", Tone.GOOD)
        self.answered[self.phase][name] += 1
        self._recent.append((self.now, name))
        *before, last = record.attempts
        if any(not attempt.outcome.startswith("connect") for attempt in before):
            self.sent_again += 1
            kind, for_at_least = SENT_AGAIN, self.seconds / 5
        elif before:
            self.failed_over += 1
            kind, for_at_least = FAILED_OVER, self.seconds / 5
        elif self.phase is not Phase.ALL_UP and "ejection ended" in last.reason:
            kind, for_at_least = TRIAL, self.seconds / 5
        else:
            kind, for_at_least = ORDINARY, self.seconds / 10
        if kind not in self.examples or (kind is ORDINARY and self.now > self._shown_at):
            self._show(kind, record.explain(), for_at_least)

    def _show(self, kind: str, explained: str, seconds: float) -> None:
        self.examples.setdefault(kind, explained)
        self.shown = (kind, explained)
        self._shown_at = self.now + seconds


async def play(story: Story, view: View) -> None:
    """The whole story.

    Raises:
        ServerDied: A server did not come up.
    """
    for server in story.servers:
        await server.ready()
    transport = AsyncBalancedTransport(story.pool)
    async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
        await transport.wait_until_ready()
        with _heard(story, view):
            async with anyio.create_task_group() as group:
                story.begin()
                group.start_soon(_look, story, view)
                for _ in range(CUSTOMERS):
                    group.start_soon(_customer, client, story)
                await _direct(story)


async def _direct(story: Story) -> None:
    try:
        await _until(story, story.seconds / 3)
        story.kill()
        await _until(story, story.seconds * 2 / 3)
        story.restart()
        assert story.victim is not None
        await story.victim.ready()
        with anyio.move_on_after(story.seconds - story.now + RETURN_WITHIN):
            while story.returned_after is None:  # noqa: ASYNC110  # 50 looks a second are simpler than an event
                await anyio.sleep(0.02)
            await anyio.sleep(AFTERMATH)
            await _until(story, story.seconds)
        if story.returned_after is None:
            story.failed.append(f"{story.victim.name} did not come back")
    except ServerDied as exc:
        story.failed.append(str(exc))
    finally:
        story.over = True


async def _until(story: Story, at: float) -> None:
    await anyio.sleep(max(0.0, at - story.now))


async def _look(story: Story, view: View) -> None:
    while not story.over:
        view.look(story)
        await anyio.sleep(view.every)
    view.look(story)


async def _customer(client: httpx.AsyncClient, story: Story) -> None:
    while not story.over:
        await _ask(client, story)
        await anyio.sleep(random.uniform(0, PAUSE))


async def _ask(client: httpx.AsyncClient, story: Story) -> None:
    """One request. A GET may be sent twice, so lbclient sees to it alone that the customer gets an answer."""
    try:
        response = await client.get("/")
    except httpx.HTTPError as exc:
        story.failed.append(f"{type(exc).__name__}: {exc}")
    else:
        story.got_answer(response.extensions["lbclient"])


@contextmanager
def _heard(story: Story, view: View) -> Generator[None, None, None]:
    """Events, and what lbclient logs, reach the story and the view."""

    def both(event: Event) -> None:
        story.events.append(event)
        view.happened(event)

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().removeprefix(f"{story.pool.name}: ")
            for url, name in story.names.items():
                text = text.replace(url, name)
            story.tell(text, Tone.BAD if record.levelno >= logging.WARNING else Tone.GOOD)

    logger = logging.getLogger("lbclient")
    before = logger.level
    listener = Listener()
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    story.listener = both
    try:
        yield
    finally:
        story.listener = story.events.append
        logger.removeHandler(listener)
        logger.setLevel(before)
