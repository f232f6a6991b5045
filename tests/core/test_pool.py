"""The pool: picks and ends, membership, administration, what it says of itself."""

from __future__ import annotations

import logging
import math
import random
import ssl
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from lbclient import Backend, Connect, NoBackendAvailable, PassiveHealth, Pool
from lbclient.core.backend import BackendState
from lbclient.core.health import Admin
from tests.core.pools import A, B, C, eject, fail, make_pool, of, shares, succeed

# Picks and ends


def test_a_ticket_is_in_flight_from_the_pick_to_its_end() -> None:
    pool, _ = make_pool(A)
    ticket = pool.pick()
    assert ticket.backend == Backend(A)
    assert of(pool, A).in_flight == 1
    ticket.succeeded(0.02)
    status = of(pool, A)
    assert (status.in_flight, status.picks, status.successes, status.failures) == (0, 1, 1, 0)
    assert status.latency == 0.02


def test_every_end_after_the_first_is_ignored() -> None:
    pool, _ = make_pool(A)
    ticket = pool.pick()
    ticket.succeeded(0.02)
    ticket.failed("reset")
    ticket.answered(0.5, 500)
    ticket.release()
    status = of(pool, A)
    assert (status.in_flight, status.successes, status.failures, status.latency) == (0, 1, 0, 0.02)


def test_released_without_an_answer_says_nothing_of_the_backend() -> None:
    pool, _ = make_pool(A)
    pool.pick().release()
    status = of(pool, A)
    assert (status.in_flight, status.successes, status.failures, status.latency) == (0, 0, 0, None)


def test_released_after_an_answer_is_a_success() -> None:
    pool, _ = make_pool(A)
    ticket = pool.pick()
    ticket.answered(0.02)
    ticket.answered(0.5)
    assert of(pool, A).successes == 0
    ticket.release()
    assert of(pool, A).successes == 1
    assert of(pool, A).latency == 0.02


def test_cancelled_in_the_body_is_still_a_success() -> None:
    pool, _ = make_pool(A)
    ticket = pool.pick()
    ticket.answered(0.02)
    ticket.failed("cancelled")
    assert (of(pool, A).successes, of(pool, A).failures) == (1, 0)


def test_as_a_context_manager_a_ticket_ends_with_the_block() -> None:
    pool, clock = make_pool(A)
    with pool.pick():
        clock.advance(0.5)
    assert of(pool, A).latency == 0.5
    with pytest.raises(ConnectionResetError), pool.pick():
        raise ConnectionResetError
    assert of(pool, A).failures == 1
    with pytest.raises(KeyError), pool.pick():
        raise KeyError
    assert of(pool, A).failures == 1
    assert of(pool, A).in_flight == 0


def test_a_failure_of_an_unknown_kind_is_refused() -> None:
    pool, _ = make_pool(A)
    ticket = pool.pick()
    with pytest.raises(ValueError, match="kind is 'oops'; write one of connect, timeout, reset"):
        ticket.failed("oops")  # type: ignore[arg-type]
    assert repr(ticket) == "<Ticket http://a:1, in flight>"
    ticket.release()
    assert repr(ticket) == "<Ticket http://a:1, ended>"


def test_the_latency_is_an_average_of_the_good_answers() -> None:
    pool, _ = make_pool(A)
    pool.pick().succeeded(0.1)
    pool.pick().succeeded(0.2)
    pool.pick().succeeded(0.001, 500)
    assert of(pool, A).latency == pytest.approx(0.12)


def test_excluded_backends_are_not_picked() -> None:
    pool, _ = make_pool()
    assert {pool.pick(exclude=[A]).backend.url for _ in range(10)} == {B, C}
    with pytest.raises(NoBackendAvailable, match="http://a:1: already tried; http://b:1: already tried"):
        pool.pick(exclude=[A, B, C])


def test_a_doubtful_backend_that_was_not_tried_is_better_than_none() -> None:
    pool, _ = make_pool(A, B)
    eject(pool, A)
    assert pool.pick(exclude=[B]).backend.url == A


