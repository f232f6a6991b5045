"""Sticky sessions as NGINX, HAProxy, Caddy, Envoy and AWS have them, replayed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lbclient.core.affinity import AppCookieAffinity, CookieAffinity, KeyAffinity
from lbclient.core.cookies import without_cookie
from lbclient.core.facts import Facts
from lbclient.core.pool import Pool

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "sticky_sessions.json").read_text())["cases"]

NOT_THEIR_VALUE = (
    "the cookie's value is signed and opaque; the address, or a plain hash of it, is what it must not show"
)
NO_IDLE = "a value carries its expiry, signed; no date of last use is kept, so max_age counts from the choice"

SKIPPED = {
    "nginx-sid": NOT_THEIR_VALUE,
    "traefik-cookie-value": NOT_THEIR_VALUE,
    "caddy-cookie-value-secret": NOT_THEIR_VALUE,
    "nginx-all-down": "with nobody to answer there is no response that a cookie could be added to: NoBackendAvailable",
    "nginx-learn-default-timeout": "sessions are remembered for a day after their last use, as at ALB",
    "haproxy-cookie-future": "a time in the future can only be our own: it is signed",
    "haproxy-cookie-no-date": NO_IDLE,
    "envoy-stateful-session-strict": "a session whose backend is gone moves; there is no mode that fails instead",
}

SECRET = "a secret for these tests"
A, B, C, D = (
    "http://127.0.0.1:8081",
    "http://127.0.0.1:8082",
    "http://127.0.0.1:8083",
    "http://127.0.0.1:8084",
)
NOW = 1_800_000_000.0

ours = CookieAffinity(secret=SECRET)


def request(cookie: str = "", scheme: str = "http") -> Facts:
    return Facts(headers=[(b"Cookie", cookie.encode("latin-1"))] if cookie else [], scheme=scheme)


def cookie_for(url: str, now: float = NOW, affinity: CookieAffinity = ours) -> str:
    header = affinity.answer(request(), url, [], now)
    assert header is not None
    return header[1].decode().partition(";")[0]


def served(cookie: str, members: Mapping[str, float], balanced: str = B) -> tuple[str, str | None]:
    """Who serves a request (`balanced`, if it is tied to nobody in `members`), and whom a new cookie is for."""
    facts = request(cookie)
    server = ours.tie(facts, members, NOW) or balanced
    header = ours.answer(facts, server, [], NOW)
    if header is None:
        return server, None
    again = request(header[1].decode().partition(";")[0])
    return server, ours.tie(again, dict.fromkeys((A, B, C, D), 1.0), NOW)


def caddy_cookie_not_reset(given: dict[str, Any], expected: dict[str, Any]) -> None:
    _, set_for = served(cookie_for(A), {A: 1.0, B: 1.0})
    assert (set_for is not None) == expected["set_cookie_again"]


def nginx_garbage_cookie(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(f"LBCLIENT={given['request_cookie']}", {A: 1.0, B: 1.0}) == (B, B)


def nginx_sticky_to_down(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(cookie_for(A), {B: 1.0}) == (B, B)


def nginx_drain_cookie_honoured(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(cookie_for(A), {A: 0.0, B: 1.0}) == (A, None)


def nginx_drain_no_new(given: dict[str, Any], expected: dict[str, Any]) -> None:
    urls = [A, B, C, D]
    pool = Pool(urls, algorithm="round_robin")
    pool.begin_drain(urls[given["draining"]])
    picked = [urls.index(pool.pick().backend.url) for _ in range(given["new_requests"])]
    turn = expected["sequence"].index(picked[0])  # ours starts anywhere
    assert picked == (expected["sequence"] * 2)[turn : turn + len(picked)]
    by_key = KeyAffinity("path")
    members = {url: 0.0 if index == given["draining"] else 1.0 for index, url in enumerate(urls)}
    assert {by_key.tie(Facts(target=b"/%d" % i), members, NOW) for i in range(100)} == {B, C, D}


def nginx_drain_only_server_left(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(cookie_for(A), {A: 0.0}) == (A, None)


def nginx_down_cookie_not_honoured(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(cookie_for(A), {B: 1.0})[0] == B


def nginx_route_backup_only_when_primaries_dead(given: dict[str, Any], expected: dict[str, Any]) -> None:
    backup = cookie_for(D)
    assert served(backup, {A: 1.0, B: 1.0}) == (B, B)  # the pool lists no priority that is not needed
    assert served(backup, {D: 1.0}) == (D, None)


def nginx_route_empty_key(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert KeyAffinity("header:x-route").tie(request(), {A: 1.0}, NOW) is None
    assert served("LBCLIENT=", {A: 1.0, B: 1.0}) == (B, B)


def nginx_learn_move_on_failure(given: dict[str, Any], expected: dict[str, Any]) -> None:
    app, facts = AppCookieAffinity(), request("JSESSIONID=s")
    app.answer(facts, A, [], NOW)
    app.answer(facts, B, [], NOW)  # A was tried and failed, B answered
    assert app.tie(facts, {A: 1.0, B: 1.0}, NOW) == B


def nginx_cookie_expires_max(given: dict[str, Any], expected: dict[str, Any]) -> None:
    affinity = CookieAffinity(secret=SECRET, max_age=expected["max_age"])
    header = affinity.answer(request(), A, [], NOW)
    assert header is not None
    assert f"Max-Age={expected['max_age']}".encode() in header[1].split(b"; ")
    kept = request(cookie_for(A, affinity=affinity))
    assert affinity.tie(kept, {A: 1.0}, NOW + expected["max_age"]) == A


def haproxy_insert_indirect(given: dict[str, Any], expected: dict[str, Any]) -> None:
    facts = request("a=1; LBCLIENT=s2")
    assert ours.strip is not None
    assert without_cookie(facts.headers, ours.strip) == [(b"Cookie", b"a=1")]
    assert served("LBCLIENT=s2", {A: 1.0, B: 1.0}, balanced=A) == (A, A)


def haproxy_weight_0_persistent(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(cookie_for(A), {A: 0.0, B: 1.0}) == (A, None)
    pool = Pool([A, B])
    pool.set_weight(A, given["weight"])
    assert {pool.pick().backend.url for _ in range(10)} == {B}


def haproxy_down_cookie_default(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(cookie_for(A), {B: 1.0})[0] == B


def haproxy_maxidle(given: dict[str, Any], expected: dict[str, Any]) -> None:
    affinity = CookieAffinity(secret=SECRET, max_age=given["maxidle_s"])
    for age, used in ((given["maxidle_s"], True), (given["cookie_age_s"], expected["cookie_used"])):
        aged = request(cookie_for(A, NOW - age, affinity))
        assert (affinity.tie(aged, {A: 1.0}, NOW) == A) == used
    app = AppCookieAffinity(ttl=given["maxidle_s"])
    app.answer(request("JSESSIONID=s"), A, [], NOW)
    assert app.tie(request("JSESSIONID=s"), {A: 1.0}, NOW + given["cookie_age_s"]) is None


def caddy_cookie_tls(given: dict[str, Any], expected: dict[str, Any]) -> None:
    affinity = CookieAffinity(secret=SECRET, samesite="none")  # Caddy's; ours is Lax unless told
    header = affinity.answer(request(scheme=given["request"]), A, [], NOW)
    assert header is not None
    assert (b"Secure" in header[1].split(b"; ")) == expected["secure"]
    assert f"SameSite={expected['same_site']}".encode() in header[1].split(b"; ")


def alb_durations(given: dict[str, Any], expected: dict[str, Any]) -> None:
    for duration in (expected["lb_cookie_s"]["min"], expected["lb_cookie_s"]["max"]):
        assert CookieAffinity(max_age=duration).max_age == duration
    for duration in (expected["app_cookie_s"]["min"], expected["app_cookie_s"]["max"]):
        assert AppCookieAffinity(ttl=duration).ttl == duration
    assert AppCookieAffinity().ttl == expected["app_cookie_s"]["default"]


def envoy_stateful_session_default(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert served(cookie_for(A), {B: 1.0}) == (B, B)


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
def test_sticky_sessions_of_other_balancers(case: dict[str, Any]) -> None:
    REPLAYS[case["id"]](case["input"], case["expect"])


def test_every_replay_has_its_case() -> None:
    assert set(REPLAYS).isdisjoint(SKIPPED)
    assert set(REPLAYS) | set(SKIPPED) == {case["id"] for case in CASES}
