"""The scenarios that are played on real sockets: the package's, of the same names, ten times as slow.

Requests of 50 ms, some three hundred a second, for servers of one core each: two real cores are enough for all of it,
and a millisecond more or less is nothing. And once six times as many, because how soon a client knows that a server is
well again depends on how much it asks.
"""

from lbclient.simulator import Exponential, Failing, Scenario, Server, Speed

WORK = Exponential(0.05)
FLEET = (Server(cores=1),) * 20
FAILS = (Failing(6.0, 3, 1.0), Failing(14.0, 3, 0.0))


def _scaled(name: str, servers: tuple[Server, ...] = FLEET, **options: object) -> Scenario:
    rate = 280.0 * servers[0].cores
    return Scenario(name, servers, work=WORK, rate=rate, warm_up=4.0, seconds=20.0, **options)  # type: ignore[arg-type]


SCALED = {
    scenario.name: scenario
    for scenario in (
        _scaled(
            "heterogeneous",
            (Server(cores=1, speed=0.5),) * 7 + (Server(cores=1),) * 7 + (Server(cores=1, speed=2.0),) * 6,
        ),
        _scaled("sinkhole", changes=FAILS),
        _scaled("busy-sinkhole", (Server(cores=6),) * 20, changes=FAILS),
        _scaled("stall", changes=(Speed(8.0, 3, 0.0), Speed(13.0, 3, 1.0))),
        _scaled(
            "cold-join",
            (*FLEET, Server(cores=1, joins=8.0)),
            changes=(Speed(0.0, 20, 0.1), Speed(13.0, 20, 1.0)),
        ),
    )
}