def test_fail_open_false_tries_no_doubtful_backend() -> None:
    pool, _ = make_pool(A, B, fail_open=False)
    eject(pool, A)
    with pytest.raises(NoBackendAvailable):
        pool.pick(exclude=[B])


def test_a_key_may_be_text() -> None:
    pool, _ = make_pool(algorithm="rendezvous")
    assert pool.pick("user-7").backend == pool.pick(b"user-7").backend


def test_max_in_flight_is_hard_also_when_failing_open() -> None:
    pool, _ = make_pool(A, B, max_in_flight=2)
    pool.report_probe(A, False)
    pool.report_probe(B, False)
    tickets = [pool.pick() for _ in range(4)]
    assert [status.in_flight for status in pool.status().backends] == [2, 2]
    with pytest.raises(NoBackendAvailable, match="2 in flight, the limit"):
        pool.pick()
    tickets[0].release()
    assert pool.pick().backend == tickets[0].backend


def test_a_full_backend_is_stepped_around() -> None:
    pool, _ = make_pool(algorithm="first", max_in_flight=1)
    assert [pool.pick().backend.url for _ in range(3)] == [A, B, C]


def test_why_nobody_is_left_is_not_told_at_any_length() -> None:
    pool, _ = make_pool(*(f"http://s{n}:1" for n in range(13)))
    for status in pool.status().backends:
        pool.disable(status.url)
    with pytest.raises(NoBackendAvailable, match=r"http://s9:1: disabled; and 3 more\)"):
        pool.pick()


# Membership


def test_joining_and_leaving() -> None:
    pool, _ = make_pool(A, B)
    pool.add(C)
    assert shares(pool) == {A: 100, B: 100, C: 100}
    pool.remove(A + "/")
    assert shares(pool) == {B: 150, C: 150}


def test_one_that_left_may_finish_what_it_has() -> None:
    pool, _ = make_pool(A, B)
    ticket = pool.pick(exclude=[B])
    pool.remove(A)
    ticket.succeeded(0.1)
    assert shares(pool) == {B: 300}


def test_an_update_keeps_the_numbers_and_the_health_of_those_that_stay() -> None:
    pool, _ = make_pool(A, B, C)
    held = pool.pick(exclude=[B, C])
    eject(pool, B)
    succeed(pool, C, 7)
    pool.update([Backend(C, weight=5, zone="eu"), Backend(B), "http://d:1", A])
    assert [status.url for status in pool.status().backends] == [C, B, "http://d:1", A]
    assert of(pool, A).in_flight == 1
    assert of(pool, B).ejected
    assert (of(pool, C).successes, of(pool, C).weight, of(pool, C).zone) == (7, 5, "eu")
    held.release()
    assert of(pool, A).in_flight == 0


@pytest.mark.parametrize("backends", [[], ["nonsense"], [B, B]])
def test_a_set_that_is_refused_leaves_the_old_one_serving(backends: list[str]) -> None:
    pool, _ = make_pool(Backend(A, weight=2), B)
    before = pool.status()
    with pytest.raises(ValueError):
        pool.update([Backend(A, weight=7), *backends] if backends else [])
    assert pool.status() == before


def test_one_on_standby_is_not_picked_until_it_is_enabled() -> None:
    pool, _ = make_pool(A, B)
    pool.add(C, standby=True)
    assert shares(pool)[C] == 0
    assert of(pool, C).admin == "standby"
    assert C in {backend.url for backend in pool.members()}
    pool.enable(C)
    assert shares(pool)[C] == 100


def test_several_changes_are_one_snapshot() -> None:
    pool, _ = make_pool()
    before = pool.status().generation
    pool.administer({A: Admin.DRAINING, B: Admin.DISABLED}, grace=5)
    assert pool.status().generation == before + 1
    assert shares(pool) == {A: 0, B: 0, C: 300}
    with pytest.raises(ValueError, match="is not in pool"):
        pool.administer({A: Admin.ACTIVE, "http://x": Admin.ACTIVE})
    assert of(pool, A).admin == "draining"


