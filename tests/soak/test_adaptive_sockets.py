"""Real sockets agree with the simulator: twenty servers in their own processes, the same requests, five algorithms.

python -m pytest tests/soak/test_adaptive_sockets.py -s      # seven minutes; prints what docs/adaptive.md shows

The servers are the simulator's models behind sockets (`tests/simulator/stubs.py`), and so slow that a machine of two
cores is nowhere near its limits. What may differ is what is real: sockets, the event loop, lbclient's transport.
"""

import asyncio
from itertools import combinations
from typing import Any

import pytest

from lbclient.simulator import simulate
from tests.simulator.fleet import Seen, play_for_real, stubs
from tests.simulator.scaled import SCALED

ALGORITHMS = ("adaptive", "least_connections", "power_of_two_choices", "peak_ewma", "round_robin")
CLIENTS = 5
TELLING = 1.3  # a p99 of some thousand requests is known to a tenth; who is closer than this has no order
AGREES = 0.25
SINKHOLE = 0.0025


@pytest.mark.timeout(500)
@pytest.mark.parametrize("scenario", SCALED.values(), ids=SCALED)
def test_the_order_of_the_algorithms_is_that_of_the_simulator(scenario: object) -> None:
    from lbclient.simulator import Scenario

    assert isinstance(scenario, Scenario)
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
