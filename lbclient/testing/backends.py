"""Backends that answer from memory, as a test tells them to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, overload

import httpx

from lbclient.core.backend import Backend
from lbclient.core.checks import check_number, check_whole
from lbclient.testing.clock import FakeClock

Failure = type[Exception] | Exception


class FakeBackend:
    """One server that answers from memory. All attributes may be changed at any time.

    Attributes:
        url: How the balancer knows it.
        status: Of its answers.
        content: Of its answers.
        headers: Of its answers.
        latency: Seconds that an answer takes, of the fake clock and none of yours; >= 0. Without a clock it is ignored.
        failure: What is raised instead of answering, such as `httpx.ReadTimeout`; None for nothing.
        handler: A function from request to response that answers instead, for all that the above cannot say.
        requests: What it was asked, in order: the requests as a backend sees them.
    """

    def __init__(self, url: str, clock: FakeClock | None, client: ModuleType) -> None:
        self.url = url
        self.status = 200
        self.content = b""
        self.headers: Mapping[str, str] = {}
        self.latency = 0.0
        self.failure: Failure | None = None
        self.handler: Callable[[Any], Any] | None = None
        self.requests: list[Any] = []
        self._clock = clock
        self._client = client

    def __repr__(self) -> str:
        what = str(self.status) if self.failure is None else _name(self.failure)
        return f"<FakeBackend {self.url} {what}, {len(self.requests)} requests>"

    def down(self) -> None:
        """Refuse connections from now on."""
        self.failure = self._client.ConnectError

    def up(self) -> None:
        """Answer again."""
        self.failure = None

    def answer(self, request: Any) -> Any:
        """What becomes of `request`; the transports of `FakeBackends.inner` call it.

        Raises:
            Exception: `failure`, where one is set.
        """
        self.requests.append(request)
        if self._clock is not None:
            check_number("latency", self.latency, at_least=0)
            self._clock.advance(self.latency)
        if self.failure is not None:
            raise (
                self.failure(f"{self.url} is told to fail")
                if isinstance(self.failure, type)
                else self.failure
            )
        if self.handler is not None:
            return self.handler(request)
        return self._client.Response(self.status, headers=dict(self.headers), content=self.content)


class FakeBackends(Sequence[FakeBackend]):
    """Servers that answer from memory, for `inner=` of a balanced transport, async or sync.

    Args:
        backends: How many, then they are http://backend-0 and so on; or their URLs.
        clock: The pool's, if answers are to take time of it.
        client: `httpx`, or `httpx2` for the transports of `lbclient.httpx2`.

    Raises:
        ValueError, TypeError: Fewer than one backend.
    """

    def __init__(
        self, backends: int | Iterable[str] = 3, *, clock: FakeClock | None = None, client: ModuleType = httpx
    ) -> None:
        if isinstance(backends, int):
            check_whole("backends", backends, at_least=1)
            backends = [f"http://backend-{number}" for number in range(backends)]
        self._by_url = {url.rstrip("/"): FakeBackend(url.rstrip("/"), clock, client) for url in backends}
        if not self._by_url:
            raise ValueError("backends is empty; write how many there are, or their URLs")
        self._client = client

    @property
    def urls(self) -> list[str]:
        """What to give to a pool or a transport."""
        return list(self._by_url)

    @property
    def asked(self) -> dict[str, int]:
        """How many requests each backend has seen, by URL."""
        return {url: len(backend.requests) for url, backend in self._by_url.items()}

    def inner(self, backend: Backend) -> Any:
        """The transport of one of them; write `inner=backends.inner`.

        Raises:
            KeyError: It is none of these.
        """
        return self._client.MockTransport(self._by_url[backend.url].answer)

    def __repr__(self) -> str:
        return f"<FakeBackends {', '.join(map(repr, self))}>"

    def __len__(self) -> int:
        return len(self._by_url)

    def __iter__(self) -> Iterator[FakeBackend]:
        return iter(self._by_url.values())

    @overload
    def __getitem__(self, index: int) -> FakeBackend: ...
    @overload
    def __getitem__(self, index: slice) -> list[FakeBackend]: ...
    def __getitem__(self, index: int | slice) -> FakeBackend | list[FakeBackend]:
        return list(self._by_url.values())[index]


def _name(failure: Failure) -> str:
    return failure.__name__ if isinstance(failure, type) else type(failure).__name__