def test_the_end_of_the_last_request_of_a_draining_backend_is_told() -> None:
    pool, _ = make_pool()
    ticket = pool.pick(exclude=[B, C])
    pool.begin_drain(A)
    heard: list[int] = []
    pool.subscribe(lambda: heard.append(of(pool, A).in_flight))
    ticket.succeeded(0.1)
    assert heard == [0]


def test_membership_errors_say_what_is_wrong() -> None:
    pool, _ = make_pool(A, B)
    with pytest.raises(ValueError, match="http://a:1 is in pool 'default' already"):
        pool.add(A)
    with pytest.raises(
        ValueError, match="'http://x' is not in pool 'default'; it has http://a:1, http://b:1"
    ):
        pool.remove("http://x")
    pool.remove(A)
    with pytest.raises(ValueError, match="http://b:1 is the last backend of pool 'default'"):
        pool.remove(B)


# Administration


def test_a_draining_backend_gets_no_picks_and_is_disabled_after_the_grace() -> None:
    pool, clock = make_pool()
    pool.begin_drain(A, grace=10)
    assert shares(pool)[A] == 0
    assert of(pool, A).admin == "draining"
    clock.advance(10)
    assert of(pool, A).admin == "disabled"
    pool.enable(A)
    assert shares(pool)[A] == 100


def test_a_disabled_backend_is_not_probed_and_a_draining_one_is() -> None:
    pool, _ = make_pool()
    pool.begin_drain(A)
    pool.disable(B)
    assert [backend.url for backend in pool.members()] == [A, C]


def test_enabling_what_is_active_changes_nothing() -> None:
    pool, _ = make_pool()
    before = pool.status()
    pool.enable(A)
    assert pool.status() == before


def test_weights_can_be_changed_and_zero_takes_no_picks() -> None:
    pool, _ = make_pool(A, B, algorithm="weighted_round_robin")
    pool.set_weight(A, 3)
    assert shares(pool, 400) == {A: 300, B: 100}
    pool.set_weight(A, 0)
    assert shares(pool, 10) == {A: 0, B: 10}
    assert not of(pool, A).available
    with pytest.raises(ValueError, match="weight of http://a:1 is -1"):
        pool.set_weight(A, -1)


def test_weight_zero_is_not_picked_when_failing_open_either() -> None:
    pool, _ = make_pool(A, B)
    pool.set_weight(A, 0)
    pool.report_probe(B, False)
    assert shares(pool) == {A: 0, B: 300}
    pool.set_weight(B, 0)
    with pytest.raises(NoBackendAvailable, match="http://a:1: weight 0"):
        pool.pick()


def test_the_lowest_priority_number_with_somebody_available_is_used() -> None:
    pool, _ = make_pool(A, Backend(B, priority=1), Backend(C, priority=2))
    assert shares(pool) == {A: 300, B: 0, C: 0}
    pool.report_probe(A, False)
    assert shares(pool) == {A: 0, B: 300, C: 0}
    assert "priority 2 is not needed" in pool.skipped()[C]


def test_counters_survive_every_rebuild() -> None:
    pool, _ = make_pool()
    held = [pool.pick(exclude=[B, C]) for _ in range(5)]
    pool.set_weight(B, 2)
    pool.add("http://d:1")
    pool.disable(C)
    assert of(pool, A).in_flight == 5
    for ticket in held:
        ticket.release()
    assert of(pool, A).in_flight == 0


def test_a_change_that_changes_no_candidate_keeps_the_rotation_going() -> None:
    pool, _ = make_pool()
    first = [pool.pick().backend.url for _ in range(2)]
    pool.report_probe(A, True)
    third = pool.pick().backend.url
    assert {*first, third} == {A, B, C}


# What it says of itself


def test_generations_grow_only_when_who_may_be_picked_changes() -> None:
    pool, _ = make_pool()
    before = pool.status().generation
    succeed(pool, A, 10)
    pool.report_probe(A, True)
    assert pool.status().generation == before
    pool.disable(A)
    assert pool.status().generation == before + 1


