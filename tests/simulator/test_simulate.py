"""The simulator against what queueing theory and common sense know."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from tenacity import stop_after_attempt

from lbclient import Hedge, Retry
from lbclient.algorithms import LeastConnections
from lbclient.simulator import (
    PEERS,
    SCENARIOS,
    Down,
    Exponential,
    Failing,
    LogNormal,
    Mixed,
    Scenario,
    Server,
    Speed,
    Uniform,
    simulate,
)

QUICK = Scenario("quick", (Server(),) * 4, seconds=3.0, warm_up=0.5)


def quick(name: str) -> Scenario:
    """One of the package's, over in a second or two."""
    return replace(SCENARIOS[name], seconds=8.0, warm_up=4.0)


@pytest.mark.parametrize("sharing", [True, False])
def test_one_server_is_the_queue_of_the_textbook(sharing: bool) -> None:
    """M/M/1 at 50 %: the mean time is 1 / (mu - lambda), under both disciplines."""
    scenario = Scenario(
        "m/m/1",
        (Server(cores=1),),
        load=0.5,
        work=Exponential(0.01),
        delay=0.0,
        seconds=300.0,
        sharing=sharing,
    )
    result = simulate(scenario, "random", clients=1)
    assert result.mean == pytest.approx(0.02, rel=0.08)


def test_the_delay_of_the_network_is_on_top() -> None:
    with_delay = simulate(replace(QUICK, delay=0.1, load=0.01), "random")
    without = simulate(replace(QUICK, delay=0.0, load=0.01), "random")
    assert with_delay.p50 == pytest.approx(without.p50 + 0.1, abs=0.001)


def test_random_over_four_servers_is_four_queues() -> None:
    """M/M/4 at 70 % each would be Erlang's; what random makes of one core each is M/M/1."""
    scenario = Scenario(
        "four", (Server(cores=1),) * 4, load=0.5, work=Exponential(0.01), delay=0.0, seconds=300.0
    )
    assert simulate(scenario, "random", clients=3).mean == pytest.approx(0.02, rel=0.06)
    best = simulate(scenario, "ideal").mean
    assert best == pytest.approx(
        0.01 * (1 + 0.087), rel=0.03
    )  # Erlang C of 4 servers at 2 erlangs: 0.174 / 2


@pytest.mark.parametrize(
    "work", [Exponential(0.02), LogNormal(0.02, 1.0), Uniform(0.01, 0.03), Mixed(0.01, 0.11, 0.1)]
)
def test_distributions_have_the_mean_they_say(work: Any) -> None:
    from random import Random

    draw = work.sampler(Random(1))
    assert math.fsum(draw() for _ in range(100_000)) / 100_000 == pytest.approx(0.02, rel=0.03)
    assert work.mean == pytest.approx(0.02)


@pytest.mark.parametrize("algorithm", ["adaptive", "least_connections", "ideal", "prequal", "c3"])
def test_nobody_is_better_than_the_ideal(algorithm: str) -> None:
    ideal = simulate(quick("homogeneous-70"), "ideal")
    assert simulate(quick("homogeneous-70"), algorithm, clients=10).p99 >= ideal.p99 * 0.98


def test_same_seed_same_result_and_another_seed_another_one() -> None:
    one, two = (simulate(QUICK, "adaptive", clients=5, seed=3) for _ in range(2))
    assert one == two
    assert simulate(QUICK, "adaptive", clients=5, seed=4).p99 != one.p99


SCRIPT = """
import json
from dataclasses import replace
from lbclient.simulator import SCENARIOS, simulate
for name in ("sinkhole", "antagonists-130", "rolling-deploy"):
    scenario = replace(SCENARIOS[name], rate=600.0, seconds=8.0, warm_up=1.0)
    for algorithm in ("adaptive", "power_of_two_choices", "prequal", "ideal"):
        print(json.dumps(simulate(scenario, algorithm, clients=7, seed=5).as_dict()))
"""


def test_the_result_does_not_depend_on_the_hashes_of_the_process() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "4711")
    }
    assert len(outputs) == 1
    for line in outputs.pop().splitlines():
        assert json.loads(line)["requests"] > 1000


@pytest.mark.parametrize(
    ("algorithm", "p50", "p99", "mean"),
    [
        ("adaptive", 0.004156758, 0.025642663, 0.005882266),
        ("power_of_two_choices", 0.004303779, 0.027139901, 0.006150786),
        ("ideal", 0.004076463, 0.023757647, 0.005606957),
    ],
)
def test_the_result_is_that_of_every_python(algorithm: str, p50: float, p99: float, mean: float) -> None:
    """Written down with CPython 3.11; `scripts/test` asks the others. They change when an algorithm does."""
    result = simulate(QUICK, algorithm, clients=5, seed=3)
    assert (result.requests, result.p50, result.p99, result.mean) == (5635, p50, p99, mean)


