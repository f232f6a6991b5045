"""What servers say of their load, and what Adaptive makes of it."""

from collections import Counter

import pytest

from lbclient import Backend
from lbclient.core.load_report import reported_in_flight
from tests.core.pools import A, B, C, make_pool, others


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"X-LB-Inflight", b"17", 17),
        (b"x-lb-inflight", b" 3 ", 3),
        (b"x-lb-inflight", b"-1", None),
        (b"x-lb-inflight", b"nan", None),
        (b"x-lb-inflight", b"many", None),
        (b"x-lb-outbound", b"17", None),
        (b"Endpoint-Load-Metrics", b"TEXT cpu_utilization=0.3, named_metrics.in_flight=5", 5),
        (b"endpoint-load-metrics", b"cpu_utilization=0.3,named_metrics.in_flight=5.0", 5),
        (b"endpoint-load-metrics", b'JSON {"cpu_utilization": 0.3, "named_metrics": {"in_flight": 9}}', 9),
        (b"endpoint-load-metrics", b"JSON {}", None),
        (b"endpoint-load-metrics", b"JSON [1]", None),
        (b"endpoint-load-metrics", b"JSON {", None),
        (b"endpoint-load-metrics", b"TEXT cpu_utilization=0.3", None),
        (b"endpoint-load-metrics", b"BIN CZqZmZmZmdM/", None),
        (b"endpoint-load-metriks", b"TEXT named_metrics.in_flight=5", None),
    ],
)
def test_reports_are_read_and_nonsense_is_none(name: bytes, value: bytes, expected: float | None) -> None:
    headers = [(b"content-type", b"text/plain"), (name, value)]
    assert reported_in_flight(headers) == expected


def test_who_says_that_it_is_busy_gets_less() -> None:
    pool, clock = make_pool(algorithm="adaptive")
    picked: Counter[str] = Counter()
    held = [pool.pick(exclude=others(pool, url)) for url in (A, B, C)]
    for download in held:
        download.answered(0.01)
    for _ in range(300):
        ticket = pool.pick()
        picked[ticket.backend.url] += 1
        clock.advance(0.01)
        ticket.reported(40 if ticket.backend.url == A else 5)
        ticket.succeeded(0.01)
    assert picked[A] < 60
    assert min(picked[B], picked[C]) > 90
    clock.advance(5)  # old reports say nothing
    assert {pool.pick().backend.url for _ in range(3)} == {A, B, C}
    assert held


def test_a_report_is_heard_whatever_the_tiers_and_ignored_where_nobody_listens() -> None:
    pool, _ = make_pool(A, B, Backend(C, priority=1), algorithm="adaptive")
    pool.report_probe(B, False)
    ticket = pool.pick(exclude=[B, C])
    ticket.reported(3)
    ticket.release()
    pool, _ = make_pool(A, B, Backend(C, priority=1), algorithm="round_robin")
    pool.report_probe(B, False)
    ticket = pool.pick()
    ticket.reported(3)
    pool, _ = make_pool(algorithm="round_robin")
    pool.pick().reported(3)
    stranger = make_pool("http://x:1")[0].state("http://x:1")
    picker = make_pool(algorithm="adaptive")[0]._snapshot.picker
    picker.reported(stranger, 3, 0.0)  # type: ignore[union-attr]
