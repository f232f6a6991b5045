"""The public surface, written down a second time: programs of others rely on these names, parameters and defaults."""

import dataclasses
import inspect
import subprocess
import sys
from typing import Any

import pytest

import lbclient
import lbclient.algorithms
import lbclient.asgi
import lbclient.httpx2
import lbclient.l4
import lbclient.simulator
import lbclient.testing

NOT_COMPARED = object()
"""There is a default, and it is an object of ours."""
REQUIRED = inspect.Parameter.empty

PARAMETERS: dict[str, dict[str, Any]] = {
    "Backend": {
        "url": REQUIRED,
        "weight": 1,
        "zone": None,
        "priority": 0,
        "host": None,
        "uds": None,
        "metadata": NOT_COMPARED,
    },
    "Pool": {
        "backends": REQUIRED,
        "name": "default",
        "algorithm": "adaptive",
        "probe": None,
        "passive": NOT_COMPARED,
        "affinity": None,
        "retry": NOT_COMPARED,
        "hedge": None,
        "slow_start": 0.0,
        "panic_threshold": 0.0,
        "fail_open": True,
        "max_in_flight": None,
        "preserve_host": False,
        "connect": NOT_COMPARED,
        "peer": None,
        "zone": None,
        "clock": NOT_COMPARED,
        "rng": None,
    },
    "Connect": {
        "verify": True,
        "cert": None,
        "http1": True,
        "http2": False,
        "max_connections": 100,
        "max_idle": 100,
        "keepalive_expiry": 5.0,
        "connect_timeout": 1.0,
        "local_address": None,
        "socket_options": None,
        "engine": "auto",
    },
    "HttpProbe": {
        "path": "/",
        "method": "GET",
        "interval": 15.0,
        "timeout": 5.0,
        "healthy_threshold": 2,
        "unhealthy_threshold": 3,
        "expect": "200",
        "headers": None,
        "host": None,
        "port": None,
        "body": None,
        "jitter": 0.1,
        "interval_unhealthy": None,
    },
    "TcpProbe": {
        "interval": 15.0,
        "timeout": 5.0,
        "healthy_threshold": 2,
        "unhealthy_threshold": 3,
        "port": None,
        "jitter": 0.1,
    },
    "PassiveHealth": {
        "consecutive_failures": 5,
        "failure_ratio": 0.5,
        "min_requests": 20,
        "window": 10.0,
        "base_ejection": 30.0,
        "max_ejection": 300.0,
        "max_ejected": 0.5,
        "failure_statuses": None,
        "retry_after": True,
    },
    "Retry": {
        "stop": NOT_COMPARED,
        "wait": NOT_COMPARED,
        "statuses": (502, 503, 504),
        "methods": NOT_COMPARED,
        "budget": NOT_COMPARED,
    },
    "RetryBudget": {"ratio": 0.2, "min_per_second": 10.0, "window": 10.0},
    "Hedge": {"delay": "p95", "budget": 0.02, "methods": ("GET", "HEAD")},
    "CookieAffinity": {
        "name": "LBCLIENT",
        "secret": None,
        "max_age": None,
        "path": "/",
        "secure": None,
        "samesite": "lax",
        "sticky_while_draining": True,
    },
    "AppCookieAffinity": {"name": "JSESSIONID", "ttl": 86400.0, "size": 100_000},
    "KeyAffinity": {"key": "client_ip"},
    "Router": {"routes": REQUIRED, "default": None},
    "Route": {
        "host": None,
        "path": None,
        "methods": None,
        "headers": None,
        "cookies": None,
        "query": None,
        "to": REQUIRED,
    },
    "Split": {"weights": REQUIRED, "sticky": False},
    "Guard": {"window": 30.0, "max_drop": 0.05, "min_requests": 50},
    "AsyncBalancedTransport": {"target": REQUIRED, "inner": None},
    "BalancedTransport": {"target": REQUIRED, "inner": None},
    "algorithms.RingHash": {"key": NOT_COMPARED, "points": 160, "layout": "ketama", "bounded_load": None},
    "algorithms.Maglev": {"key": NOT_COMPARED, "size": 65537, "bounded_load": None},
    "algorithms.Rendezvous": {"key": NOT_COMPARED, "bounded_load": None},
    "algorithms.IPHash": {"key": NOT_COMPARED, "bounded_load": None},
    "Pool.pick": {"self": REQUIRED, "key": None, "exclude": ()},
    "Pool.begin_drain": {"self": REQUIRED, "url": REQUIRED, "grace": 300.0},
    "Pool.disable": {"self": REQUIRED, "url": REQUIRED},
    "Pool.enable": {"self": REQUIRED, "url": REQUIRED},
    "Pool.set_weight": {"self": REQUIRED, "url": REQUIRED, "weight": REQUIRED},
    "Pool.report_probe": {"self": REQUIRED, "url": REQUIRED, "passed": REQUIRED},
    "Pool.add": {"self": REQUIRED, "backend": REQUIRED},
    "Pool.remove": {"self": REQUIRED, "url": REQUIRED},
    "Pool.update": {"self": REQUIRED, "backends": REQUIRED},
    "Pool.status": {"self": REQUIRED},
    "Ticket.succeeded": {"self": REQUIRED, "latency": REQUIRED, "status": 200},
    "Ticket.failed": {"self": REQUIRED, "kind": REQUIRED, "latency": None},
    "Ticket.release": {"self": REQUIRED},
    "Split.set": {"self": REQUIRED, "weights": REQUIRED},
    "simulator.simulate": {
        "scenario": REQUIRED,
        "algorithm": REQUIRED,
        "clients": NOT_COMPARED,
        "seed": NOT_COMPARED,
    },
    "l4.connect": {"pool": REQUIRED, "key": None, "tls": None},
    "l4.TCPForwarder": {"pool": REQUIRED, "host": NOT_COMPARED, "port": NOT_COMPARED},
    "l4.UDPForwarder": {"pool": REQUIRED, "host": NOT_COMPARED, "port": NOT_COMPARED},
    "asgi.ReverseProxy": {"target": REQUIRED},
    "asgi.BalancerMiddleware": {"app": REQUIRED, "target": NOT_COMPARED},
    "asgi.ClientContextMiddleware": {"app": REQUIRED, "trusted": NOT_COMPARED},
}

