"""A short look at real sockets: what is slower gets less, and what fails at once does not get everything."""

import asyncio
from dataclasses import replace

from lbclient.simulator import Failing
from tests.simulator.fleet import play_for_real, stubs
from tests.simulator.scaled import SCALED


def test_slow_servers_get_less_on_real_sockets_and_a_sinkhole_next_to_nothing() -> None:
    scenario = replace(
        SCALED["heterogeneous"], rate=150.0, seconds=5.0, warm_up=1.0, changes=(Failing(2.0, 15, 1.0),)
    )
    with stubs(scenario, processes=2) as ports:
        seen = asyncio.run(play_for_real(scenario, "adaptive", ports, clients=2, seed=1, processes=2))
    served = [len(requests) for requests in seen.served]
    assert sum(served) > 600
    assert sum(served[:7]) / 7 < (served[14] + sum(served[16:])) / 5 / 2  # half as fast, and twice as fast
    assert seen.failed < 0.03
    assert not all(good for _, good in seen.served[15])
    assert all(good for n, requests in enumerate(seen.served) if n != 15 for _, good in requests)


def test_a_server_joins_on_real_sockets() -> None:
    scenario = replace(SCALED["cold-join"], rate=150.0, seconds=4.0, warm_up=1.0, changes=())
    servers = (*scenario.servers[:4], replace(scenario.servers[20], joins=1.0))
    scenario = replace(scenario, servers=servers, rate=40.0)
    with stubs(scenario, processes=1) as ports:
        seen = asyncio.run(play_for_real(scenario, "adaptive", ports, clients=1, seed=1, processes=1))
    assert seen.served[4]
    assert min(at for at, _ in seen.served[4]) > 0.9
    assert seen.failed == 0
