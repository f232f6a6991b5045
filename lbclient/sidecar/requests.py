"""What became of each request: a line in the access log, and the newest decisions for whoever looks."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal

from lbclient.asgi.forwarding import ClientFrom, Trust, client_of
from lbclient.asgi.types import Scope
from lbclient.core.explain import Record

FLUSH_EVERY = 0.25  # seconds
KEPT_NOTABLE, KEPT_OTHERS = 30, 10
OTHERS_EVERY = 1.0  # seconds


@dataclass(slots=True)
class Served:
    """A request that is over.

    Attributes:
        scope: ASGI's.
        trust: Whose word about the client counts.
        client_from: In which header.
        status: Of the response; 101 for a WebSocket that was opened, 0 when nothing was answered.
        sent: Bytes of the response's body.
        seconds: From its head to the end of the response.
        record: Who served it and why; None when nobody was asked.
    """

    scope: Scope
    trust: Trust
    client_from: ClientFrom
    status: int
    sent: int
    seconds: float
    record: Record | None

    @property
    def client(self) -> str:
        """The end client's address; empty when nobody told."""
        return client_of(self.scope, self.trust, self.client_from).ip or ""

    @property
    def target(self) -> str:
        """Path and query, as they were asked for."""
        path: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        query: bytes = self.scope["query_string"]
        return (path + b"?" + query if query else path).decode("latin-1")

    @property
    def method(self) -> str:
        """The request's; a WebSocket's is GET."""
        return str(self.scope.get("method", "GET"))


class Decisions:
    """The newest requests that were repeated or failed, and of the others one a second."""

    def __init__(self) -> None:
        self._notable: deque[tuple[int, float, Served]] = deque(maxlen=KEPT_NOTABLE)
        self._others: deque[tuple[int, float, Served]] = deque(maxlen=KEPT_OTHERS)
        self._next_other = 0.0
        self._numbers = count(1)

    def add(self, served: Served) -> None:
        """One more."""
        record, now = served.record, time.time()
        if served.status >= 500 or not served.status or (record is not None and record.tried > 1):
            self._notable.append((next(self._numbers), now, served))
        elif now >= self._next_other:
            self._next_other = now + OTHERS_EVERY
            self._others.append((next(self._numbers), now, served))

    def __iter__(self) -> Iterator[dict[str, object]]:
        """As plain data: the notable ones before the others, the newest first."""
        for number, at, served in (*reversed(self._notable), *reversed(self._others)):
            record = served.record
            yield {
                "number": number,
                "at": at,
                "method": served.method,
                "target": served.target,
                "status": served.status,
                "seconds": served.seconds,
                "pool": None if record is None else record.pool,
                "backend": None if record is None else record.backend,
                "attempts": 0 if record is None else record.tried,
                "why": "" if record is None else record.explain(),
            }


class AccessLog:
    """A line for each request, written a few times a second.

    Args:
        path: A file, or "-" for standard output.
        form: "text" or "json".
        later: Calls a function after some seconds: an event loop's `call_later`.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(
        self, path: str, form: Literal["text", "json"], later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._path = path
        self._line = _as_json if form == "json" else _as_text
        self._later = later
        self._pending: list[str] = []
        self._file = self._open()

    def _open(self) -> IO[str]:
        return sys.stdout if self._path == "-" else Path(self._path).open("a", encoding="utf-8")

    def add(self, served: Served) -> None:
        """One more."""
        if not self._pending:
            self._later(FLUSH_EVERY, self.flush)
        self._pending.append(self._line(served, datetime.now(UTC)))

    def flush(self) -> None:
        """Write what there is."""
        lines, self._pending = self._pending, []
        if lines:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()

    def reopen(self) -> None:
        """Write to the file that has the name now: the one before was moved away."""
        self.close()
        self._file = self._open()

    def close(self) -> None:
        """Write what there is, and no more."""
        self.flush()
        if self._file is not sys.stdout:
            self._file.close()


def _facts(served: Served, at: datetime) -> dict[str, Any]:
    record = served.record
    return {
        "time": at.isoformat(timespec="milliseconds"),
        "client": served.client,
        "method": served.method,
        "target": served.target,
        "version": served.scope.get("http_version", ""),
        "status": served.status,
        "bytes": served.sent,
        "seconds": round(served.seconds, 6),
        "pool": None if record is None else record.pool,
        "backend": None if record is None else record.backend,
        "attempts": 0 if record is None else record.tried,
    }


def _as_json(served: Served, at: datetime) -> str:
    return json.dumps(_facts(served, at))


def _as_text(served: Served, at: datetime) -> str:
    facts = _facts(served, at)
    request = json.dumps(f"{facts['method']} {facts['target']} HTTP/{facts['version']}")
    return (
        f"{facts['time']} {facts['client'] or '-'} {request} {facts['status']} {facts['bytes']} "
        f"{facts['seconds']:.4f} {facts['backend'] or '-'} {facts['attempts']}"
    )
