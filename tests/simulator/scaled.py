"""The scenarios that are played on real sockets: the package's, of the same names, ten times as slow.

Requests of 50 ms, some three hundred a second: two cores are enough for all of it, and a millisecond more or less is
nothing.
"""

from lbclient.simulator import Exponential, Failing, Scenario, Server, Speed

WORK = Exponential(0.05)
FLEET = (Server(cores=1),) * 20


def _scaled(name: str, servers: tuple[Server, ...] = FLEET, **options: object) -> Scenario:
    return Scenario(name, servers, work=WORK, rate=280.0, warm_up=4.0, seconds=20.0, **options)  # type: ignore[arg-type]


SCALED = {
    scenario.name: scenario
    for scenario in (
        _scaled(
            "heterogeneous",
            (Server(cores=1, speed=0.5),) * 7 + (Server(cores=1),) * 7 + (Server(cores=1, speed=2.0),) * 6,
        ),
        _scaled("sinkhole", changes=(Failing(6.0, 3, 1.0), Failing(14.0, 3, 0.0))),
        _scaled("stall", changes=(Speed(8.0, 3, 0.0), Speed(13.0, 3, 1.0))),
        _scaled(
            "cold-join",
            (*FLEET, Server(cores=1, joins=8.0)),
            changes=(Speed(0.0, 20, 0.1), Speed(13.0, 20, 1.0)),
        ),
    )
}
