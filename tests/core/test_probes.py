"""What a probe asks, which answers pass, when the next one is due, and what it says to wrong arguments."""

import dataclasses
import random
import re
from collections.abc import Mapping
from typing import Any

import pytest

from lbclient.core.probes import HttpProbe, TcpProbe

ALB = {
    "HealthCheckProtocol": "HTTP",
    "HealthCheckPath": "/health",
    "HealthCheckIntervalSeconds": 15,
    "HealthCheckTimeoutSeconds": 5,
    "HealthyThresholdCount": 2,
    "UnhealthyThresholdCount": 3,
    "Matcher": {"HttpCode": "200"},
}


class Drawing(random.Random):
    """Draws one number again and again."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


# Arguments


def test_the_defaults_are_those_of_the_documentation() -> None:
    probe = HttpProbe()
    assert (probe.path, probe.method, probe.expect) == ("/", "GET", "200")
    assert (probe.interval, probe.timeout, probe.jitter) == (15.0, 5.0, 0.1)
    assert (probe.healthy_threshold, probe.unhealthy_threshold) == (2, 3)
    for name in ("headers", "host", "port", "body", "interval_unhealthy", "scheme"):
        assert getattr(probe, name) is None
    tcp = TcpProbe()
    assert (tcp.interval, tcp.timeout, tcp.jitter, tcp.port) == (15.0, 5.0, 0.1, None)
    assert (tcp.healthy_threshold, tcp.unhealthy_threshold) == (2, 3)


def test_arguments_are_attributes() -> None:
    given: dict[str, Any] = {
        "method": "POST",
        "interval": 10,
        "timeout": 10,
        "healthy_threshold": 1,
        "unhealthy_threshold": 1,
        "expect": "200-299",
        "headers": {"X-Probe": "yes"},
        "host": "example.com:8080",
        "port": 9090,
        "body": "ok",
        "jitter": 0,
        "interval_unhealthy": 1,
        "scheme": "https",
    }
    probe = HttpProbe("/health?deep=1", **given)
    assert probe.path == "/health?deep=1"
    assert {name: getattr(probe, name) for name in given} == given


def test_a_probe_is_immutable_and_hashable() -> None:
    probe = HttpProbe(expect=[204, 200], headers={"A": "b"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        probe.path = "/other"  # type: ignore[misc]
    assert len({probe, HttpProbe(expect=(200, 204), headers={"A": "b"}), TcpProbe(), TcpProbe()}) == 2


def test_what_the_caller_changes_later_does_not_change_the_probe() -> None:
    headers, statuses = {"A": "b"}, [200]
    probe = HttpProbe(headers=headers, expect=statuses)
    headers["A"] = "c"
    statuses.append(500)
    assert probe.header_pairs == (("A", "b"),)
    assert not probe.matches(500)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "health"}, "path is 'health'; write a path that starts with '/'"),
        ({"path": ""}, "path is ''"),
        ({"path": "/a b"}, "path is '/a b'"),
        ({"path": "/a#b"}, "path is '/a#b'"),
        ({"path": "/\r\nHost: evil"}, "path is"),
        ({"path": "/gesund?ü"}, "percent-encoded"),
        ({"method": "GET /"}, "method is 'GET /'"),
        ({"method": "get"}, "method is 'get'; write a method in upper case, such as 'GET'"),
        ({"interval": 0}, "interval is 0; write a number above 0"),
        ({"interval": float("inf")}, "interval is inf"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": 20}, r"timeout is 20; write at most the interval \(15.0\)"),
        ({"healthy_threshold": 0}, "healthy_threshold is 0; write a whole number of 1 or more"),
        ({"unhealthy_threshold": 0}, "unhealthy_threshold is 0"),
        ({"port": 0}, "port is 0; write a whole number from 1 to 65535"),
        ({"jitter": 1.1}, "jitter is 1.1; write a number from 0 to 1"),
        ({"interval_unhealthy": 0}, "interval_unhealthy is 0"),
        ({"expect": ""}, "expect is ''; write '200', '200,202', '200-299' or numbers from 100 to 599"),
        ({"expect": "2xx"}, "expect is '2xx'"),
        ({"expect": "200-"}, "expect is '200-'"),
        ({"expect": "299-200"}, "'299-200' goes backwards"),
        ({"expect": "200,600"}, "a status in expect is 600; write a whole number from 100 to 599"),
        ({"expect": 99}, "a status in expect is 99"),
        ({"expect": ()}, "which no status matches"),
        ({"host": ""}, "host is ''"),
        ({"host": "http://x"}, "host is 'http://x'; write a host, with a port if needed"),
        ({"scheme": "tcp"}, "scheme is 'tcp'; write 'http', 'https', or None"),
        ({"headers": {"A B": "c"}}, "headers has 'A B'"),
        ({"headers": {"A": "b\r\nC: d"}}, "which cannot be sent"),
        ({"headers": {"A": " b"}}, "which cannot be sent"),
        ({"headers": {"HOST": "x"}}, "headers has 'HOST'; write host= instead"),
        ({"headers": [("Connection", "x")]}, "headers has 'Connection'; leave it out"),
        ({"body": ""}, "which is in every body"),
        ({"body": "ok", "method": "HEAD"}, "method is 'HEAD', whose answers have no body"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HttpProbe(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": b"/"}, "path is b'/'"),
        ({"method": None}, "method is None"),
        ({"interval": "15"}, "interval is '15'"),
        ({"healthy_threshold": 1.5}, "healthy_threshold is 1.5"),
        ({"expect": None}, "expect is None; write '200'"),
        ({"expect": b"200"}, "expect is b'200'"),
        ({"expect": {200: "ok"}}, "expect is"),
        ({"expect": True}, "a status in expect is True"),
        ({"host": 1}, "host is 1"),
        ({"headers": "A: b"}, "headers is 'A: b'; write a mapping or pairs of strings"),
        ({"headers": 1}, "headers is 1"),
        ({"headers": ["A: b"]}, "headers has 'A: b'"),
        ({"headers": {"A": 1}}, r"headers has \('A', 1\)"),
        ({"body": b"ok"}, "body is b'ok'; write the text to find"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_to_write(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        HttpProbe(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"interval": -1}, "interval is -1"),
        ({"timeout": 16}, "write at most the interval"),
        ({"healthy_threshold": 0}, "healthy_threshold is 0"),
        ({"unhealthy_threshold": 0}, "unhealthy_threshold is 0"),
        ({"port": 65536}, "port is 65536"),
        ({"jitter": -0.1}, "jitter is -0.1"),
    ],
)
def test_tcp_probes_have_the_same_ranges(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TcpProbe(**arguments)


# Verdicts


@pytest.mark.parametrize(
    ("expect", "passing", "failing"),
    [
        ("200", [200], [199, 201, 204, 301, 500]),
        (" 200 , 202 ", [200, 202], [201]),
        ("200-299", [200, 250, 299], [199, 300]),
        ("200-204,301,404-404", [200, 204, 301, 404], [205, 300, 302, 405]),
        (204, [204], [200]),
        ([200, 302], [200, 302], [301]),
        (range(200, 400), [200, 302, 399], [400]),
        ({401}, [401], [200]),
    ],
)
def test_expect_says_which_statuses_pass(expect: Any, passing: list[int], failing: list[int]) -> None:
    probe = HttpProbe(expect=expect)
    assert all(probe.matches(status) for status in passing)
    assert not any(probe.matches(status) for status in failing)


def test_a_plain_text_is_searched_for_as_it_is() -> None:
    probe = HttpProbe(body="a.c ü")
    assert probe.accepts(200, "...a.c ü...".encode())
    assert not probe.accepts(200, "abc ü".encode())
    assert not probe.accepts(200)


def test_a_compiled_expression_is_searched_for_in_text_or_in_bytes() -> None:
    text = HttpProbe(body=re.compile(r'"status":\s*"(ok|grün)"'))
    assert text.accepts(200, '{"status":  "grün"}'.encode())
    assert not text.accepts(200, b'{"status": "starting"}')
    assert text.accepts(200, b'\xff"status":"ok"')  # bytes that are no text do not hide the rest
    raw = HttpProbe(body=re.compile(rb"\xff\x00$"))
    assert raw.accepts(200, b"...\xff\x00")
    assert not raw.accepts(200, b"\xff\x00...")


def test_status_and_body_both_have_to_pass() -> None:
    probe = HttpProbe(expect="200,204", body="ok")
    assert probe.accepts(204, b"ok")
    assert not probe.accepts(500, b"ok")
    assert not probe.accepts(200, b"no")


def test_an_objection_says_what_came_and_what_was_expected() -> None:
    assert HttpProbe().objection(200) is None
    assert HttpProbe(expect="200-204").objection(503) == "status 503 instead of 200-204"
    assert HttpProbe(expect={204, 200}).objection(503) == "status 503 instead of 200, 204"
    assert HttpProbe(expect=204).objection(200) == "status 200 instead of 204"
    assert HttpProbe(body="ready").objection(200, b"no") == "'ready' is not in its body"


# Time


@pytest.mark.parametrize("probe", [HttpProbe(interval=10, jitter=0.2), TcpProbe(interval=10, jitter=0.2)])
def test_jitter_goes_either_way_and_no_further_than_its_share(probe: HttpProbe | TcpProbe) -> None:
    assert probe.delay(True, Drawing(0.0)) == pytest.approx(8.0)
    assert probe.delay(True, Drawing(0.5)) == pytest.approx(10.0)
    assert probe.delay(True, Drawing(1 - 2**-53)) == pytest.approx(12.0)
    delays = [probe.delay(True, random.Random(seed)) for seed in range(1000)]
    assert 8.0 <= min(delays) < 8.1
    assert 11.9 < max(delays) <= 12.0


def test_without_jitter_the_interval_is_exact() -> None:
    assert HttpProbe(interval=10, jitter=0).delay(True, random.Random(1)) == 10


def test_a_failing_backend_has_its_own_interval_where_one_is_given() -> None:
    rng = Drawing(0.5)
    both = HttpProbe(interval=10, interval_unhealthy=2, jitter=0)
    assert (both.delay(True, rng), both.delay(False, rng)) == (10, 2)
    one = HttpProbe(interval=10, jitter=0)
    assert (one.delay(True, rng), one.delay(False, rng)) == (10, 10)
    tcp = TcpProbe(interval=10, jitter=0)
    assert (tcp.delay(True, rng), tcp.delay(False, rng)) == (10, 10)


# Headers


@pytest.mark.parametrize(
    ("headers", "pairs"),
    [
        (None, ()),
        ({"A": "b", "C": ""}, (("A", "b"), ("C", ""))),
        ([("A", "1"), ("a", "2")], (("A", "1"), ("a", "2"))),
        ([["A", "1"]], (("A", "1"),)),
        (iter([("A", "x y\tz")]), (("A", "x y\tz"),)),
    ],
)
def test_headers_are_a_mapping_or_pairs_in_their_order(headers: Any, pairs: object) -> None:
    probe = HttpProbe(headers=headers)
    assert probe.header_pairs == pairs
    assert probe.header_pairs == pairs  # also the second time


# AWS


def test_an_alb_health_check_becomes_the_same_probe() -> None:
    assert HttpProbe.from_alb(ALB) == HttpProbe(
        "/health",
        interval=15,
        timeout=5,
        healthy_threshold=2,
        unhealthy_threshold=3,
        expect="200",
        scheme="http",
    )


def test_what_an_alb_health_check_leaves_out_has_albs_default() -> None:
    assert HttpProbe.from_alb({}) == HttpProbe(
        "/", interval=30, timeout=5, healthy_threshold=5, unhealthy_threshold=2, expect="200"
    )


@pytest.mark.parametrize(("protocol", "scheme"), [("HTTP", "http"), ("HTTPS", "https")])
def test_the_protocol_of_an_alb_health_check_decides_about_tls(protocol: str, scheme: str) -> None:
    assert HttpProbe.from_alb({**ALB, "HealthCheckProtocol": protocol}).scheme == scheme


@pytest.mark.parametrize(("port", "expected"), [("traffic-port", None), ("8081", 8081), (8081, 8081)])
def test_the_port_of_an_alb_health_check(port: object, expected: int | None) -> None:
    assert HttpProbe.from_alb({"HealthCheckPort": port}).port == expected


@pytest.mark.parametrize("code", ["200", "200,202", "200-499", 204])
def test_the_matcher_of_an_alb_health_check(code: str | int) -> None:
    assert HttpProbe.from_alb({"Matcher": {"HttpCode": code}}).expect == code


def test_an_enabled_alb_health_check_may_say_so() -> None:
    assert HttpProbe.from_alb({**ALB, "HealthCheckEnabled": True}) == HttpProbe.from_alb(ALB)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"HealthCheckUrl": "/"},
            "'HealthCheckUrl' is not of a health check; its keys are HealthCheckEnabled, ",
        ),
        ({"Port": 80, "Protocol": "HTTP"}, "'Port', 'Protocol' is not of a health check"),
        (
            {"HealthCheckEnabled": False},
            "HealthCheckEnabled is False; write True, or leave the pool's probe out",
        ),
        ({"HealthCheckProtocol": "TCP"}, r"HealthCheckProtocol is 'TCP'; use TcpProbe\(...\)"),
        ({"HealthCheckProtocol": "TLS"}, r"use TcpProbe\(...\)"),
        ({"HealthCheckProtocol": "UDP"}, "HealthCheckProtocol is 'UDP'; write 'HTTP' or 'HTTPS'"),
        ({"HealthCheckPort": "0"}, "HealthCheckPort is '0'; write 'traffic-port' or a number"),
        ({"HealthCheckPort": "http"}, "HealthCheckPort is 'http'"),
        ({"HealthCheckPort": True}, "HealthCheckPort is True"),
        ({"HealthCheckPort": None}, "HealthCheckPort is None"),
        ({"HealthCheckPath": "health"}, "HealthCheckPath is 'health'; write a path of 1 to 1024 characters"),
        ({"HealthCheckPath": "/" * 1025}, "a path of 1 to 1024 characters"),
        (
            {"HealthCheckIntervalSeconds": 4},
            "HealthCheckIntervalSeconds is 4; write a whole number from 5 to 300",
        ),
        ({"HealthCheckTimeoutSeconds": 31}, "timeout is 31; write at most the interval"),
        (
            {"Matcher": {"HttpCode": "200-500"}},
            "a status in HttpCode is 500; write a whole number from 200 to 499",
        ),
        ({"Matcher": {"HttpCode": "ok"}}, "HttpCode is 'ok'"),
        ({"Matcher": {"GrpcCode": "12"}}, "there are no gRPC probes"),
        ({"Matcher": "200"}, "Matcher is '200'"),
    ],
)
def test_an_alb_health_check_that_alb_would_refuse_is_refused(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        HttpProbe.from_alb(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"HealthyThresholdCount": "2"}, "HealthyThresholdCount is '2'"),
        ({"HealthCheckPath": None}, "HealthCheckPath is None"),
        ({"Matcher": {"HttpCode": [200]}}, r"HttpCode is \[200\]; write it like '200'"),
        ([("HealthCheckPath", "/")], "from_alb takes a mapping"),
    ],
)
def test_an_alb_health_check_of_other_types_is_refused(settings: Mapping[str, object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        HttpProbe.from_alb(settings)


def test_the_longest_path_that_alb_takes_is_taken() -> None:
    assert len(HttpProbe.from_alb({"HealthCheckPath": "/" + "x" * 1023}).path) == 1024
