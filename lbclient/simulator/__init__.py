"""The simulator: the real core, the same objects as in production, on a virtual clock against modelled servers.

    from lbclient.simulator import SCENARIOS, simulate

    result = simulate(SCENARIOS["sinkhole"], "adaptive", clients=10, seed=1)
    result.p99, result.failed

Same seed, same result, on every machine and Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lbclient.core.algorithms import BY_NAME, Algorithm, from_name
from lbclient.core.checks import check_whole
from lbclient.core.hedging import Hedge
from lbclient.core.options import algorithm_name
from lbclient.core.retry import Retry
from lbclient.simulator.distributions import Exponential, LogNormal, Mixed, Uniform
from lbclient.simulator.engine import play
from lbclient.simulator.ideal import play_ideal
from lbclient.simulator.peers import C3, Prequal
from lbclient.simulator.result import Result, result_of
from lbclient.simulator.scenario import Antagonist, Down, Failing, Scenario, Server, Speed
from lbclient.simulator.scenarios import RESEARCH, SCENARIOS

__all__ = [
    "C3",
    "PEERS",
    "RESEARCH",
    "SCENARIOS",
    "Antagonist",
    "Down",
    "Exponential",
    "Failing",
    "LogNormal",
    "Mixed",
    "Prequal",
    "Result",
    "Scenario",
    "Server",
    "Speed",
    "Uniform",
    "algorithm_of",
    "simulate",
]

PEERS = ("ideal", "prequal", "c3")
"""What can be named besides the algorithms of `lbclient.algorithms`: for comparison only."""


def simulate(
    scenario: Scenario | str,
    algorithm: Algorithm | str,
    *,
    clients: int = 10,
    seed: int = 1,
    reports: bool = False,
    retry: Retry | None = None,
    hedge: Hedge | None = None,
    arrivals: Sequence[tuple[float, float]] | None = None,
    progress: Callable[[float], None] | None = None,
    **pool_options: object,
) -> Result:
    """Run a scenario.

    Args:
        scenario: One of your own, or the name of one in `SCENARIOS`.
        algorithm: A name, an object with `build(backends, rng)`, or one of `PEERS`.
        clients: How many, each with a pool of its own; every request is one of them's at random.
        seed: Of everything that is random. The requests are the same for every algorithm.
        reports: Whether servers say how much they have in flight (`X-LB-Inflight`).
        retry: When requests are sent again; None (unlike a pool's default) for never, so that failures show.
        hedge: When slow requests are copied; None for never.
        arrivals: (second, seconds of work) of each request, in order, instead of the scenario's own.
        progress: Told how much of it is done, 0 to 1.
        pool_options: More arguments of the clients' pools.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """
    check_whole("clients", clients, at_least=1)
    check_whole("seed", seed, at_least=0)
    if isinstance(scenario, str):
        if scenario not in SCENARIOS:
            raise ValueError(f"scenario is {scenario!r}; write one of: {', '.join(SCENARIOS)}")
        scenario = SCENARIOS[scenario]
    chosen = algorithm_of(algorithm, clients)
    if chosen is None:
        log = play_ideal(scenario, seed=seed, arrivals=arrivals, progress=progress)
        return result_of(scenario.name, "ideal", clients, seed, scenario.seconds, log)
    log = play(
        scenario,
        chosen,
        clients=clients,
        seed=seed,
        retry=retry,
        hedge=hedge,
        arrivals=arrivals,
        progress=progress,
        options={**pool_options, "reports": reports},
    )
    return result_of(scenario.name, algorithm_name(chosen), clients, seed, scenario.seconds, log)


def algorithm_of(name: Algorithm | str, clients: int) -> Algorithm | None:
    """The algorithm of that name, or the peer; None for the ideal, which is none.

    Raises:
        ValueError: There is none of that name; the message lists those there are.
    """
    if not isinstance(name, str):
        return name
    if name == "ideal":
        return None
    if name == "prequal":
        return Prequal()
    if name == "c3":
        return C3(clients)
    if name not in BY_NAME:
        raise ValueError(f"algorithm is {name!r}; write one of: {', '.join([*BY_NAME, *PEERS])}")
    return from_name(name)
