"""Fleets that nothing was tuned on, each simulated once with fresh seeds, in Markdown: p99 in ms, and what failed.

    python -m benchmarks.unseen             # some minutes of one core
    python -m benchmarks.unseen --seconds 6 # a shorter look

Do not tune on them: they are worth something as long as nobody does.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from lbclient.simulator import Down, Exponential, Failing, LogNormal, Scenario, Server, Speed, simulate

SEEDS = (21, 22, 23)
ALGORITHMS = ("adaptive", "least_connections", "power_of_two_choices", "peak_ewma")
FLEETS = (
    (
        Scenario("large", (Server(),) * 50, load=0.8, seconds=12.0, about="50 servers, 80 % busy"),
        300,
    ),
    (
        Scenario(
            "uneven",
            tuple(Server(cores=2, speed=speed) for speed in (0.5, 1.0, 1.5)) * 4,
            load=0.75,
            work=LogNormal(0.02, 1.0),
            sharing=False,
            seconds=40.0,
            about="12 of two cores at 0.5x, 1x, 1.5x, log-normal, waiting in line, 75 % busy",
        ),
        30,
    ),
    (
        Scenario(
            "errors",
            (Server(),) * 8,
            load=0.6,
            seconds=30.0,
            changes=(*(Failing(0.0, server, 0.02) for server in range(8)), Failing(10.0, 3, 0.3)),
            about="8 servers, 2 % errors everywhere, one begins to fail 30 %",
        ),
        15,
    ),
    (
        Scenario(
            "hangs",
            (Server(),) * 6,
            load=0.5,
            seconds=36.0,
            changes=tuple(
                Speed(8.0 + 8 * server + after, server, factor)
                for server in range(3)
                for after, factor in ((0.0, 0.0), (4.0, 1.0))
            ),
            about="6 servers, three hang for four seconds one after the other",
        ),
        40,
    ),
    (
        Scenario(
            "crashes",
            (Server(cores=8),) * 10,
            load=0.65,
            work=Exponential(0.04),
            seconds=60.0,
            changes=tuple(Down(8.0 + 7 * number, (3 * number) % 10, 3.0) for number in range(7)),
            about="10 servers of eight cores, 40 ms, seven crash for three seconds one after the other",
        ),
        25,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, help="simulated seconds of each, instead of its own")
    seconds: float | None = parser.parse_args().seconds
    print("| fleet | " + " | ".join(ALGORITHMS) + " |\n" + "|---" * (len(ALGORITHMS) + 1) + "|")
    for fleet, clients in FLEETS:
        scenario = fleet if seconds is None else replace(fleet, seconds=seconds, warm_up=seconds / 5)
        row = [_figures(scenario, algorithm, clients) for algorithm in ALGORITHMS]
        print(f"| {fleet.about}, {clients} clients | " + " | ".join(row) + " |", flush=True)


def _figures(scenario: Scenario, algorithm: str, clients: int) -> str:
    """Passive health is off for all: failures are counted before anybody reacts."""
    results = [simulate(scenario, algorithm, clients=clients, seed=seed, passive=None) for seed in SEEDS]
    failed = sum(result.failed for result in results) / len(results)
    p99 = sum(result.p99 for result in results) / len(results) * 1e3
    return f"{p99:.3g}" + (f" ({failed:.2%})" if failed > 0.00005 else "")


if __name__ == "__main__":
    main()