def test_the_repr_tells_the_state() -> None:
    pool, _ = make_pool()
    assert repr(pool) == "<Pool 'default' round_robin, 3 of 3 pickable>"
    pool.disable(A)
    pool.report_probe(B, False)
    assert repr(pool) == "<Pool 'default' round_robin, 1 of 3 pickable>"
    pool.report_probe(C, False)
    assert repr(pool) == "<Pool 'default' round_robin, 2 of 3 pickable, panic>"


def test_listeners_hear_of_changes_after_they_happened_until_they_unsubscribe() -> None:
    pool, _ = make_pool()
    heard: list[str] = []
    stop = pool.subscribe(lambda: heard.append(of(pool, A).admin))
    pool.disable(A)
    stop()
    pool.enable(A)
    assert heard == ["disabled"]


def test_state_changes_are_logged_and_picks_are_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lbclient")
    pool, clock = make_pool()
    shares(pool)
    assert not caplog.records
    fail(pool, A, 5)
    assert "default: http://a:1 ejected for" in caplog.text
    assert "5 failures in a row, the last: status 500" in caplog.text
    clock.advance(40)
    fail(pool, A)
    assert "its trial failed: status 500" in caplog.text
    clock.advance(80)
    succeed(pool, A)
    assert "back in: its trial succeeded" in caplog.text
    for url in (A, B, C):
        pool.report_probe(url, False)
    assert "probe failing" in caplog.text
    assert "too few backends are available; picking among all, healthy or not" in caplog.text
    pool.report_probe(A, True)
    assert "probe passing, was failing" in caplog.text
    assert "enough backends are available again" in caplog.text


def test_what_time_brings_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lbclient")
    pool, clock = make_pool(A, B)
    pool.begin_drain(A, grace=5)
    heard: list[str] = []
    pool.subscribe(lambda: heard.append(of(pool, A).admin))
    clock.advance(5)
    pool.pick()
    assert heard == ["disabled"]
    assert "default: http://a:1 its time has come: disabled" in caplog.messages
    pool.enable(A)
    eject(pool, A)
    clock.advance(40)
    pool.status()
    assert "default: http://a:1 its time has come: half-open" in caplog.messages


def test_a_pool_whose_first_priority_does_not_carry_all_is_degraded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lbclient")
    pool, _ = make_pool(Backend(A), Backend(B, priority=1), Backend(C, priority=2), fail_open=False)

    def told() -> tuple[bool, str]:
        status = pool.status()
        return status.degraded, status.why

    assert told() == (False, "")
    pool.report_probe(A, False)
    words = "too few backends are available; priority 1 helps out"
    assert told() == (True, words)
    assert ("lbclient", logging.WARNING, f"default: {words}") in caplog.record_tuples
    pool.report_probe(B, False)
    assert told() == (True, "too few backends are available; priority 2 helps out")
    pool.report_probe(C, False)
    assert told() == (True, "nobody may be picked")
    pool.report_probe(A, True)
    assert told() == (False, "")
    assert caplog.messages[-1] == "default: enough backends are available again"
    caplog.clear()
    pool.set_weight(A, 2)
    assert caplog.messages == ["default: http://a:1 weight 2"], "told once"


def test_a_pool_that_ignores_health_is_degraded() -> None:
    pool, _ = make_pool(A, B)
    for url in (A, B):
        pool.report_probe(url, False)
    status = pool.status()
    assert (status.panic, status.degraded) == (True, True)
    assert status.why == "too few backends are available; picking among all, healthy or not"


