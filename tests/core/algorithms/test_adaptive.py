"""Adaptive through the real pool, on a clock that the test moves."""

import math
import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import pytest
from tenacity import stop_after_attempt

from lbclient import Backend, CookieAffinity, Facts, HttpProbe, PassiveHealth, Pool, Retry
from lbclient.algorithms import Adaptive, Shadow
from lbclient.core.algorithms.adaptive import SPARED
from lbclient.core.algorithms.fading import Estimate
from lbclient.core.algorithms.picker import Again, Avoided
from lbclient.core.ticket import Ticket
from lbclient.testing import FakeClock
from tests.core.pools import A, B, C, estimate_of, make_pool, of, others

Latency = Callable[[str, random.Random], float]


def pool_of(
    *backends: str | Backend, seed: int = 3, algorithm: Any = "adaptive", **options: Any
) -> tuple[Pool, FakeClock]:
    return make_pool(*backends, rng=random.Random(seed), algorithm=algorithm, **options)


def one_by_one(
    pool: Pool,
    clock: FakeClock,
    requests: int,
    latency: Latency,
    *,
    pause: float = 0.0,
    down: Callable[[str], bool] = lambda url: False,
    again: Again | None = None,
    seed: int = 5,
) -> Counter[str]:
    """Sequential requests: nothing is in flight when a pick is made."""
    rng = random.Random(seed)
    served: Counter[str] = Counter()
    for _ in range(requests):
        tried: list[str] = []
        while True:
            ticket = pool.pick(exclude=tried, again=again)
            url = ticket.backend.url
            if down(url):
                ticket.failed("connect", 0.0005)
                tried.append(url)
                continue
            seconds = latency(url, rng)
            clock.advance(seconds)
            ticket.succeeded(seconds)
            served[url] += 1
            break
        clock.advance(pause)
    return served


def busily(
    pool: Pool, clock: FakeClock, requests: int, every: float, serve: Callable[[str], tuple[float, int]]
) -> Counter[str]:
    """Requests at a steady rate, whatever is still in flight."""
    waiting: list[tuple[float, int, Ticket, float, int]] = []
    picked: Counter[str] = Counter()
    for number in range(requests):
        while waiting and waiting[0][0] <= clock():
            _, _, ticket, seconds, status = heappop(waiting)
            ticket.succeeded(seconds, status)
        ticket = pool.pick()
        picked[ticket.backend.url] += 1
        seconds, status = serve(ticket.backend.url)
        heappush(waiting, (clock() + seconds, number, ticket, seconds, status))
        clock.advance(every)
    for _, _, ticket, _, _ in waiting:
        ticket.release()
    return picked


def alike(url: str, rng: random.Random) -> float:
    return 0.002 * (1 + 0.3 * rng.random())


def test_it_is_the_default_and_ejects_nobody_unasked() -> None:
    pool = Pool([A, B])
    assert isinstance(pool.algorithm, Adaptive)
    assert pool.passive is None
    assert Pool([A], algorithm=Adaptive()).passive is None
    assert Pool([A], algorithm="round_robin").passive == PassiveHealth()
    assert Pool([A], algorithm="round_robin", passive=None).passive is None
    asked = PassiveHealth(consecutive_failures=2)
    assert Pool([A], passive=asked).passive is asked


def test_passive_health_that_was_asked_for_ejects() -> None:
    pool, _ = pool_of(passive=PassiveHealth(consecutive_failures=2))
    for _ in range(2):
        pool.pick(exclude=others(pool, A)).succeeded(0.01, 500)
    assert of(pool, A).ejected


# Traffic without concurrency


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "latency",
    [
        lambda url, rng: 0.001,
        alike,
        lambda url, rng: 0.001 * (1 + (A, B, C).index(url) / 20),
        lambda url, rng: 0.001 * rng.lognormvariate(0, 0.3),
    ],
    ids=["constant", "alike", "5 % apart", "noisy"],
)
def test_three_hundred_requests_one_after_the_other_spread_over_equal_backends(
    latency: Latency, seed: int
) -> None:
    pool, clock = pool_of(seed=seed)
    served = one_by_one(pool, clock, 300, latency, seed=seed)
    assert min(served[url] for url in (A, B, C)) > 33, served


