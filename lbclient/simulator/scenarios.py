"""The scenarios that come with the package.

The first twelve are of the kind that `Adaptive` was found with: 20 servers of 4 cores and requests of 5 ms, each at 1,
10 and 100 clients. The others are small pools and odd fleets.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lbclient.simulator.distributions import LogNormal, Mixed, Uniform
from lbclient.simulator.scenario import Antagonist, Down, Failing, Scenario, Server, Speed

FLEET = (Server(),) * 20
OTHERS = Antagonist(every=4.0, low=0.8, high=2.4)
"""Others on the machines: a server gets from 0.8 to 2.4 times what was promised to it."""

RESEARCH = (
    Scenario("homogeneous-70", FLEET, load=0.7, about="twenty alike servers, 70 % busy"),
    Scenario("homogeneous-90", FLEET, load=0.9, about="twenty alike servers, 90 % busy"),
    Scenario(
        "heterogeneous",
        (Server(speed=1.0),) * 7 + (Server(speed=2.0),) * 7 + (Server(speed=4.0),) * 6,
        load=0.7,
        about="servers that are once, twice and four times as fast",
    ),
    Scenario(
        "antagonists-75", FLEET, load=0.75, antagonist=OTHERS, about="other work on the machines, 75 % busy"
    ),
    Scenario("antagonists-100", FLEET, load=1.0, antagonist=OTHERS, about="as much as was promised"),
    Scenario("antagonists-130", FLEET, load=1.3, antagonist=OTHERS, about="more than was promised"),
    Scenario(
        "sinkhole",
        FLEET,
        changes=(Failing(6.0, 3, 1.0),),
        about="a server begins to fail, a millisecond each",
    ),
    Scenario(
        "grey-failure",
        FLEET,
        changes=(Failing(6.0, 3, 0.3),),
        about="a server begins to fail 30 % of its requests",
    ),
    Scenario(
        "sinkhole-heals",
        FLEET,
        changes=(Failing(6.0, 3, 1.0), Failing(14.0, 3, 0.0)),
        about="a server fails for eight seconds",
    ),
    Scenario(
        "stall",
        FLEET,
        changes=(Speed(8.0, 3, 0.0), Speed(13.0, 3, 1.0)),
        about="a server hangs for five seconds",
    ),
    Scenario(
        "cold-join",
        (*FLEET, Server(joins=8.0)),
        changes=(Speed(0.0, 20, 0.1), Speed(13.0, 20, 1.0)),
        about="a server joins, and is ten times as slow for five seconds",
    ),
    Scenario("heavy-tail", FLEET, work=LogNormal(0.005, 1.8), about="a few requests take very long"),
)

_DEPLOY = tuple(
    change
    for number in range(8)
    for change in (
        Down(6.0 + 6 * number, number, 2.0),
        Speed(8.0 + 6 * number, number, 0.3),
        Speed(10.0 + 6 * number, number, 1.0),
    )
)

OTHER = (
    Scenario(
        "two", (Server(),) * 2, load=0.6, seconds=120.0, changes=(Speed(60.0, 1, 0.5),), about="two servers"
    ),
    Scenario(
        "three",
        (Server(),) * 3,
        load=0.6,
        seconds=120.0,
        changes=(Speed(60.0, 1, 0.5),),
        about="three servers",
    ),
    Scenario(
        "five", (Server(),) * 5, load=0.7, seconds=90.0, changes=(Speed(45.0, 1, 0.5),), about="five servers"
    ),
    Scenario(
        "three-sinkhole",
        (Server(),) * 3,
        load=0.4,
        seconds=60.0,
        changes=(Failing(15.0, 1, 1.0),),
        about="one of three servers begins to fail",
    ),
    Scenario(
        "one-a-second",
        (Server(speed=1.0),) * 3 + (Server(speed=0.25),) * 2,
        rate=1.0,
        seconds=3000.0,
        warm_up=100.0,
        about="a client with a request a second, three quick servers and two slow ones",
    ),
    Scenario(
        "llm",
        (Server(cores=8),) * 8,
        load=0.7,
        work=Uniform(5.0, 60.0),
        seconds=6000.0,
        warm_up=600.0,
        timeout=300.0,
        changes=(Failing(2000.0, 2, 1.0), Failing(4000.0, 2, 0.0)),
        about="answers that take 5 to 60 seconds; a server fails for a while",
    ),
    Scenario(
        "rolling-deploy",
        (Server(cores=1),) * 8,
        load=0.55,
        work=Mixed(0.005, 0.05, 0.1),
        sharing=False,
        seconds=60.0,
        changes=_DEPLOY,
        about="one server after the other restarts, and is slow at first; one request at a time, of two sizes",
    ),
    Scenario(
        "mixed-sizes",
        (Server(),) * 10,
        load=0.6,
        work=Mixed(0.002, 0.7, 0.005),
        about="0.5 % of the requests are 350 times as large",
    ),
    Scenario(
        "canary",
        (Server(weight=20.0),) * 20 + (Server(weight=1.0),),
        load=0.6,
        about="a canary of weight 1 among twenty of weight 20",
    ),
)

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {scenario.name: scenario for scenario in (*RESEARCH, *OTHER)}
)
"""All of them, by name."""
