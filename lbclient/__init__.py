"""Client-side load balancing for httpx: every request picks its own backend, inside the process.

transport = AsyncBalancedTransport(["http://10.0.0.5:8080", "http://10.0.0.6:8080"])
async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
    response = await client.get("/42")
    print(response.extensions["lbclient"].explain())
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lbclient import algorithms
from lbclient._async.transport import AsyncBalancedTransport
from lbclient._sync.transport import BalancedTransport
from lbclient.core.affinity import AppCookieAffinity, CookieAffinity, KeyAffinity
from lbclient.core.backend import Backend
from lbclient.core.budget import RetryBudget
from lbclient.core.connect import Connect
from lbclient.core.deploy import DrainReport, Guard, SwapReport
from lbclient.core.errors import DeadlineExceeded, DrainTimeout, NoBackendAvailable
from lbclient.core.explain import Attempt, Record
from lbclient.core.facts import Facts
from lbclient.core.health import PassiveHealth
from lbclient.core.hedging import Hedge
from lbclient.core.pool import Pool
from lbclient.core.probes import HttpProbe, TcpProbe
from lbclient.core.retry import Retry
from lbclient.core.routing import NoRoute, Route, Router
from lbclient.core.split import Split
from lbclient.core.status import BackendStatus, PoolStatus, TierStatus
from lbclient.core.ticket import Ticket

if not TYPE_CHECKING:  # a type checker would take every name for a module, misspelt ones too

    def __getattr__(name: str) -> object:
        """The rooms that `import lbclient` leaves closed, since they need extras or time, are opened when entered."""
        if name in _ROOMS:
            return import_module(f"lbclient.{name}")
        raise AttributeError(f"module 'lbclient' has no attribute {name!r}")


_ROOMS = frozenset({"asgi", "discovery", "httpx2", "l4", "observability", "simulator", "testing"})

__version__ = "0.1.0"

__all__ = [
    "AppCookieAffinity",
    "AsyncBalancedTransport",
    "Attempt",
    "Backend",
    "BackendStatus",
    "BalancedTransport",
    "Connect",
    "CookieAffinity",
    "DeadlineExceeded",
    "DrainReport",
    "DrainTimeout",
    "Facts",
    "Guard",
    "Hedge",
    "HttpProbe",
    "KeyAffinity",
    "NoBackendAvailable",
    "NoRoute",
    "PassiveHealth",
    "Pool",
    "PoolStatus",
    "Record",
    "Retry",
    "RetryBudget",
    "Route",
    "Router",
    "Split",
    "SwapReport",
    "TcpProbe",
    "Ticket",
    "TierStatus",
    "algorithms",
]
