"""Envoy's priorities, panic and zones, case by case.

lbclient decides differently in three things: its panic threshold is 0 and health is ignored only when nobody at all is
available (`fail_open`), a pool of one priority takes a threshold literally, and nobody is "degraded" or "excluded".
"""

import json
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from lbclient import Backend, Pool
from lbclient.core.tiers import Level, priority_loads, zone_shares
from tests.core.pools import make_pool, shares

VECTORS = Path(__file__).parents[2] / "vectors"

NOT_DEGRADED = "a backend is available or it is not; there is nothing in between"
NOT_EXCLUDED = "nobody is excluded: a backend whose first probe is still under way is picked"
NOT_LOCALITY_WEIGHTED = "zones have no weights of their own; those of their backends say what they can take"
SKIPPED = {
    "x-degraded-rounding-panic-off": NOT_DEGRADED,
    "gf-excluded-counts-as-healthy": NOT_EXCLUDED,
    "gf-all-excluded-total-panic": NOT_EXCLUDED,
    "gf-total-panic-by-host-count": NOT_EXCLUDED,
    "choose-71": "tiers take turns, or the key decides; no number is drawn (test_tiers.py tests the shares)",
    "equal": NOT_LOCALITY_WEIGHTED,
    "all-zero": NOT_LOCALITY_WEIGHTED,
    "failover-3-of-5": NOT_LOCALITY_WEIGHTED,
    "failover-2-of-5": NOT_LOCALITY_WEIGHTED,
    "failover-1-of-5": NOT_LOCALITY_WEIGHTED,
    "failover-0-of-5": NOT_LOCALITY_WEIGHTED,
    "overprovision-100": NOT_LOCALITY_WEIGHTED,
    "overprovision-200": NOT_LOCALITY_WEIGHTED,
    "not-warmed-hosts-excluded": NOT_LOCALITY_WEIGHTED,
    "zone-min-cluster-size": "zone= works at any size: the shares change gradually with every backend",
}


def cases(name: str, has: str, without: str = "") -> list[Any]:
    """The cases of one file whose input has this; those decided against are skipped, with the reason."""
    found = []
    for case in json.loads((VECTORS / f"{name}.json").read_text())["cases"]:
        given = case["input"]
        if has not in given or (without and without in given):
            continue
        reason = SKIPPED.get(case["id"])
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        found.append(pytest.param(given, case["expect"], id=case["id"], marks=marks))
    return found


def level(hosts: int, healthy: int, panic_threshold_pct: int) -> Level:
    return Level(Fraction(hosts), Fraction(healthy), short=100 * healthy < panic_threshold_pct * hosts)


@pytest.mark.parametrize(("given", "expect"), cases("envoy_priority_panic", "levels"))
def test_priorities(given: Any, expect: Any) -> None:
    threshold = given["panic_threshold_pct"]
    levels = [level(each["hosts"], each["healthy"], threshold) for each in given["levels"]]
    loads, panic = priority_loads(levels, Fraction(given["overprovisioning_pct"], 100))
    assert list(loads) == expect["healthy_load"]
    assert list(panic) == expect["panic"]


def pool_of(hosts: Iterable[int], healthy: Iterable[int], panic_threshold: float) -> Pool:
    """A pool of so many backends per priority, of which so many are up."""
    names = [[f"http://p{priority}-{n}:1" for n in range(count)] for priority, count in enumerate(hosts)]
    backends = [Backend(url, priority=priority) for priority, urls in enumerate(names) for url in urls]
    pool, _ = make_pool(*backends, panic_threshold=panic_threshold)
    for urls, up in zip(names, healthy, strict=True):
        for url in urls[up:]:
            pool.report_probe(url, False)
    return pool