@pytest.mark.parametrize("seed", range(5))
def test_the_first_answers_may_be_slow_without_starving_anybody(seed: int) -> None:
    pool, clock = pool_of(seed=seed)
    seen: Counter[str] = Counter()

    def latency(url: str, rng: random.Random) -> float:
        seen[url] += 1
        return 0.02 if seen[url] <= 1 else 0.001 * (1 + 0.2 * rng.random())

    served = one_by_one(pool, clock, 300, latency, seed=seed)
    assert min(served[url] for url in (A, B, C)) > 33, served


@pytest.mark.parametrize("again", [None, lambda: False], ids=["again", "once"])
@pytest.mark.parametrize("rate", [5.0, 50.0])
@pytest.mark.parametrize("seed", range(10))
def test_who_comes_back_after_a_restart_gets_traffic_within_fifteen_seconds(
    seed: int, rate: float, again: Again | None
) -> None:
    pool, clock = pool_of(seed=seed)
    options: dict[str, Any] = {"pause": 1 / rate, "seed": seed, "again": again}
    one_by_one(pool, clock, int(20 * rate), alike, **options)
    down = one_by_one(pool, clock, int(20 * rate), alike, down=A.__eq__, **options)
    assert down[A] == 0
    back = one_by_one(pool, clock, int(15 * rate), alike, **options)
    assert back[A] > 0
    assert one_by_one(pool, clock, int(20 * rate), alike, **options)[A] > 20 * rate / 9


@pytest.mark.parametrize("seed", range(5))
def test_a_backend_four_times_as_fast_gets_most(seed: int) -> None:
    pool, clock = pool_of(seed=seed)
    served = one_by_one(
        pool, clock, 300, lambda url, rng: (0.001 if url == A else 0.004) * (1 + 0.2 * rng.random())
    )
    assert served[A] > 200
    assert min(served[B], served[C]) > 2  # and the others are looked at now and then


# Failures


def test_a_failure_is_a_slow_answer() -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 60, alike)
    served = busily(pool, clock, 4000, 0.002, lambda url: (0.0005, 500) if url == A else (0.01, 200))
    assert served[A] < 8


def test_a_charge_is_forgotten_after_some_seconds_and_the_next_request_tries() -> None:
    pool, clock = pool_of(A, B)
    one_by_one(pool, clock, 20, alike, pause=0.1)
    pool.pick(exclude=[B]).succeeded(0.001, 503)
    assert one_by_one(pool, clock, 25, alike, pause=0.1)[A] == 0
    assert one_by_one(pool, clock, 150, alike, pause=0.1)[A] > 10


def failing(pool: Pool, clock: FakeClock, requests: int, every: float, *urls: str) -> Counter[str]:
    """Requests that overlap, of which those to `urls` fail."""
    rng = random.Random(9)
    return busily(
        pool, clock, requests, every, lambda url: (0.001, 500) if url in urls else (rng.expovariate(200), 200)
    )


def test_a_client_with_many_requests_tries_again_after_some_hundred_of_them() -> None:
    pool, clock = pool_of()
    failing(pool, clock, 1000, 0.001)
    lost = failing(pool, clock, 6000, 0.001, A)[A]  # six seconds: its charge has not faded
    assert 5 <= lost <= 20
    back = failing(pool, clock, 4000, 0.001)
    assert back[A] > 400


def test_trials_are_one_per_650_picks_however_many_fail() -> None:
    pool, clock = pool_of(*(f"http://h{n}:1" for n in range(10)))
    failing(pool, clock, 1000, 0.001)
    bad = [f"http://h{n}:1" for n in range(5)]
    first = failing(pool, clock, 1000, 0.0002, *bad)
    served = failing(pool, clock, 20_000, 0.0002, *bad)
    assert sum(first[url] for url in bad) < 60
    assert 10 <= sum(served[url] for url in bad) <= 31
    assert min(failing(pool, clock, 20_000, 0.0002)[url] for url in bad) > 500


def test_an_answer_to_what_began_before_a_failure_says_nothing_about_now() -> None:
    pool, clock = pool_of()
    failing(pool, clock, 1000, 0.001)
    before = pool.pick(exclude=[B, C])
    clock.advance(0.01)
    pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    estimate = estimate_of(pool, A)
    clock.advance(0.01)
    before.succeeded(0.02)
    assert estimate.in_a_row == 1
    after = pool.pick(exclude=[B, C])
    clock.advance(0.01)
    after.succeeded(0.01)
    assert estimate.in_a_row == 0


