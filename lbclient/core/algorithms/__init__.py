"""The selection algorithms, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lbclient.core.algorithms.adaptive import Adaptive
from lbclient.core.algorithms.latency import LeastResponseTime, PeakEWMA
from lbclient.core.algorithms.least import LeastConnections
from lbclient.core.algorithms.maglev import Maglev
from lbclient.core.algorithms.picker import Algorithm, Picker
from lbclient.core.algorithms.rendezvous import Rendezvous
from lbclient.core.algorithms.ring import IPHash, RingHash
from lbclient.core.algorithms.rotation import First, RoundRobin
from lbclient.core.algorithms.sampling import Random, WeightedRandom
from lbclient.core.algorithms.shadow import Shadow
from lbclient.core.algorithms.smooth import WeightedRoundRobin
from lbclient.core.algorithms.two_choices import PowerOfTwoChoices

__all__ = [
    "BY_NAME",
    "Adaptive",
    "Algorithm",
    "First",
    "IPHash",
    "LeastConnections",
    "LeastResponseTime",
    "Maglev",
    "PeakEWMA",
    "Picker",
    "PowerOfTwoChoices",
    "Random",
    "Rendezvous",
    "RingHash",
    "RoundRobin",
    "Shadow",
    "WeightedRandom",
    "WeightedRoundRobin",
    "from_name",
]

BY_NAME: Mapping[str, type[Algorithm]] = MappingProxyType(
    {
        "round_robin": RoundRobin,
        "weighted_round_robin": WeightedRoundRobin,
        "least_connections": LeastConnections,
        "least_response_time": LeastResponseTime,
        "ip_hash": IPHash,
        "ring_hash": RingHash,
        "consistent_hash": RingHash,
        "maglev": Maglev,
        "rendezvous": Rendezvous,
        "random": Random,
        "weighted_random": WeightedRandom,
        "power_of_two_choices": PowerOfTwoChoices,
        "peak_ewma": PeakEWMA,
        "adaptive": Adaptive,
        "first": First,
    }
)
"""Every algorithm by the name it has in configuration; `consistent_hash` is a second name of `ring_hash`."""


def from_name(name: str) -> Algorithm:
    """The algorithm called `name`, with its default arguments.

    Raises:
        ValueError: There is none of that name; the message lists those there are.
        ImportError: It needs an extra that is not installed.
    """
    algorithm = BY_NAME.get(name)
    if algorithm is None:
        raise ValueError(f"algorithm is {name!r}; write one of: {', '.join(BY_NAME)}")
    return algorithm()