def test_a_sinkhole_draws_least_connections_and_not_adaptive() -> None:
    scenario = quick("sinkhole")
    assert simulate(scenario, "least_connections", clients=1, passive=None).failed > 0.02
    assert simulate(scenario, "adaptive", clients=1).failed < 0.005


def test_what_happens_in_a_simulation_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    result = simulate(replace(QUICK, changes=(Failing(1.0, 1, 1.0),)), "round_robin", max_in_flight=50)
    assert 0 < result.failed < 0.05  # it was ejected
    assert not caplog.records


def test_retries_hide_what_fails() -> None:
    scenario = replace(QUICK, changes=(Failing(1.0, 1, 1.0),))
    before = simulate(scenario, "round_robin", clients=3, passive=None)
    after = simulate(scenario, "round_robin", clients=3, passive=None, retry=Retry())
    assert before.failed > 0.15
    assert after.failed < before.failed / 3  # the budget is spent first
    single = simulate(
        scenario, "round_robin", clients=3, passive=None, retry=Retry(stop=stop_after_attempt(1))
    )
    assert single.failed == pytest.approx(before.failed, abs=0.02)


def test_what_is_sent_once_is_spared_from_trying_who_has_failed() -> None:
    scenario = replace(QUICK, seconds=8.0, changes=(Failing(1.0, 3, 1.0),))
    lost: list[int] = []
    for once in (0.0, 0.5, 1.0):
        result = simulate(replace(scenario, once=once), "adaptive", clients=1, retry=Retry())
        lost.append(round(result.failed * result.requests))
    again, mixed, only_once = lost
    assert only_once < 20  # those that were under way when it began
    assert (again, mixed) < (1, 10)


def test_a_copy_of_a_slow_request_helps_when_a_server_is_slow() -> None:
    scenario = replace(QUICK, load=0.2, changes=(Speed(0.0, 0, 0.05),), timeout=60.0)
    plain = simulate(scenario, "round_robin", clients=1, retry=Retry())
    hedged = simulate(scenario, "round_robin", clients=1, retry=Retry(), hedge=Hedge(delay=0.02, budget=0.5))
    assert hedged.p99 < plain.p99 * 0.8


def test_a_server_that_is_down_refuses_and_loses_what_it_had() -> None:
    scenario = replace(QUICK, load=0.5, changes=(Down(1.0, 0, 1.0),))
    for sharing in (True, False):
        result = simulate(replace(scenario, sharing=sharing), "round_robin", passive=None)
        assert 0.05 < result.failed < 0.15
        assert sum(result.failures["http://server-0:80"]) > 0
        assert sum(result.failures["http://server-1:80"]) == 0


def test_everybody_down_is_everybody_failing_with_retries_too() -> None:
    changes = tuple(Down(1.0, number, 1.0) for number in range(4))
    result = simulate(replace(QUICK, changes=changes), "adaptive", retry=Retry())
    assert 0.2 < result.failed < 0.6


@pytest.mark.parametrize("sharing", [True, False])
def test_a_stopped_server_times_out_and_goes_on(sharing: bool) -> None:
    changes = (Speed(1.0, 0, 0.0), Speed(2.0, 0, 1.0))
    result = simulate(
        replace(QUICK, changes=changes, timeout=0.3, sharing=sharing), "round_robin", passive=None
    )
    assert result.failed > 0.02
    patient = simulate(replace(QUICK, changes=changes, sharing=sharing), "round_robin", passive=None)
    assert patient.failed == 0
    assert patient.p999 > 0.5


def test_a_server_that_joins_is_used() -> None:
    scenario = replace(QUICK, servers=(*QUICK.servers, Server(joins=1.0)))
    for algorithm in ("adaptive", "ideal"):
        load = simulate(scenario, algorithm).load["http://server-4:80"]
        assert sum(load[:39]) == 0
        assert sum(load[45:]) > 500


def test_a_recorded_trace_is_played_as_it_was() -> None:
    arrivals = [(0.01 * number, 0.002) for number in range(250)]
    result = simulate(replace(QUICK, warm_up=0.0), "adaptive", arrivals=arrivals)
    assert result.requests == 250
    assert result.p50 == pytest.approx(0.0025)
    assert sum(result.shares().values()) == pytest.approx(1)


