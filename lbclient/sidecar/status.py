"""All there is to see of a sidecar, as plain data."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lbclient import __version__
from lbclient.core.pool import Pool
from lbclient.observability.prometheus import state_of

if TYPE_CHECKING:
    from lbclient.sidecar.sidecar import Sidecar

MOST_HAPPENINGS = 60


def status_of(sidecar: Sidecar, *, history: bool = True) -> dict[str, Any]:
    """The sidecar as it is now.

    Args:
        sidecar: It.
        history: Whether to tell what happened lately as well.
    """
    traffic, worker = sidecar.traffic, sidecar.worker
    connections = traffic.connections()
    found: dict[str, Any] = {
        "version": __version__,
        "pid": os.getpid(),
        "worker": None if worker is None else {"number": worker.number, "of": worker.count},
        "now": time.time(),
        "started_at": sidecar.started_at,
        "leaving": sidecar.leaving,
        "active": traffic.active,
        "configuration": {
            "path": str(sidecar.path),
            "loaded_at": sidecar.loaded_at,
            "reloads": sidecar.reloads,
            "trouble": sidecar.trouble,
        },
        "listeners": [
            {"name": str(listener), "address": str(listener.address), "connections": listener.connections}
            for listener in sidecar.listeners
        ],
        "pools": [_pool(pool, connections) for pool in traffic.pools.values()],
        "splits": [
            {"name": name, "weights": {pool.name: weight for pool, weight in split.weights.items()}}
            for name, split in traffic.generation.splits.items()
        ],
        "operations": [operation.as_dict() for operation in reversed(sidecar.operations.newest)],
    }
    if history:
        newest = list(sidecar.happenings.newest)[-MOST_HAPPENINGS:]
        found["happenings"] = [one._asdict() for one in reversed(newest)]
        found["decisions"] = list(sidecar.decisions)
    return found


def _pool(pool: Pool, connections: dict[str, tuple[int, int]]) -> dict[str, Any]:
    status = pool.status()
    found = asdict(status)
    found["tiers"] = [tier._asdict() for tier in status.tiers]
    found["retries_left"] = None if pool.budget is None else pool.budget.left
    for backend, plain in zip(status.backends, found["backends"], strict=True):
        opened, idle = connections.get(backend.url, (0, 0))
        plain |= {"state": state_of(backend), "connections": {"open": opened, "idle": idle}}
    return found
