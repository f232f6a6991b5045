"""Envoy's outlier detection and slow start, as far as ours is the same; the rest is skipped with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lbclient import PassiveHealth, Pool
from lbclient.core.health import Health, Window
from tests.core.pools import fail, make_pool, of

VECTORS = Path(__file__).parent.parent.parent / "vectors"


def cases(name: str) -> list[Any]:
    loaded = json.loads((VECTORS / f"{name}.json").read_text())
    return [pytest.param(case, id=case["id"]) for case in loaded["cases"]]


NOT_OURS = {
    "sr-threshold": "a ratio, not a number of sigmas: with 1.9 sigma a failing host among fewer than five stays in",
    "sr-needs-min-hosts": "there is no success-rate analysis across hosts, so no minimum of hosts",
    "gateway-not-enforced": "502, 503 and 504 are failures like the other 5xx",
    "local-timeout-maps": "a timeout is a failure of its own kind, and no status is made up for it",
    "split-connect-failure": "one counter for all failures of a backend",
    "failure-percentage-equal": "exactly the ratio does not eject: the comparison is strict, as the docstring says",
    "max-not-aligned": "there are no sweeps: an ejection ends when its time is over",
    "active-hc-pass-unejects": "a /health that passes does not cancel an ejection",
    "uneject-not-before-base": "after an ejection one request tries the backend; there are no sweeps",
}


def number_of_hosts_case(case: Any) -> bool:
    return str(case["id"]).startswith("max-ejection-") and "hosts" in case["input"]


@pytest.mark.parametrize("case", cases("envoy_outlier_detection"))
def test_outlier_detection(case: Any) -> None:
    id_, given, expect = str(case["id"]), case["input"], case["expect"]
    for prefix, reason in NOT_OURS.items():
        if id_.startswith(prefix):
            pytest.skip(reason)
    if "codes" in given:
        pool, _ = make_pool(passive=PassiveHealth(consecutive_failures=given["threshold"]))
        for code in given["codes"]:
            fail(pool, "http://a:1", 1, code)
        assert of(pool, "http://a:1").ejected == expect["ejected"]
        if "consecutive_5xx" in expect:
            assert pool.state("http://a:1").health.failures_in_a_row == expect["consecutive_5xx"]
    elif "threshold_pct" in given:
        policy = PassiveHealth(consecutive_failures=10_000, failure_ratio=given["threshold_pct"] / 100)
        health, verdict = Health(), None
        for failed in [False] * given["success"] + [True] * given["failure"]:
            verdict = health.record(policy, 1000.0, failed)
        assert (verdict == "ratio") == expect["ejected"]
    elif "durations_s" in expect:
        policy = PassiveHealth(base_ejection=given["base_s"], max_ejection=given["max_s"])
        count = given["consecutive_ejections"]
        assert [policy.ejection_seconds(k) for k in range(1, count + 1)] == expect["durations_s"]
    elif expect.get("config_error"):
        with pytest.raises(ValueError, match="max_ejection is 10; write at least base_ejection"):
            PassiveHealth(base_ejection=given["base_s"], max_ejection=given["max_s"])
    elif id_ == "uneject-clears-counters":
        health = Health()
        health.record(PassiveHealth(), 0.0, failed=True)
        health.eject(PassiveHealth(), 0.0, 1.0, "")
        assert health.failures_in_a_row == expect["consecutive_5xx"]
    elif id_ == "remove-host-while-ejected":
        pool, _ = make_pool()
        fail(pool, "http://a:1", 5)
        pool.remove("http://a:1")
        assert sum(status.ejected for status in pool.status().backends) == expect["active_ejections"]
    elif number_of_hosts_case(case):
        if given["always_eject_one_host"] or expect["hosts_that_can_be_ejected"] == given["hosts"]:
            pytest.skip("the last one standing is never ejected, and no host is ejected beyond the share")
        share = given["max_ejection_percent"] / 100
        policy = PassiveHealth(consecutive_failures=10_000, max_ejected=share)
        pool = Pool([f"http://s{n}:1" for n in range(given["hosts"])], passive=policy, algorithm="first")
        for status in pool.status().backends:
            fail(pool, status.url, 30)
        assert sum(s.ejected for s in pool.status().backends) == expect["hosts_that_can_be_ejected"]
    elif id_ == "defaults":
        ours = PassiveHealth()
        assert ours.consecutive_failures == expect["consecutive_5xx"]
        assert ours.base_ejection * 1000 == expect["base_ejection_time_ms"]
        assert ours.max_ejection * 1000 == expect["max_ejection_time_ms"]
    else:
        raise AssertionError(f"no test for {id_}")


@pytest.mark.parametrize("case", cases("slow_start"))
def test_slow_start(case: Any) -> None:
    given, expect = case["input"], case["expect"]
    if "factor" not in expect or "seconds_in_window" not in given:
        pytest.skip(
            "a sequence of Envoy's or HAProxy's schedule, or a rule of another proxy's; the ramp is compared"
        )
    if given["aggression"] != 1 or given["min_weight"] != 0.1:
        pytest.skip("our ramp is linear and starts at a tenth")
    health = Health()
    health.ramp_since = 1000.0
    factor = health.ramp(1000.0 + given["seconds_in_window"], given["window_s"])
    assert factor == pytest.approx(expect["factor"], abs=1e-6)


def facts_of(number: str) -> dict[str, Any]:
    """The facts of clientside.json with that number; there is one of each here."""
    facts: list[dict[str, Any]] = json.loads((VECTORS / "clientside.json").read_text())["facts"]
    (fact,) = (fact for fact in facts if fact["id"] == number)
    return fact


def test_ejections_of_grpc_grow_up_to_their_cap() -> None:
    fact = facts_of("F30")
    policy = PassiveHealth(base_ejection=fact["input"]["base"], max_ejection=fact["input"]["max"])
    assert [policy.ejection_seconds(k) for k in fact["input"]["multiplier"]] == fact["expected"][
        "eject_seconds"
    ]


def test_the_window_of_linkerd_forgets_exactly() -> None:
    fact = facts_of("F46")
    window = Window(fact["input"]["window_s"])
    successes = []
    for at, succeeded in fact["input"]["events"]:
        window.add(1000.0 + at, failed=not succeeded)
        successes.append(1 - window.failure_ratio(1000.0 + at, at_least=1))
    assert successes == fact["expected"]["ratio"]