BY_POSITION = {
    "Backend": ["url"],
    "Pool": ["backends"],
    "HttpProbe": ["path"],
    "RetryBudget": ["ratio", "min_per_second", "window"],
    "AppCookieAffinity": ["name"],
    "KeyAffinity": ["key"],
    "Router": ["routes", "default"],
    "Split": ["weights"],
    "Guard": ["window", "max_drop", "min_requests"],
    "AsyncBalancedTransport": ["target"],
    "BalancedTransport": ["target"],
    "httpx2.AsyncBalancedTransport": ["target"],
    "httpx2.BalancedTransport": ["target"],
    "HttpProbe.from_alb": ["settings"],
    "Pool.pick": ["self", "key"],
    "Pool.add": ["self", "backend"],
    "Pool.remove": ["self", "url"],
    "Pool.update": ["self", "backends"],
    "Pool.begin_drain": ["self", "url", "grace"],
    "Pool.disable": ["self", "url"],
    "Pool.enable": ["self", "url"],
    "Pool.set_weight": ["self", "url", "weight"],
    "Pool.report_probe": ["self", "url", "passed"],
    "Ticket.succeeded": ["self", "latency", "status"],
    "Ticket.failed": ["self", "kind", "latency"],
    "Split.set": ["self", "weights"],
    "AsyncBalancedTransport.drain": ["self", "url"],
    "BalancedTransport.drain": ["self", "url"],
    "AsyncBalancedTransport.swap": ["self", "backends"],
    "BalancedTransport.swap": ["self", "backends"],
    "AsyncBalancedTransport.wait_until_ready": ["self", "timeout"],
    "BalancedTransport.wait_until_ready": ["self", "timeout"],
    "asgi.ReverseProxy": ["target"],
    "l4.connect": ["pool"],
    "l4.TCPForwarder": ["pool", "host", "port"],
    "l4.UDPForwarder": ["pool", "host", "port"],
    "simulator.simulate": ["scenario", "algorithm"],
}
"""What may be given by position. All else is given by name."""