@pytest.mark.parametrize(("failures", "tried"), [(20, False), (600, True)])
def test_who_has_answered_since_is_tried_only_if_most_has_failed(failures: int, tried: bool) -> None:
    pool, clock = pool_of()
    failing(pool, clock, 1000, 0.001)
    for _ in range(failures):
        pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    answered = pool.pick(exclude=[B, C])
    clock.advance(0.01)
    answered.succeeded(0.01)
    estimate_of(pool, A).trial = 0.0
    assert (failing(pool, clock, 100, 0.001)[A] > 0) is tried


def test_one_answer_is_enough_when_a_charge_has_faded() -> None:
    pool, clock = pool_of()
    pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    clock.advance(8.0)
    pool.pick(exclude=[B, C]).succeeded(0.02)
    assert estimate_of(pool, A).charged == 0


def test_a_retry_is_no_trial() -> None:
    pool, clock = pool_of()
    failing(pool, clock, 1000, 0.001)
    for _ in range(20):
        pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    estimate_of(pool, A).trial = 0.0
    assert pool.pick(exclude=[B]).backend.url == C
    assert pool.pick().backend.url == A


def due_for_a_trial(*backends: str | Backend, **options: Any) -> tuple[Pool, FakeClock]:
    """A has failed, and the next request would try it."""
    pool, clock = pool_of(*backends, **options)
    failing(pool, clock, 1000, 0.001)
    for _ in range(20):
        pool.pick(exclude=others(pool, A)).succeeded(0.001, 500)
    estimate_of(pool, A).trial = 0.0
    return pool, clock


def first_of(pool: Pool, clock: FakeClock, method: str, seconds: float = 0.005, status: int = 200) -> str:
    """Whom a request with this method is sent to."""
    ticket = pool.attempts(Facts(method)).first()
    clock.advance(seconds)
    ticket.succeeded(seconds, status)
    return ticket.backend.url


@pytest.mark.parametrize("beside", ["", "round_robin", "peak_ewma"])
def test_a_trial_is_left_to_a_request_that_would_be_sent_again(beside: str) -> None:
    pool, clock = due_for_a_trial(algorithm=Shadow("adaptive", beside=beside) if beside else "adaptive")
    for _ in range(50):
        assert first_of(pool, clock, "POST") != A
    assert first_of(pool, clock, "GET") == A
    assert A not in {first_of(pool, clock, "POST") for _ in range(50)}  # one answer is no proof
    gets = Counter(first_of(pool, clock, "GET") for _ in range(90))
    assert gets[A] >= 20
    assert A in {first_of(pool, clock, "POST") for _ in range(50)}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("retry", [None, Retry(stop=stop_after_attempt(1))])
def test_without_retries_any_request_is_a_trial(method: str, retry: Retry | None) -> None:
    pool, clock = due_for_a_trial(retry=retry)
    assert first_of(pool, clock, method) == A


def test_a_trial_of_another_priority_is_left_as_well() -> None:
    pool, clock = due_for_a_trial(A, B, C, Backend("http://d:1", priority=1))
    pool.report_probe(C, False)  # the first priority is short: the second one helps out
    posts = {first_of(pool, clock, "POST") for _ in range(40)}
    assert posts == {B, "http://d:1"}
    assert A in {first_of(pool, clock, "GET") for _ in range(10)}


@pytest.mark.parametrize("every", [0.2, 0.01])
def test_whoever_has_only_requests_that_are_sent_once_waits_until_a_charge_has_faded(every: float) -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 300, alike)
    for _ in range(4):
        pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    failed = clock()
    while first_of(pool, clock, "POST", 0.001) != A:
        clock.advance(every)
    assert 8 < clock() - failed < 18  # the four of them are charged ten times what one is
    served = Counter(first_of(pool, clock, "POST", 0.001) for _ in range(90))
    assert served[A] > 10


