"""Clients under load, and a count of what became of every request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import httpx

from lbclient import AsyncBalancedTransport, HttpProbe, PassiveHealth, Record


@dataclass
class Tally:
    """What became of the requests of a load."""

    answered: Counter[str] = field(default_factory=Counter)
    """By backend URL."""
    cut_off: int = 0
    """Requests that had been sent when their backend died."""
    lost: list[str] = field(default_factory=list)
    """Requests that failed although nothing of them had been sent. There should be none."""

    @property
    def total(self) -> int:
        return self.answered.total() + self.cut_off + len(self.lost)


def quick_to_notice(urls: list[str], *, probe: bool = True) -> AsyncBalancedTransport:
    """A transport whose health checks are short enough for a test to wait for.

    The timeout is not: a probe that a busy machine makes late would have nobody available, and the dead picked again.
    """
    return AsyncBalancedTransport(
        urls,
        algorithm="power_of_two_choices",  # which does not see failures, and has passive health
        probe=HttpProbe("/health", interval=0.8, timeout=0.8, unhealthy_threshold=2) if probe else None,
        passive=PassiveHealth(base_ejection=0.3, max_ejection=0.6),
    )


async def ask_on(
    http: httpx.AsyncClient, tally: Tally, go_on: Callable[[], bool], *, path: str = "/whoami"
) -> None:
    """One client: GET and POST in turn, as fast as they are answered."""
    number = 0
    while go_on():
        number += 1
        try:
            response = await http.request("POST" if number % 2 else "GET", path)
        except httpx.HTTPError as exc:
            record: Record = exc.lbclient  # type: ignore[attr-defined]
            # A status is the outcome of one that broke in the body: that was sent as well.
            if not record.attempts or record.attempts[-1].outcome.startswith(("connect", "full", "ours")):
                tally.lost.append(f"{exc!r} {record.explain()}")
            else:
                tally.cut_off += 1
        else:
            found: Record = response.extensions["lbclient"]
            assert found.backend is not None
            tally.answered[found.backend] += 1


async def until(condition: Callable[[], bool], within: float = 30.0) -> None:
    """Wait for what has to come true."""
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.01)
