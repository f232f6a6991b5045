"""Telling the other processes of this machine what this one has found out, and learning from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio

from lbclient.core.pool import Pool
from lbclient.sharing.board import Board, Known

logger = logging.getLogger("lbclient")

PERIOD = 0.04  # seconds between two looks at the board
FUTURE = 1.0  # seconds; what was written later than that from now was written before the machine was started


async def follow(pool: Pool, name: str, probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Tell and learn until cancelled, and probe when it is this process's turn.

    Args:
        pool: Tells what it knows, and learns what the others do.
        name: The board's.
        probe: Probes until cancelled.
    """
    board = Board(name)
    try:
        async with anyio.create_task_group() as group:
            state = _State(pool, board)
            while True:
                if pool.probe is not None and not board.elected and board.stand():
                    logger.info("%s: this process probes for all those that share %r", pool.name, pool.shared)
                    group.start_soon(probe)
                state.look()
                await anyio.sleep(PERIOD)
    finally:
        board.close()


@dataclass
class _State:
    pool: Pool
    board: Board
    told: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    seen: dict[str, Known] = field(default_factory=dict[str, Known])

    def look(self) -> None:
        """Once: tell what has changed here, and learn what has changed on the board."""
        pool, now = self.pool, self.pool.clock()
        here = pool.findings()
        news: dict[str, Known] = {}
        for url, (check, until) in here.items():
            was_check, was_until = self.told.get(url, (0, 0.0))
            known = self.seen.get(url, Known())
            if check != was_check and self.board.elected:
                known = known._replace(checked_at=now, check=check)
            if until != was_until:
                known = known._replace(ejected_at=now, ejected_until=until)
            if known != self.seen.get(url, Known()):
                news[url] = known
        told = dict(here)
        board = self.board.exchange(list(here), news)
        if board is None:
            return  # and all of it again, in a moment
        for url, known in board.items():
            before = self.seen.get(url, Known())
            if url not in news and known.checked_at <= now + FUTURE and known.ejected_at <= now + FUTURE:
                is_checked = known.checked_at > before.checked_at and not self.board.elected
                is_judged = known.ejected_at > before.ejected_at
                if is_checked or is_judged:
                    probed = known.check if is_checked else None
                    learned = pool.learn(url, probed, known.ejected_until if is_judged else None)
                    told[url] = here[url] if learned is None else learned
            self.seen[url] = known
        self.told = told  # and not what pool.findings() says by now: that is to be told