def test_who_has_failed_long_ago_is_left_to_a_request_that_would_be_sent_again() -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 300, alike)
    pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    clock.advance(20)  # nobody has been asked since, so the charge is all that differs
    plans = [pool.attempts(Facts("POST")) for _ in range(3)]
    posts = [plan.first() for plan in plans]
    assert A not in {ticket.backend.url for ticket in posts}
    assert {ticket.reason for ticket in posts} == {None, SPARED}
    for ticket, plan in zip(posts, plans, strict=True):
        plan.observe(ticket, outcome())
        if ticket.reason:
            assert record_of(plan).attempts[0].reason == SPARED
        ticket.release()
    assert first_of(pool, clock, "GET", 0.001) == A
    clock.advance(1.0)  # nobody came to make sure
    assert A in {first_of(pool, clock, "POST", 0.001) for _ in range(10)}


def test_where_everybody_has_failed_nobody_is_spared() -> None:
    pool, clock = pool_of()
    for url in (A, B, C):
        for _ in range(3):
            pool.pick(exclude=others(pool, url)).succeeded(0.001, 500)
    assert {first_of(pool, clock, "POST", 0.001, 500) for _ in range(9)} == {A, B, C}
    alone, clock = pool_of(A)
    alone.pick().succeeded(0.001, 500)
    assert first_of(alone, clock, "POST") == A


def test_a_failure_that_took_long_is_tried_again_more_seldom() -> None:
    pool, clock = pool_of()
    failing(pool, clock, 1000, 0.001)
    for _ in range(20):
        pool.pick(exclude=[B, C]).succeeded(1.0, 500)
    assert failing(pool, clock, 3000, 0.001)[A] == 0


def test_a_trial_of_a_light_backend_needs_nobody_else() -> None:
    pool, clock = pool_of(Backend(A, weight=1), Backend(B, weight=2), Backend(C, weight=2))
    failing(pool, clock, 1000, 0.001)
    assert 2 <= failing(pool, clock, 6000, 0.001, A)[A] <= 15
    assert failing(pool, clock, 4000, 0.001)[A] > 200


def test_background_errors_everywhere_change_nothing() -> None:
    rng = random.Random(1)
    pool, clock = pool_of()
    served = busily(pool, clock, 6000, 0.004, lambda url: (0.01, 500 if rng.random() < 0.05 else 200))
    assert min(served.values()) > 1000


def test_when_all_fail_somebody_is_picked_all_the_same() -> None:
    pool, clock = pool_of()
    served = busily(pool, clock, 300, 0.01, lambda url: (0.001, 500))
    assert min(served.values()) > 50


def test_failures_before_the_first_answer_are_charged() -> None:
    pool, clock = pool_of(A, B)
    pool.pick(exclude=[B]).failed("connect", 0.001)
    assert one_by_one(pool, clock, 20, alike)[A] == 0


def test_too_many_requests_is_no_failure_and_attracts_nobody() -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 60, alike)
    served = busily(pool, clock, 2000, 0.005, lambda url: (0.0005, 429) if url == A else (0.01, 200))
    assert served[A] < 200
    assert of(pool, A).failures == 0


def test_a_hang_shows_before_it_ends() -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 60, alike)
    hung = pool.pick(exclude=[B, C])
    clock.advance(3)
    assert one_by_one(pool, clock, 100, alike)[A] == 0
    assert of(pool, A).avoided
    assert "a request has been waiting for 3." in of(pool, A).why
    hung.release()


def test_a_body_that_takes_long_is_no_hang() -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 60, alike)
    downloads = [pool.pick(exclude=others(pool, url)) for url in (A, B, C)]
    for download in downloads:
        download.answered(0.002)
    clock.advance(3)
    assert not of(pool, A).avoided
    assert one_by_one(pool, clock, 100, alike)[A] > 2


# What a person sees


def test_the_status_says_who_is_avoided_and_why() -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 60, alike)
    assert not any(backend.avoided for backend in pool.status().backends)
    for _ in range(20):
        pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    one_by_one(pool, clock, 10, lambda url, rng: 0.012 if url == B else 0.002)
    for _ in range(20):
        pool.pick(exclude=[A, B]).succeeded(0.001)
        pool.pick(exclude=[A, C]).succeeded(0.030)
    failing, slow, good = pool.status().backends
    assert failing.avoided
    assert failing.available
    assert failing.why.startswith("available, but avoided: ")
    assert failing.why.endswith("% of its latest requests failed")
    assert slow.avoided
    assert "the pool" in slow.why
    assert (good.avoided, good.why) == (False, "available")