def test_a_log_handler_that_uses_the_pool_does_not_deadlock() -> None:
    pool, _ = make_pool()
    seen = []

    class Nosy(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(pool.pick().backend.url)

    handler = Nosy()
    logger = logging.getLogger("lbclient")
    logger.addHandler(handler)
    try:
        fail(pool, A, 5)
    finally:
        logger.removeHandler(handler)
    assert seen


def test_the_same_seed_makes_the_same_choices() -> None:
    def run(seed: int) -> list[str]:
        pool, _ = make_pool(algorithm="random", rng=random.Random(seed))
        return [pool.pick().backend.url for _ in range(50)]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_threads_lose_no_count() -> None:
    pool = Pool([A, B, C], algorithm="least_connections")

    def work() -> None:
        for n in range(500):
            ticket = pool.pick()
            if n % 3:
                ticket.succeeded(0.01)
            else:
                ticket.failed("reset")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backends = pool.status().backends
    assert sum(status.picks for status in backends) == 4000
    assert sum(status.successes + status.failures for status in backends) == 4000
    assert all(status.in_flight == 0 for status in backends)


# Construction


class Last:
    """Somebody's own algorithm: nothing but `build`, and a picker that is nothing but `pick`."""

    def __init__(self, backends: Sequence[BackendState] = ()) -> None:
        self.backends = backends

    def build(self, backends: Sequence[BackendState], rng: random.Random) -> Last:
        return Last(backends)

    def pick(self, key: bytes | None) -> BackendState:
        return self.backends[-1]


def test_an_algorithm_of_ones_own() -> None:
    pool, _ = make_pool(algorithm=Last())
    assert pool.status().algorithm == "Last"
    assert [pool.pick().backend.url for _ in range(3)] == [C, C, C]
    assert pool.pick(exclude=[C]).backend.url == B
    fail(pool, C, 5)
    assert pool.pick().backend.url == B


def test_large_pools_do_without_the_loads_in_the_record() -> None:
    pool, _ = make_pool(*(f"http://s{n}:1" for n in range(17)))
    assert pool.pick().loads is None


@pytest.mark.parametrize(
    ("backends", "options", "error", "message"),
    [
        (
            [],
            {},
            ValueError,
            "pool 'default' has no backends; write at least one, like 'http://10.0.0.5:8080'",
        ),
        (A, {}, TypeError, "backends is 'http://a:1'; write a list"),
        (Backend(A), {}, TypeError, "write a list of URLs or Backends"),
        (A.encode(), {}, TypeError, "backends is b'http://a:1'; write a list of URLs or Backends"),
        ([A, B, A + "/"], {}, ValueError, "pool 'default' has http://a:1 more than once"),
        ([A], {"algorithm": "fastest"}, ValueError, "round_robin"),
        ([A], {"algorithm": Last}, TypeError, "write a name such as 'round_robin', or an object with build"),
        ([A], {"algorithm": 7}, TypeError, "algorithm is 7"),
        (
            [A],
            {"probe": "/health"},
            TypeError,
            r"probe is '/health'; write HttpProbe\(...\) or TcpProbe\(...\), or None",
        ),
        ([A], {"passive": True}, TypeError, r"passive is True; write PassiveHealth\(...\), or None"),
        ([A], {"connect": {}}, TypeError, r"connect is {}; write Connect\(...\), or None"),
        (None, {}, TypeError, "backends is None; write a list of URLs or Backends"),
        ({A: 3}, {}, TypeError, r"backends is {.*: 3}; write a list of Backend\(url, weight=...\)"),
        ([A], {"name": ""}, ValueError, "name is ''; write one, like 'orders'"),
        ([A], {"name": 3}, TypeError, "name is 3; write a string, like 'orders'"),
        ([A], {"clock": None}, TypeError, "clock is None; write a function such as time.monotonic"),
        ([A], {"rng": 7}, TypeError, r"rng is 7; write random.Random\(...\), or None"),
        ([A], {"slow_start": -1}, ValueError, "slow_start is -1; write a number of 0 or more"),
        ([A], {"panic_threshold": 50}, ValueError, "panic_threshold is 50; write a number from 0 to 1"),
        ([A], {"panic_threshold": 0.5, "fail_open": False}, ValueError, "leave one of them out"),
        ([A], {"max_in_flight": 0}, ValueError, "max_in_flight is 0; write a whole number of 1 or more"),
    ],
)
def test_bad_input_is_refused_with_what_to_write(
    backends: object, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Pool(backends, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"http1": False}, ValueError, "http1 and http2 are both False"),
        ({"max_connections": 0}, ValueError, "max_connections is 0; write a whole number of 1 or more"),
        ({"max_connections": "9"}, TypeError, "max_connections is '9'; write a whole number"),
        ({"max_idle": -1}, ValueError, "max_idle is -1"),
        ({"keepalive_expiry": -1}, ValueError, "keepalive_expiry is -1"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout is 0; write a number above 0"),
        ({"connect_timeout": None}, TypeError, "connect_timeout is None; write a number above 0"),
        ({"verify": None}, TypeError, "verify is None; write True, False, the path of a CA bundle"),
        ({"verify": 0}, TypeError, "verify is 0; write True, False"),
        ({"cert": 3}, TypeError, r"cert is no certificate but a int; write a file, or \(certificate, key\)"),
        ({"cert": ["a", "b"]}, TypeError, r"cert is no certificate but a list; write a file"),
        ({"local_address": 3}, TypeError, "local_address is 3; write an address"),
        ({"socket_options": 3}, TypeError, "socket_options is 3; write a list of what setsockopt takes"),
        ({"socket_options": "123"}, TypeError, "socket_options is '123'; write a list"),
        ({"socket_options": [(1, 9)]}, TypeError, r"socket_options has \(1, 9\); write a list"),
        ({"engine": "warp"}, ValueError, "engine is 'warp'; write one of auto, native, httpcore"),
        ({"engine": "native", "http2": True}, ValueError, "'native', which speaks HTTP/1.1 only"),
    ],
)
def test_connection_options_out_of_range_are_refused(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Connect(**options)  # type: ignore[arg-type]


def test_no_limits_are_limits_too() -> None:
    connect = Connect(max_connections=None, max_idle=None, keepalive_expiry=None)
    assert connect.max_connections is None


def test_a_tls_context_and_certificates_are_taken_as_they_are() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert Connect(verify=context).verify is context
    assert Connect(verify="ca.pem", cert=("a", "b")).cert == ("a", "b")
    assert "secret" not in repr(Connect(cert=("a", "b", "secret")))
    assert Connect(socket_options=[(1, 9, 1)]).socket_options == [(1, 9, 1)]


def test_excluded_is_whoever_is_meant() -> None:
    pool, _ = make_pool(A, B)
    for exclude in ([A], {A}, (A + "/",), {A: 1}):
        assert [pool.pick(exclude=exclude).backend.url for _ in range(2)] == [B, B]
    for one in (A, (url for url in [A])):
        with pytest.raises(TypeError, match=r"write a collection of URLs, like"):
            pool.pick(exclude=one)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="url is Backend"):
        pool.pick(exclude=[Backend(A)])  # type: ignore[list-item]


