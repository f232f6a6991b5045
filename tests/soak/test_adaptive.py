"""Adaptive in the simulator, at length: nobody that clients can use is better, and hardly anything fails.

python -m pytest tests/soak/test_adaptive.py        # half an hour on an idle core
"""

import pytest

from lbclient.simulator import RESEARCH, simulate

OTHERS = ("least_connections", "power_of_two_choices", "peak_ewma", "round_robin", "random")
ALIKE = 1.05  # what two seeds can tell apart
WORST = {("antagonists-130", 100): 1.8, ("homogeneous-90", 100): 1.8}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("clients", [1, 10, 100])
@pytest.mark.parametrize("scenario", RESEARCH, ids=lambda scenario: scenario.name)
def test_no_other_algorithm_is_better(scenario: object, clients: int) -> None:
    from lbclient.simulator import Scenario

    assert isinstance(scenario, Scenario)
    ideal = simulate(scenario, "ideal").p99
    own = simulate(scenario, "adaptive", clients=clients)
    assert own.failed <= 0.0025
    assert own.p99 / ideal <= WORST.get((scenario.name, clients), 1.65)
    for name in OTHERS:
        other = simulate(scenario, name, clients=clients, passive=None)
        # who sends a fifth of the requests to a sinkhole has less to do
        assert own.p99 <= ALIKE * other.p99 or other.failed > 10 * own.failed, name
