"""What became of every request of a load, in the client's eyes and by the servers' own count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx

from lbclient import Record
from tests.servers import Server

UNKNOWN = ("reset", "stale", "timeout", "leaving", "204", "200")
"""Outcomes of requests that may have been carried out. (A status: the response broke off behind its head.)"""


@dataclass
class Ledger:
    """Requests that carry a name of their own to `/pay/NAME`, so that the servers can count them."""

    attempts: Counter[str] = field(default_factory=Counter)
    """By the first word of their outcome."""
    answered: Counter[str] = field(default_factory=Counter)
    """By backend URL."""
    paid: set[str] = field(default_factory=set)
    """The names of those that were answered."""
    lost: list[str] = field(default_factory=list)
    """Failures that should not have been."""
    open_ended: int = 0
    """Requests other than idempotent ones of which nobody knows."""
    refused: int = 0
    """Requests other than idempotent ones that were answered with a failure."""
    numbers: int = 0

    async def ask(
        self, http: httpx.AsyncClient, method: str, *, path: str = "/pay", content: bytes = b""
    ) -> None:
        """One request, and what became of it."""
        self.numbers += 1
        name = f"{method}-{self.numbers}"
        try:
            response = await http.request(method, f"{path}/{name}", content=content)
        except httpx.HTTPError as exc:
            record: Record = exc.lbclient  # type: ignore[attr-defined]
            self._note(record)
            if method == "POST" and record.attempts and record.attempts[-1].outcome.startswith(UNKNOWN):
                self.open_ended += 1
            else:
                self.lost.append(f"{method} {exc!r} {record.explain()}")
        else:
            record = response.extensions["lbclient"]
            self._note(record)
            assert record.backend is not None
            if response.is_success:
                self.answered[record.backend] += 1
                self.paid.add(name)
            elif method == "POST":
                self.refused += 1
            else:
                self.lost.append(f"{method} {response.status_code} {record.explain()}")

    async def keep_asking(
        self,
        http: httpx.AsyncClient,
        go_on: Callable[[], bool],
        methods: tuple[str, ...] = ("GET", "POST"),
        *,
        path: str = "/pay",
    ) -> None:
        """One client: each method in turn, as fast as they are answered."""
        while go_on():
            for method in methods:
                await self.ask(http, method, path=path, content=b"" if method == "GET" else b"body")

    def check(self, servers: Iterable[Server], *, all_there: bool = True) -> None:
        """By the servers' own count: whatever was answered was carried out, and nothing twice but what may be.

        Args:
            servers: Whom to ask.
            all_there: False when some that carried requests out cannot be asked any more.
        """
        times: Counter[str] = Counter()
        for server in servers:
            times.update(server.payments())
        twice = [name for name, count in times.items() if count > 1 and name.startswith("POST")]
        assert not twice
        assert not all_there or not self.paid - times.keys()

    def _note(self, record: Record) -> None:
        for attempt in record.attempts:
            self.attempts[attempt.outcome.split(" ", 1)[0]] += 1