@pytest.mark.parametrize("method", ["remove", "disable", "enable", "begin_drain"])
def test_a_backend_is_named_by_its_url(method: str) -> None:
    pool, _ = make_pool(A, B)
    getattr(pool, method)(A + "/")
    for wrong in (None, Backend(B)):
        with pytest.raises(TypeError, match=r"write the URL of a backend, like"):
            getattr(pool, method)(wrong)


def test_a_verdict_is_true_or_false() -> None:
    pool, _ = make_pool(A)
    with pytest.raises(TypeError, match="passed is 'false'; write True or False"):
        pool.report_probe(A, "false")  # type: ignore[arg-type]


@pytest.mark.parametrize("latency", [-0.1, float("nan"), float("inf")])
def test_a_latency_is_finite_and_not_negative(latency: float) -> None:
    pool, _ = make_pool(A)
    ticket = pool.pick()
    with pytest.raises(ValueError, match="write seconds, a finite number >= 0"):
        ticket.succeeded(latency)
    with pytest.raises(ValueError, match="write seconds, a finite number >= 0"):
        ticket.failed("timeout", latency)
    ticket.failed("timeout", 0.0)
    assert of(pool, A).failures == 1


def test_an_algorithm_is_asked_under_the_lock_and_needs_none_of_its_own() -> None:
    locked: list[bool] = []

    class Watching:
        def build(self, backends: Sequence[BackendState], rng: random.Random) -> Watching:
            self.backends = backends
            return self

        def pick(self, key: bytes | None) -> BackendState:
            locked.append(pool._lock.locked())
            return self.backends[0]

        def started(self, state: BackendState) -> None:
            locked.append(pool._lock.locked())

        ended = started

        def observed(self, state: BackendState, latency: float, failed: bool, now: float) -> None:
            locked.append(pool._lock.locked())

    pool, _ = make_pool(A, B, algorithm=Watching())
    pool.pick().succeeded(0.01)
    pool.pick(exclude=[B]).failed("reset")
    assert len(locked) >= 8
    assert all(locked)
    assert not pool._lock.locked()


