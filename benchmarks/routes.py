"""What one route costs, from a router that has only a default to one with dozens of routes.

    python -m benchmarks.routes

No network: `router.route(facts)` by itself, for a request that no earlier route takes.
"""

from __future__ import annotations

from benchmarks.picks import Step, nanoseconds
from benchmarks.report import Table
from lbclient import Pool, Route, Router, Split
from lbclient.core.facts import Facts

POOL = Pool(["http://10.0.0.1:8080"], name="api")
OTHER = Pool(["http://10.0.0.2:8080"], name="canary")
FACTS = Facts(target=b"/v1/things/7?full=1", headers=[(b"Host", b"shop"), (b"X-Tier", b"gold")])
COUNTS = (1, 5, 50)


def by_path(count: int) -> Router:
    """So many prefixes, of which the last takes the request."""
    return Router(
        [Route(path=f"/{number}/*", to=POOL) for number in range(count - 1)] + [Route(path="/v1/*", to=POOL)]
    )


def by_header(count: int) -> Router:
    """So many headers to look at, of which none takes it."""
    return Router(
        [Route(headers={"x-tier": f"{number}"}, to=POOL) for number in range(count - 1)], default=POOL
    )


def step(router: Router) -> Step:
    return lambda _: router.route(FACTS)


def main() -> None:
    routers = {
        "default only": Router([], default=POOL),
        "split 9 to 1": Router([], default=Split({POOL: 9, OTHER: 1})),
    }
    for count in COUNTS:
        routers[f"{count} paths"] = by_path(count)
        routers[f"{count} headers"] = by_header(count)
    rows = [[name, f"{nanoseconds(step(router)):.0f}"] for name, router in routers.items()]
    Table("routes", ["router", "ns a request"], rows).print()


if __name__ == "__main__":
    main()
