"""Health checks of Envoy, HAProxy and AWS, replayed."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbclient.core.health import Check, Health, PassiveHealth
from lbclient.core.pool import Pool
from lbclient.core.probes import HttpProbe

VECTORS = Path(__file__).parents[2] / "vectors"

SKIPPED = {
    "health_checks-11": "an unexpected status is one failed probe, not unhealthy_threshold of them",
    "haproxy-init-state-fully-up": "there is no init-state: the first result counts alone",
    "haproxy-init-state-down": "there is no init-state: a backend without a result may be picked",
    "haproxy-init-state-fully-down": "there is no init-state: a backend without a result may be picked",
    "haproxy-interval-transition-500-None": "there is no interval of its own for a pending change",
    "envoy-interval-full-healthy-pending-traffic": "there is no interval of its own for a pending change",
    "envoy-interval-full-unhealthy-pending-traffic": "there is no interval of its own for a pending change",
    "envoy-jitter-1000-10-0": "Envoy's jitter only adds; ours goes either way, the mean is the interval",
    "envoy-jitter-1000-10-250": "Envoy's jitter only adds; ours goes either way, the mean is the interval",
    "envoy-jitter-0-0-0": "an interval of 0 is refused",
    "defaults-caddy": "our defaults are those of ALB and Envoy",
    "defaults-traefik": "our defaults are those of ALB and Envoy",
    "defaults-nginx_plus": "our defaults are those of ALB and Envoy",
    "haproxy-observe-fail-check-9": "live requests do not count as probes; they have their own thresholds",
    "haproxy-agent": "there is no agent protocol",
    "interval-independent-of-duration": "a matter of the prober, tested in tests/transport/test_prober.py",
    "health-no-websocket": "probes know no WebSocket either; there is nothing to call",
    "states": "status is derived from three facts and has no list of names to compare",
}


def cases(name: str) -> list[Any]:
    found = []
    for case in json.loads((VECTORS / f"{name}.json").read_text())["cases"]:
        why = SKIPPED.get(case["id"]) or not_here(name, case)
        found.append(pytest.param(case, id=case["id"], marks=[pytest.mark.skip(reason=why)] if why else []))
    return found


def not_here(name: str, case: dict[str, Any]) -> str | None:
    if name == "health_checks" and case["input"].get("cluster_has_had_traffic") is False:
        return "probes do not depend on traffic"
    if name == "aws_elb_parameters" and not case["id"].startswith(OURS):
        return "not about health checks"
    return None


OURS = ("health.", "new-target", "fail-open", "unhealthy-routing")


@pytest.mark.parametrize("case", cases("health_checks"))
def test_health_checks_of_other_balancers(case: dict[str, Any]) -> None:
    given, expected = case["input"], case["expect"]
    if "state_after_each" in expected:
        assert "".join(states_after(given)) == expected["state_after_each"]
    elif "init_state" in given:  # up, and one failure takes it down
        health = Health()
        assert health.available
        health.probed(False, 2, 3, now=0.0)
        assert not health.available
    elif "state" in given:
        intervals = {"interval": given["inter"] / 1000, "interval_unhealthy": given["downinter"]}
        assert interval_ms(intervals, failing=given["state"] == "down") == expected["interval_ms"]
    elif "config_ms" in given:
        config = given["config_ms"]
        intervals = {
            "interval": config["interval"] / 1000,
            "interval_unhealthy": config.get("unhealthy_interval"),
        }
        assert (
            interval_ms(intervals, failing=given["last_result"] == "unhealthy")
            == expected["next_interval_ms"]
        )
    elif "base_ms" in given:
        assert interval_ms({"interval": given["base_ms"] / 1000}, failing=False) == expected["interval_ms"]
    elif given == {"proxy": "haproxy"}:
        probe = HttpProbe()
        assert (probe.healthy_threshold, probe.unhealthy_threshold) == (expected["rise"], expected["fall"])
    elif given == {"proxy": "envoy"}:
        assert (HttpProbe().expect, HttpProbe().method) == (expected["ok_status"], expected["method"])
    else:
        failures = [status for status in given["statuses"] if PassiveHealth().is_failure(status)]
        assert failures == expected["error"]


def states_after(given: dict[str, Any]) -> Iterator[str]:
    names = ("rise", "fall") if given["proxy"] == "haproxy" else ("healthy_threshold", "unhealthy_threshold")
    up, down = (given[name] for name in names)
    health = Health()
    for letter in given["checks"]:
        health.probed(letter == "P", up, down, now=0.0)
        yield "U" if health.check is Check.PASSING else "D"


def interval_ms(intervals: dict[str, Any], *, failing: bool) -> float:
    unhealthy = intervals.get("interval_unhealthy")
    probe = HttpProbe(
        interval=intervals["interval"],
        interval_unhealthy=None if unhealthy is None else unhealthy / 1000,
        timeout=0.1,
        jitter=0,
    )
    return 1000 * probe.delay(not failing, random.Random(1))


KEYS = {
    "health.interval_seconds": ("HealthCheckIntervalSeconds", "interval"),
    "health.timeout_seconds": ("HealthCheckTimeoutSeconds", "timeout"),
    "health.unhealthy_threshold": ("UnhealthyThresholdCount", "unhealthy_threshold"),
}


@pytest.mark.parametrize("case", cases("aws_elb_parameters"))
def test_health_checks_of_aws(case: dict[str, Any]) -> None:
    name, given, expected = case["id"], case["input"], case["expect"]
    if name in KEYS:
        key, attribute = KEYS[name]
        least, most = expected["min"], expected["max"]
        others = {"HealthCheckIntervalSeconds": 300, "HealthCheckTimeoutSeconds": 2}
        for value in (least, most):
            assert getattr(HttpProbe.from_alb({**others, key: value}), attribute) == value
        for value in (least - 1, most + 1):
            with pytest.raises(
                ValueError, match=f"{key} is {value}; write a whole number from {least} to {most}"
            ):
                HttpProbe.from_alb({**others, key: value})
        if "default_http" in expected:
            assert getattr(HttpProbe.from_alb({}), attribute) == expected["default_http"]
    elif name == "health.matcher":
        least, most = expected["alb_range"]
        probe = HttpProbe.from_alb({"Matcher": {"HttpCode": f"{least}-{most}"}})
        assert probe.matches(least)
        assert probe.matches(most)
        for wrong in (f"{least - 1}-{most}", f"{least}-{most + 1}"):
            with pytest.raises(ValueError, match=f"from {least} to {most}"):
                HttpProbe.from_alb({"Matcher": {"HttpCode": wrong}})
        assert HttpProbe.from_alb({}).expect == expected["default"]
    elif name == "health.path":
        assert HttpProbe.from_alb({}).path == expected["default"]
    elif name == "new-target-one-pass":
        pool = Pool(["http://a:1"], probe=HttpProbe(healthy_threshold=10))
        pool.report_probe("http://a:1", True)
        assert (pool.status().backends[0].check == "passing") is expected["healthy"]
    elif name == "fail-open":
        assert routed_to(targets=4, healthy=0, panic_threshold=0) == 4
    else:
        share = (given["min_percentage"] or 0) / 100
        everybody = routed_to(given["targets"], given["healthy"], share) == given["targets"]
        assert everybody == (expected["routes_to"] == "all targets")


def routed_to(targets: int, healthy: int, panic_threshold: float) -> int:
    """How many different backends get something."""
    urls = [f"http://10.0.0.{number}:80" for number in range(targets)]
    pool = Pool(urls, algorithm="round_robin", probe=HttpProbe(), panic_threshold=panic_threshold)
    for number, url in enumerate(urls):
        pool.report_probe(url, number < healthy)
    picked = set()
    for _ in range(3 * targets):
        with pool.pick() as ticket:
            picked.add(ticket.backend.url)
            ticket.succeeded(0.01)
    return len(picked)