@pytest.mark.parametrize("status", [200, 500])
def test_a_status_of_many_looks_at_each_a_few_times(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    urls = [f"http://10.0.0.{number}:80" for number in range(200)]
    pool, clock = pool_of(*urls)
    for url in urls:
        pool.pick(exclude=[other for other in urls if other != url]).succeeded(0.01, status)
    clock.advance(0.1)
    looks = 0
    expected = Estimate.expected

    def counted(*arguments: Any) -> float:
        nonlocal looks
        looks += 1
        return expected(*arguments)

    monkeypatch.setattr(Estimate, "expected", counted)
    pool.status()
    assert len(urls) <= looks <= 3 * len(urls)


def test_whoever_is_out_is_not_avoided_as_well() -> None:
    pool, clock = pool_of(probe=HttpProbe("/"))
    one_by_one(pool, clock, 60, alike)
    for _ in range(20):
        pool.pick(exclude=[B, C]).succeeded(0.001, 500)
    assert of(pool, A).avoided
    pool.report_probe(A, False)
    assert (of(pool, A).avoided, of(pool, A).why) == (False, "failing its probe")


def test_one_backend_alone_is_not_avoided() -> None:
    pool, _ = pool_of(A)
    pool.pick().succeeded(0.001, 500)
    assert not of(pool, A).avoided


def test_the_record_says_what_was_compared() -> None:
    pool, clock = pool_of()
    one_by_one(pool, clock, 60, alike)
    plan = pool.attempts(Facts())
    ticket = plan.first()
    ticket.succeeded(0.002)
    plan.observe(ticket, outcome())
    record = record_of(plan)
    (attempt,) = record.attempts
    costs = [cost for cost in attempt.costs if cost is not None]
    assert len(costs) == 3
    assert min(costs) == attempt.costs[attempt.candidates.index(attempt.backend)]
    assert "least expected time" in attempt.reason
    assert f"expected: {A} " in record.explain()
    assert record.as_dict()["attempts"][0]["costs"] == attempt.costs


def test_the_record_of_a_trial_says_that_it_is_one() -> None:
    pool, _ = due_for_a_trial()
    estimate = estimate_of(pool, A)
    reasons: list[str] = []
    for due in (math.inf, 0.0, math.inf):
        estimate.trial = due
        plan = pool.attempts(Facts())
        plan.observe(plan.first(), outcome())
        (attempt,) = record_of(plan).attempts
        reasons.append(attempt.reason)
        assert (attempt.backend == A) is (due == 0)
        assert max(cost or 0 for cost in attempt.costs) == attempt.costs[attempt.candidates.index(A)]
    assert reasons[1] == "it has failed: the one request that tries it again"
    assert "least expected time" in reasons[0]
    assert reasons[2] == reasons[0]


def test_the_record_of_a_retry_compares_those_that_were_left() -> None:
    pool, _ = pool_of()
    plan = pool.attempts(Facts())
    first = plan.first()
    first.failed("connect", 0.001)
    plan.observe(first, outcome(refused=True))
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    plan.observe(step.ticket, outcome())
    _, second = record_of(plan).attempts
    assert first.backend.url not in second.candidates
    assert len(second.costs) == 2


def test_who_was_not_picked_by_costs_is_not_explained_by_them() -> None:
    pool, _ = pool_of(A, Backend(B, priority=1))
    plan = pool.attempts(Facts())
    first = plan.first()
    first.failed("connect", 0.001)
    plan.observe(first, outcome(refused=True))
    step = plan.another(replayable=True)
    assert step is not None
    assert step.ticket is not None
    assert step.ticket.backend.url == B
    plan.observe(step.ticket, outcome())
    assert record_of(plan).attempts[1].costs == ()


def test_who_took_no_part_is_told_so() -> None:
    pool, _ = pool_of(A, Backend(B, weight=0.001))
    plan = pool.attempts(Facts())
    ticket = plan.first()
    plan.observe(ticket, outcome())
    assert f"{B} took no part" in record_of(plan).explain()


def outcome(*, refused: bool = False) -> Any:
    from lbclient.core.outcome import Ending, Outcome

    return Outcome(Ending.UNREACHABLE, unsent=True) if refused else Outcome(status=200)


def record_of(plan: Any) -> Any:
    from lbclient import Record

    return Record(plan)


# The rest of a pool


def test_retry_after_is_honoured_though_nobody_is_ejected_by_failures() -> None:
    pool, clock = pool_of()
    ticket = pool.pick(exclude=[B, C])
    ticket.answered(0.001, 503, retry_after=20.0)
    ticket.release()
    assert of(pool, A).ejected_for == 20
    assert one_by_one(pool, clock, 50, alike)[A] == 0
    clock.advance(20)
    assert of(pool, A).available
    assert one_by_one(pool, clock, 50, alike)[A] > 0


def test_retry_after_is_not_honoured_when_passive_health_was_turned_off() -> None:
    pool, _ = pool_of(passive=None)
    ticket = pool.pick(exclude=[B, C])
    ticket.answered(0.001, 503, retry_after=20.0)
    assert not of(pool, A).ejected


def test_a_drain_a_failing_probe_and_a_full_backend_are_stepped_around() -> None:
    pool, clock = pool_of(max_in_flight=1)
    pool.begin_drain(A)
    assert one_by_one(pool, clock, 20, alike)[A] == 0
    pool.enable(A)
    pool.report_probe(A, False)
    assert one_by_one(pool, clock, 20, alike)[A] == 0
    pool.report_probe(A, True)
    held = pool.pick(exclude=[B, C])
    assert one_by_one(pool, clock, 20, alike)[A] == 0
    held.release()
    assert one_by_one(pool, clock, 100, alike)[A] > 0


def test_a_client_is_not_kept_at_a_backend_that_fails() -> None:
    pool, clock = pool_of(affinity=CookieAffinity(secret="s" * 32))
    one_by_one(pool, clock, 30, alike)
    for _ in range(3):
        tied = pool.pick_tied(A)
        assert tied is not None
        clock.advance(2)
        tied.succeeded(0.001, 500)
    assert pool.pick_tied(A) is None
    assert pool.pick_tied(B) is not None


def test_a_client_stays_at_a_backend_that_is_only_slow() -> None:
    pool, clock = pool_of(affinity=CookieAffinity(secret="s" * 32))
    one_by_one(pool, clock, 60, lambda url, rng: 0.02 if url == A else 0.001)
    pool.pick(exclude=[B, C]).succeeded(0.02)
    pool.pick(exclude=[B, C]).succeeded(0.02)
    assert of(pool, A).avoided
    assert pool.pick_tied(A) is not None


@pytest.mark.parametrize("every", [0.5, 0.02, 0.002], ids=["idle", "sparse", "busy"])
@pytest.mark.parametrize("weights", [(1, 20), (1, 4), (0.1, 1)])
def test_a_light_backend_gets_half_to_twice_its_share(weights: tuple[float, float], every: float) -> None:
    light, heavy = weights
    rng = random.Random(4)
    backends = [Backend(f"http://h{n}:1", weight=heavy) for n in range(20)]
    pool, clock = pool_of(Backend(A, weight=light), *backends)
    served = busily(pool, clock, 12_000, every, lambda url: (rng.expovariate(40), 200))
    fair = 12_000 * light / (light + 20 * heavy)
    assert 0.5 * fair <= served[A] <= 2 * fair


def test_who_joins_or_was_away_where_requests_overlap_is_not_doubted_at_first() -> None:
    joined: list[int] = []
    returned: list[int] = []
    for seed in range(9):
        rng = random.Random(seed)
        pool, clock = pool_of(*(f"http://h{n}:1" for n in range(10)), seed=seed)

        def serve(url: str, rng: random.Random = rng) -> tuple[float, int]:
            return rng.expovariate(100), 200

        busily(pool, clock, 2000, 0.01, serve)
        pool.add(A)
        joined.append(busily(pool, clock, 1100, 0.01, serve)[A])
        pool.begin_drain(A)
        busily(pool, clock, 2000, 0.01, serve)
        pool.enable(A)
        returned.append(busily(pool, clock, 1100, 0.01, serve)[A])
    assert sorted(joined)[4] > 15  # of 100; without it less than 5
    assert sorted(returned)[4] > 15


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.4])
def test_requests_that_overlap_spread_where_answers_are_alike(sigma: float, seed: int) -> None:
    rng = random.Random(seed)
    urls = [f"http://h{n}:1" for n in range(10)]
    pool, clock = pool_of(*urls, seed=seed)

    def serve(url: str) -> tuple[float, int]:
        return 0.015 * rng.lognormvariate(0, sigma), 200

    served = busily(pool, clock, 3000, 0.01, serve)
    assert min(served[url] for url in urls) > 100, served  # of 300; with a doubt that knows no scatter, 6
    pool.add(A)
    busily(pool, clock, 700, 0.01, serve)  # while it is welcome
    assert busily(pool, clock, 1100, 0.01, serve)[A] > 20