@pytest.mark.parametrize(("given", "expect"), cases("envoy_priority_panic", "levels"))
def test_priorities_through_the_pool(given: Any, expect: Any) -> None:
    hosts = [each["hosts"] for each in given["levels"]]
    healthy = [each["healthy"] for each in given["levels"]]
    if given["overprovisioning_pct"] != 140:
        pytest.skip("the factor is no option of the pool; `priority_loads` takes it")
    if not any(healthy) and not given["panic_threshold_pct"]:
        pytest.skip("when nobody is available health is ignored, whatever the threshold")
    pool = pool_of(hosts, healthy, given["panic_threshold_pct"] / 100)
    counts: Counter[int] = Counter()
    picked: dict[int, set[str]] = {}
    for url, picks in shares(pool, 1000).items():
        priority = int(url[len("http://p")])
        counts[priority] += picks
        if picks:
            picked.setdefault(priority, set()).add(url)
    assert [counts[priority] // 10 for priority in range(len(hosts))] == expect["healthy_load"]
    assert pool.status().panic == any(expect["panic"])
    for priority, urls in picked.items():
        assert len(urls) == (hosts[priority] if expect["panic"][priority] else healthy[priority])


@pytest.mark.parametrize(("given", "expect"), cases("envoy_priority_panic", "hosts_per_level"))
def test_priorities_in_the_documentation(given: Any, expect: Any) -> None:
    hosts = given["hosts_per_level"]
    levels = [level(hosts, hosts * healthy // 100, 0) for healthy in given["healthy_pct"]]
    loads, panic = priority_loads(levels)
    assert list(loads) == expect["healthy_load"]
    assert not any(panic)


@pytest.mark.parametrize(("given", "expect"), cases("envoy_priority_panic", "hosts", without="levels"))
def test_panic(given: Any, expect: Any) -> None:
    pool = pool_of([given["hosts"]], [given["healthy"]], given["threshold_pct"] / 100)
    assert pool.status().panic == expect["panic"]
    served = [picks for picks in shares(pool, 60).values() if picks]
    assert len(served) == (given["hosts"] if expect["panic"] else given["healthy"])
    assert len(set(served)) == 1


@pytest.mark.parametrize(("given", "expect"), cases("envoy_priority_panic", "random"))
def test_choosing_a_priority(given: Any, expect: Any) -> None:
    raise AssertionError("decided against")


@pytest.mark.parametrize(("given", "expect"), cases("envoy_locality_zone", "upstream_hosts_per_zone"))
def test_zones(given: Any, expect: Any) -> None:
    def by_zone(hosts: list[int]) -> dict[str | None, Fraction]:
        return {f"zone{number}": Fraction(count) for number, count in enumerate(hosts)}

    found = zone_shares(
        "zone0", by_zone(given["upstream_hosts_per_zone"]), by_zone(given["local_hosts_per_zone"])
    )
    assert int(10_000 * found["zone0"]) == expect["local_percent_x100"]
    capacity = expect["residual_capacity_cumulative"]
    added = 0.0
    for number, cumulative in enumerate(capacity):
        added += 0 if not number else float(found.get(f"zone{number}", 0) / (1 - found["zone0"]))
        assert added == pytest.approx(cumulative / capacity[-1])
    assert sum(found.values()) == 1


@pytest.mark.parametrize(("given", "expect"), cases("envoy_locality_zone", "locality_weights"))
def test_locality_weights(given: Any, expect: Any) -> None:
    raise AssertionError("decided against")


@pytest.mark.parametrize(("given", "expect"), cases("envoy_locality_zone", "min_cluster_size_default"))
def test_a_minimum_size(given: Any, expect: Any) -> None:
    raise AssertionError("decided against")


def test_every_case_is_here() -> None:
    collected = {
        param.id
        for test in (
            cases("envoy_priority_panic", "levels"),
            cases("envoy_priority_panic", "hosts_per_level"),
            cases("envoy_priority_panic", "hosts", without="levels"),
            cases("envoy_priority_panic", "random"),
            cases("envoy_locality_zone", "upstream_hosts_per_zone"),
            cases("envoy_locality_zone", "locality_weights"),
            cases("envoy_locality_zone", "min_cluster_size_default"),
        )
        for param in test
    }
    for name in ("envoy_priority_panic", "envoy_locality_zone"):
        assert {case["id"] for case in json.loads((VECTORS / f"{name}.json").read_text())["cases"]} <= (
            collected
        )
