"""How a pool picks: one class per algorithm, and `from_name` for configuration files."""

from __future__ import annotations

from lbclient.core.algorithms import (
    BY_NAME,
    Adaptive,
    Algorithm,
    First,
    IPHash,
    LeastConnections,
    LeastResponseTime,
    Maglev,
    PeakEWMA,
    Picker,
    PowerOfTwoChoices,
    Random,
    Rendezvous,
    RingHash,
    RoundRobin,
    Shadow,
    WeightedRandom,
    WeightedRoundRobin,
    from_name,
)

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