FIELDS = {
    "PoolStatus": {"name", "algorithm", "generation", "panic", "backends"},
    "BackendStatus": {
        "url",
        "weight",
        "zone",
        "priority",
        "admin",
        "check",
        "ejected",
        "ejected_for",
        "available",
        "in_flight",
        "picks",
        "successes",
        "failures",
        "latency",
    },
    "DrainReport": {"url", "drained", "waited", "in_flight_at_start", "closed"},
    "SwapReport": {"swapped", "rolled_back", "reason", "added", "removed", "drains"},
    "Attempt": {"backend", "outcome", "elapsed", "reason", "candidates", "loads", "skipped"},
}

ALGORITHMS = {
    "round_robin": "RoundRobin",
    "weighted_round_robin": "WeightedRoundRobin",
    "least_connections": "LeastConnections",
    "least_response_time": "LeastResponseTime",
    "ip_hash": "IPHash",
    "ring_hash": "RingHash",
    "consistent_hash": "RingHash",
    "maglev": "Maglev",
    "rendezvous": "Rendezvous",
    "random": "Random",
    "weighted_random": "WeightedRandom",
    "power_of_two_choices": "PowerOfTwoChoices",
    "peak_ewma": "PeakEWMA",
    "adaptive": "Adaptive",
    "first": "First",
}

TRANSPORTS = [
    lbclient.AsyncBalancedTransport,
    lbclient.BalancedTransport,
    lbclient.httpx2.AsyncBalancedTransport,
    lbclient.httpx2.BalancedTransport,
]


def named(path: str) -> Any:
    found: Any = lbclient
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters_have_their_names_and_defaults(path: str) -> None:
    actual = inspect.signature(named(path)).parameters
    for name, default in PARAMETERS[path].items():
        assert name in actual, f"{path} lost {name}"
        if default is not NOT_COMPARED:
            assert actual[name].default == default, f"{path}: {name}"


@pytest.mark.parametrize("path", BY_POSITION)
def test_what_may_be_given_by_position_is_that(path: str) -> None:
    keyword_only = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(named(path)).parameters.values()
    assert [each.name for each in parameters if each.kind not in keyword_only] == BY_POSITION[path]


@pytest.mark.parametrize(
    "room", ["asgi", "discovery", "httpx2", "l4", "observability", "simulator", "testing"]
)
def test_every_room_is_there_after_importing_the_house(room: str) -> None:
    program = f"import lbclient; lbclient.{room}"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    with pytest.raises(AttributeError, match=f"module 'lbclient' has no attribute '{room}s'"):
        getattr(lbclient, f"{room}s")


@pytest.mark.parametrize("name", FIELDS)
def test_reports_have_their_fields(name: str) -> None:
    assert FIELDS[name] <= {field.name for field in dataclasses.fields(named(name))}


def test_every_algorithm_has_its_name_and_its_class() -> None:
    for name, kind in ALGORITHMS.items():
        assert type(lbclient.algorithms.from_name(name)) is getattr(lbclient.algorithms, kind)


@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_transport_can_do_the_same(transport: Any) -> None:
    close = "aclose" if transport.__name__.startswith("Async") else "close"
    for name in ("drain", "swap", "wait_until_ready", close):
        assert inspect.iscoroutinefunction(getattr(transport, name)) == (close == "aclose"), name
    assert inspect.signature(transport.drain).parameters["grace"].default == 300.0
    swap = inspect.signature(transport.swap).parameters
    defaults = {name: swap[name].default for name in ("pool", "when_healthy_within", "grace", "guard")}
    assert defaults == {"pool": None, "when_healthy_within": 60.0, "grace": 300.0, "guard": None}
    assert inspect.signature(transport.wait_until_ready).parameters["timeout"].default == 10.0
    balancer = transport(["http://a", "http://b"])
    assert set(balancer.pools) == {"default"}
    assert balancer.connections() == {"http://a": (0, 0), "http://b": (0, 0)}


def test_a_record_tells_the_way_of_a_request() -> None:
    assert {"backend", "pool", "sticky", "attempts", "explain", "as_dict"} <= set(dir(lbclient.Record))


def test_the_testing_tools_are_there() -> None:
    assert {"FakeClock", "FakeBackend", "FakeBackends"} <= set(lbclient.testing.__all__)