# Leaving and returning


def test_whoever_returns_with_requests_in_flight_is_as_busy_as_it_was() -> None:
    pool, _ = make_pool(A, B, max_in_flight=1, algorithm="least_connections")
    before = pool.pick(exclude=[B])
    pool.remove(A)
    pool.add(A)
    assert of(pool, A).in_flight == 1
    assert pool.pick().backend.url == B
    with pytest.raises(NoBackendAvailable, match=r"http://a:1: 1 in flight, the limit"):
        pool.pick()
    before.succeeded(0.01)
    assert of(pool, A).in_flight == 0
    assert pool.pick().backend.url == A


def test_whoever_returns_starts_with_a_clean_health_that_old_requests_do_not_soil() -> None:
    pool, _ = make_pool(A, B, passive=PassiveHealth(consecutive_failures=1))
    old = [pool.pick(exclude=[B]) for _ in range(2)]
    pool.report_probe(A, False)
    pool.disable(A)
    pool.update([B])
    pool.update([A, B])
    assert of(pool, A).why == "available"
    for ticket in old:
        ticket.failed("reset")
    assert of(pool, A).why == "available"
    assert of(pool, A).in_flight == 0


def test_whoever_returns_with_nothing_in_flight_is_new() -> None:
    pool, _ = make_pool(A, B)
    ticket = pool.pick(exclude=[B])
    pool.remove(A)
    ticket.succeeded(0.01)
    pool.add(A)
    assert (of(pool, A).picks, of(pool, A).in_flight) == (0, 0)


@pytest.mark.parametrize("tied", [True, False])
def test_what_time_has_changed_is_told_also_by_a_pick_that_finds_nobody(tied: bool) -> None:
    pool, clock = make_pool(A, B, panic_threshold=1.0, max_in_flight=2)
    eject(pool, A)
    for _ in range(2):
        pool.pick(exclude=[A])
    assert pool.status().panic
    heard: list[bool] = []
    pool.subscribe(lambda: heard.append(pool.status().panic))
    clock.advance(40)
    if tied:
        assert pool.pick_tied(B) is None
    else:
        with pytest.raises(NoBackendAvailable):
            pool.pick(exclude=[A])
    assert heard == [False]


@pytest.mark.parametrize("latency", ["0.1", timedelta(seconds=1), math.inf, -1])
def test_a_latency_is_in_seconds(latency: Any) -> None:
    pool, _ = make_pool(A)
    words = r"^latency is .*; write seconds, a finite number >= 0$"
    with pytest.raises((TypeError, ValueError), match=words):
        pool.pick().succeeded(latency)
    with pytest.raises((TypeError, ValueError), match=words):
        pool.pick().failed("reset", latency)
    with pytest.raises(TypeError, match="status is '200'; write a number, like 200"):
        pool.pick().succeeded(0.1, "200")  # type: ignore[arg-type]


def test_a_ticket_is_in_flight_until_it_ends_also_when_nobody_holds_it() -> None:
    pool, _ = make_pool(A, max_in_flight=2)
    for _ in range(2):
        pool.pick()
    with pytest.raises(NoBackendAvailable):
        pool.pick()
    assert of(pool, A).in_flight == 2
