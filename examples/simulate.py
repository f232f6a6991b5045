"""Which algorithm for my fleet? The simulator runs the real ones on a virtual clock.

    python examples/simulate.py

Two of eight servers are half as fast, and one begins to fail after two seconds.
"""

from lbclient.simulator import Exponential, Failing, Scenario, Server, simulate
from lbclient.simulator.compare import compare, recommend, table

FLEET = Scenario(
    "mine",
    servers=[Server(cores=2)] * 6 + [Server(cores=2, speed=0.5)] * 2,
    load=0.6,
    work=Exponential(0.02),
    seconds=6.0,
    warm_up=1.0,
    changes=[Failing(at=2.0, server=1, share=1.0)],
)


def main() -> None:
    rows = compare(
        lambda name, seed: simulate(FLEET, name, clients=5, seed=seed),
        algorithms=["ideal", "adaptive", "least_connections", "round_robin"],
        seeds=[1, 2],
    )
    for line in table(rows):
        print("".join(cell.ljust(22) for cell in line))
    print(recommend(rows))

    result = simulate(FLEET, "adaptive", clients=5)
    print("\nrequests per second and a half, of the one that begins to fail:")
    print([sum(result.load["http://server-1:80"][at : at + 30]) for at in range(0, 120, 30)])


if __name__ == "__main__":
    main()