def test_slow_start_holds_a_new_backend_back() -> None:
    pool, clock = pool_of(slow_start=60.0)
    clock.advance(100)
    pool.status()
    one_by_one(pool, clock, 30, alike)
    pool.add("http://d:1")
    served = one_by_one(pool, clock, 200, alike)
    assert 0 < served["http://d:1"] < 30


def test_when_the_heavy_ones_fail_the_light_one_takes_it_all() -> None:
    pool, clock = pool_of(Backend(A, weight=1), Backend(B, weight=20), Backend(C, weight=20))
    one_by_one(pool, clock, 100, alike)
    served = busily(pool, clock, 1000, 0.005, lambda url: (0.004, 200 if url == A else 500))
    assert served[A] > 900


def test_estimates_go_along_when_priorities_come_and_go() -> None:
    backends = [Backend(A), Backend(B), Backend(C, priority=1), Backend("http://d:1", priority=1)]
    pool, clock = pool_of(*backends)
    one_by_one(pool, clock, 100, alike)
    pool.report_probe(B, False)  # the second priority helps out: two pickers
    one_by_one(pool, clock, 100, alike)
    avoided = pool.status().backends
    assert not any(backend.avoided for backend in avoided)
    for _ in range(4):
        pool.pick(exclude=others(pool, C)).succeeded(0.001, 429)
    pool.report_probe(A, False)
    pool.report_probe(B, True)
    one_by_one(pool, clock, 100, alike)
    pool.report_probe(A, True)
    assert set(one_by_one(pool, clock, 100, alike)) == {A, B}


