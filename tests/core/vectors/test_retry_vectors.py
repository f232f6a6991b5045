"""What NGINX, Caddy, Traefik, HAProxy and Envoy send again, and what they wait, replayed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tenacity import RetryCallState, stop_after_attempt

from lbclient import Facts, Retry
from lbclient.core.outcome import Ending, Outcome
from tests.core.pools import A, B, make_pool

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "retries.json").read_text())["cases"]

ONLY_GET = "PUT and DELETE are idempotent, too (RFC 9110, 9.2.2)"
SKIPPED = {
    "caddy-DELETE-after-connect-default": ONLY_GET,
    "caddy-try-interval": "only who was tried before is waited for, and up to 250 ms",
    "haproxy-redispatch-minus-1": "another one is tried first, and the same one only when nobody else is left",
    "haproxy-redispatch-3": "as above",
    "envoy-default-num-retries": "three attempts in all, unless `stop` says otherwise",
    "envoy-retriable-4xx": "there are no names for sets of statuses; `statuses=` lists them",
    "envoy-reset-header-too-long": "when Retry-After asks for too much and nobody else is left, that is the response",
}


def sent_again(
    method: str,
    outcome: Outcome,
    retry: Retry | None = None,
    replayable: bool = True,
    options: dict[str, object] | None = None,
) -> bool:
    """Whether another backend gets a request of which the first one has made `outcome`."""
    pool, _ = make_pool(A, B, algorithm="first", retry=retry or Retry())
    plan = pool.attempts(Facts(method=method, options=options))
    ticket = plan.first()
    plan.observe(ticket, outcome)
    if outcome.failure is None:
        ticket.succeeded(outcome.elapsed, outcome.status or 200)
    else:
        ticket.failed(outcome.failure)
    step = plan.another(replayable)
    return step is not None and step.ticket is not None and step.ticket.backend.url == B


def nginx_sent_put(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again(given["method"], Outcome(Ending.BROKEN)) == expected["retried"]


nginx_sent_patch = nginx_sent_put


def nginx_post_not_sent(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again(given["method"], Outcome(Ending.UNREACHABLE, unsent=True)) == expected["retried"]


def nginx_post_non_idempotent_on(given: dict[str, Any], expected: dict[str, Any]) -> None:
    broken = Outcome(Ending.BROKEN)
    assert sent_again(given["method"], broken, options={"idempotent": True}) == expected["retried"]
    assert sent_again(given["method"], broken, Retry(methods={given["method"]})) == expected["retried"]


def nginx_post_404_passed_through(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again(given["method"], Outcome(status=given["status"])) == expected["retried"]
    asked_for = Retry(statuses={given["status"]})
    assert sent_again(given["method"], Outcome(status=given["status"]), asked_for) == expected["retried"]


def nginx_stale_keepalive_post(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again(given["method"], Outcome(Ending.STALE)) == expected["retried"]


def caddy_get_dial_error_default(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again(given["method"], Outcome(Ending.UNREACHABLE)) == expected["retried"]


def caddy_get_after_connect_default(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again(given["method"], Outcome(Ending.BROKEN)) == expected["retried"]


caddy_put_after_connect_match = caddy_get_after_connect_default


def caddy_exhausted_keeps_status(given: dict[str, Any], expected: dict[str, Any]) -> None:
    outcome = Outcome(status=given["upstream_status"])
    assert not sent_again("GET", outcome, Retry(stop=stop_after_attempt(1)))
    assert outcome.status == expected["client_status"]


def caddy_200_not_retried(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again("PUT", Outcome(status=given["status"])) == (expected["attempts"] > 1)


def traefik_idempotent(given: dict[str, Any], expected: dict[str, Any]) -> None:
    again = [method for method in given["methods"] if sent_again(method, Outcome(status=503))]
    assert again == expected["http_status_retry_allowed"]


def haproxy_body_larger_than_buffer(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent_again("PUT", Outcome(status=503), replayable=False) == expected["retried"]
    assert sent_again("PUT", Outcome(status=503), replayable=True)


def envoy_backoff_3(given: dict[str, Any], expected: dict[str, Any]) -> None:
    wait = Retry().wait
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = given["retry_number"]
    # Envoy: base x (2^n - 1). tenacity: base x 2^(n - 1), so a little less; both end at the same most.
    below = min(given["base_ms"] * 2 ** (given["retry_number"] - 1), given["max_ms"])
    assert below <= expected["uniform_random_below_ms"]
    drawn = [wait(state) * 1000 for _ in range(500)]
    assert 0 <= min(drawn) < below / 4
    assert below * 3 / 4 < max(drawn) <= below


envoy_backoff_5 = envoy_backoff_3


def envoy_total_timeout_not_retried(given: dict[str, Any], expected: dict[str, Any]) -> None:
    pool, clock = make_pool(A, B, algorithm="first")
    plan = pool.attempts(Facts(options={"deadline": 3.0}))
    ticket = plan.first()
    clock.advance(3.0)
    plan.observe(ticket, Outcome(Ending.SLOW))
    ticket.failed("timeout")
    assert (plan.another(replayable=True) is not None) == expected["retried"]


def envoy_timeout_includes_retries(given: dict[str, Any], expected: dict[str, Any]) -> None:
    pool, clock = make_pool(A, B)
    plan = pool.attempts(Facts(options={"deadline": given["timeout_s"]}))
    plan.first()
    clock.advance(given["first_attempt_s"])
    assert plan.left() == pytest.approx(expected["left_for_retry_s"])


REPLAYS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    name.replace("_", "-"): replay
    for name, replay in list(globals().items())
    if inspect.isfunction(replay) and list(inspect.signature(replay).parameters) == ["given", "expected"]
}


def cases() -> list[Any]:
    found = []
    for case in CASES:
        why = SKIPPED.get(case["id"])
        found.append(pytest.param(case, id=case["id"], marks=[pytest.mark.skip(reason=why)] if why else []))
    return found


@pytest.mark.parametrize("case", cases())
def test_retries_of_other_balancers(case: dict[str, Any]) -> None:
    REPLAYS[case["id"].lower()](case["input"], case["expect"])


def test_every_replay_has_its_case() -> None:
    skipped = {name.lower() for name in SKIPPED}
    assert set(REPLAYS).isdisjoint(skipped)
    assert set(REPLAYS) | skipped == {case["id"].lower() for case in CASES}