def test_peers_of_a_large_fleet_use_all_of_it() -> None:
    scenario = Scenario("large", (Server(),) * 40, load=0.5, seconds=2.0, warm_up=0.5)
    result = simulate(scenario, "adaptive", clients=8, peer=True)
    assert min(result.shares().values()) > 0.01


def test_progress_is_told() -> None:
    told: list[float] = []
    simulate(QUICK, "random", progress=told.append)
    assert told == sorted(told)
    assert told[-1] > 0.9


def test_nothing_counted_has_no_quantiles() -> None:
    result = simulate(replace(QUICK, warm_up=3.0), "random")
    assert result.requests == 0
    assert math.isnan(result.p99)
    assert math.isnan(result.mean)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: simulate("nowhere", "adaptive"),
            ValueError,
            "scenario is 'nowhere'; write one of: homogeneous-70",
        ),
        (lambda: simulate(QUICK, "best"), ValueError, f"write one of: .*{', '.join(PEERS)}"),
        (lambda: simulate(QUICK, "random", clients=0), ValueError, "clients is 0"),
        (lambda: simulate(QUICK, "random", seed=-1), ValueError, "seed is -1"),
        (lambda: Scenario("none", ()), ValueError, "begins without servers"),
        (lambda: Scenario("late", (Server(joins=3.0),)), ValueError, "begins without servers"),
        (lambda: replace(QUICK, changes=(Speed(1.0, 9, 1.0),)), ValueError, "server is 9"),
        (lambda: replace(QUICK, changes=(Failing(1.0, 0, 2.0),)), ValueError, "share is 2.0"),
        (lambda: replace(QUICK, rate=0.0), ValueError, "rate is 0"),
        (lambda: replace(QUICK, once=1.1), ValueError, "once is 1.1"),
    ],
)
def test_bad_input_is_refused_with_what_to_write(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ({"speed": 3}, ValueError, "scenario has no speed; it has: name, servers, load"),
        ({"servers": 3}, TypeError, "servers is 3; write a list"),
        ({"servers": "ab"}, TypeError, "servers is 'ab'; write a list"),
        ({"servers": [3]}, TypeError, "server is 3; write a mapping with some of: cores, speed"),
        ({"servers": [{"core": 3}]}, ValueError, "server has no core; it has: cores, speed, weight, joins"),
        ({"servers": [{"count": 0}]}, ValueError, "count is 0"),
        ({"work": 0.01}, ValueError, "work has 0.01; write its kind, one of: exponential, lognormal"),
        ({"work": {"kind": "pareto"}}, ValueError, "write its kind, one of: exponential, lognormal, mixed"),
        ({"work": {"kind": "lognormal", "mean": 0.01}}, ValueError, "lognormal lacks: sigma"),
        ({"changes": [{"kind": "down", "at": 1}]}, ValueError, "down lacks: server, seconds"),
        (
            {"changes": [{"kind": "down", "at": 1, "server": 0, "seconds": 0}]},
            ValueError,
            "seconds is 0; write a number above 0",
        ),
        (
            {"changes": [{"kind": "speed", "at": 1, "server": 0, "factor": "half"}]},
            TypeError,
            "factor is 'half'; write a number of 0 or more",
        ),
        ({"antagonist": {"low": 2.0}}, ValueError, "high is 1.5; write a number of 2.0 or more"),
    ],
)
def test_bad_data_is_refused_with_what_to_write(
    written: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Scenario.from_dict({"name": "x", "servers": [{}], **written})


def test_a_scenario_can_be_written_as_data() -> None:
    written = {
        "name": "mine",
        "servers": [{"count": 2, "cores": 2}, {"speed": 2.0}],
        "work": {"kind": "lognormal", "mean": 0.01, "sigma": 1.0},
        "changes": [{"kind": "failing", "at": 1.0, "server": 0, "share": 0.5}],
        "antagonist": {"every": 1.0},
        "seconds": 3.0,
        "warm_up": 1.0,
    }
    scenario = Scenario.from_dict(json.loads(json.dumps(written)))
    assert scenario.servers == (Server(cores=2), Server(cores=2), Server(speed=2.0))
    assert scenario.work == LogNormal(0.01, 1.0)
    assert simulate(scenario, LeastConnections()).failed > 0


def test_every_scenario_of_the_package_can_be_played() -> None:
    for scenario in SCENARIOS.values():
        rate = scenario.requests_per_second
        short = replace(scenario, seconds=300 / rate, warm_up=0.0, changes=())
        assert simulate(short, "adaptive", clients=3).requests > 200
        assert scenario.about