def test_a_tier_without_an_opinion_has_none() -> None:
    pool, clock = make_pool(A, B, Backend(C, priority=1), algorithm="peak_ewma")
    pool.report_probe(B, False)
    for _ in range(30):
        pool.pick().succeeded(0.01, 429)
    assert pool.state(A).memory
    assert not of(pool, A).avoided
    assert clock() == 1000


def test_outcomes_of_strangers_are_ignored() -> None:
    pool, clock = pool_of()
    stranger = make_pool("http://x:1")[0].state("http://x:1")
    picker: Any = pool._snapshot.picker
    picker.observed(stranger, 0.1, False, clock())
    picker.refused(stranger, 0.1, clock())
    assert picker.avoided(stranger, clock()) is None
    assert isinstance(Avoided("slow", failing=False), tuple)


def test_hours_of_silence_do_no_harm() -> None:
    pool, clock = pool_of()
    for _ in range(3):
        one_by_one(pool, clock, 100, alike)
        clock.advance(1e7)
        assert not any(backend.avoided for backend in pool.status().backends)
    for _ in range(300):  # and neither does the growth of the unit
        one_by_one(pool, clock, 5, alike, pause=1.0)
    served = one_by_one(pool, clock, 300, alike)
    assert min(served.values()) > 33


def test_answers_that_took_no_time_are_answers() -> None:
    pool, clock = pool_of()
    served = one_by_one(pool, clock, 60, lambda url, rng: 0.0, pause=0.01)
    assert min(served.values()) > 10


@pytest.mark.parametrize(
    ("peer", "error"),
    [
        ((3, 3), ValueError),
        ((-1, 3), ValueError),
        (3, TypeError),
        ((0,), TypeError),
        ((0, 1.5), TypeError),
        ((True, 2), TypeError),
    ],
)
def test_a_peer_is_one_of_so_many(peer: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"peer is .*write \(index, count\), like \(0, 3\)"):
        Pool([A], peer=peer)


def test_a_peer_is_for_those_that_have_an_aperture() -> None:
    with pytest.raises(ValueError, match="peer is for Adaptive"):
        Pool([A], algorithm="round_robin", peer=(0, 3))
    algorithm = Pool([A], peer=(1, 3)).algorithm
    assert algorithm == Adaptive(peer=(1, 3))
