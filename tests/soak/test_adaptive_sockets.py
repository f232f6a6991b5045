"""Real sockets agree with the simulator: twenty servers in their own processes, the same requests, five algorithms.

python -m pytest tests/soak/test_adaptive_sockets.py -s      # ten minutes; prints what docs/adaptive.md shows

The servers are the simulator's models behind sockets (`tests/simulator/stubs.py`), and so slow that a machine of two
cores is nowhere near its limits. What may differ is what is real: sockets, the event loop, lbclient's transport.
"""

import asyncio
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from lbclient import Retry
from lbclient.simulator import Scenario, simulate
from tests.simulator.fleet import Seen, play_for_real, stubs
from tests.simulator.scaled import SCALED

ALGORITHMS = ("adaptive", "least_connections", "power_of_two_choices", "peak_ewma", "round_robin")
CLIENTS = 5
TELLING = 1.3  # a p99 of some thousand requests is known to a tenth; who is closer than this has no order
AGREES = 0.25
SINKHOLE = 0.0025
LOST = 0.0005
RECOVERED = {"sinkhole": (3, 14.0), "busy-sinkhole": (3, 14.0), "stall": (3, 13.0)}  # which server, and when


@pytest.mark.timeout(500)
@pytest.mark.parametrize("scenario", SCALED.values(), ids=SCALED)
def test_the_order_of_the_algorithms_is_that_of_the_simulator(scenario: Scenario) -> None:
    real: dict[str, Seen] = {}
    simulated: dict[str, tuple[float, float]] = {}
    for name in ALGORITHMS:
        options: dict[str, Any] = {} if name == "adaptive" else {"passive": None}
        result = simulate(scenario, name, clients=CLIENTS, seed=1, **options)
        simulated[name] = result.p99, result.failed
        with stubs(scenario) as ports:
            real[name] = asyncio.run(play_for_real(scenario, name, ports, clients=CLIENTS, seed=1))
        print(
            f"{scenario.name} {name}: p99 {real[name].p99 * 1e3:.0f} ms, simulated {result.p99 * 1e3:.0f}; "
            f"failed {real[name].failed:.2%}, simulated {result.failed:.2%}; late {real[name].late * 1e3:.0f} ms",
            flush=True,
        )
    for one, other in combinations(ALGORITHMS, 2):
        if max(simulated[one][1], simulated[other][1]) > 0.01:
            continue  # who fails requests at once has fewer to wait for
        if simulated[one][0] * TELLING < simulated[other][0]:
            assert real[one].p99 < real[other].p99, (one, other)
        if simulated[other][0] * TELLING < simulated[one][0]:
            assert real[other].p99 < real[one].p99, (other, one)
    assert real["adaptive"].p99 == pytest.approx(simulated["adaptive"][0], rel=AGREES)
    assert real["adaptive"].failed <= SINKHOLE
    if scenario.name in RECOVERED:
        first, half = recovery(real["adaptive"], *RECOVERED[scenario.name])
        print(f"{scenario.name}: first answer after {first:.1f} s, half of its share after {half:.1f} s")
        assert half - first <= 1.0
        if scenario.name == "busy-sinkhole":
            assert half <= 2.0  # one in a hundred; most are within one


@pytest.mark.timeout(100)
def test_nothing_is_lost_that_may_be_sent_again_and_hardly_anything_else() -> None:
    scenario = replace(SCALED["busy-sinkhole"], once=0.5)
    with stubs(scenario) as ports:
        seen = asyncio.run(play_for_real(scenario, "adaptive", ports, clients=CLIENTS, seed=1, retry=Retry()))
    print(f"{len(seen.latencies)} answers, lost: {dict(seen.failures)}, p99 {seen.p99 * 1e3:.0f} ms")
    assert seen.failures["GET"] == 0
    assert seen.failures["POST"] <= LOST * len(seen.latencies)


def recovery(seen: Seen, server: int, at: float) -> tuple[float, float]:
    """Seconds from a server's recovery to its first answer, and to the first second in which it gets half its share."""
    answered = [began for began, good in seen.served[server] if good and began >= at]
    everybody = [began for requests in seen.served for began, _ in requests if began >= at]
    for begin in answered:
        own, all_of_them = (
            sum(begin <= one < begin + 1.0 for one in which) for which in (answered, everybody)
        )
        if own >= 0.5 * all_of_them / len(seen.served):
            return answered[0] - at, begin - at
    raise AssertionError(f"server {server} has not got half of its share since {at} s")
