"""What is simulated: servers, requests, and what goes wrong. Scenarios are data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeAlias, TypeVar, cast

from lbclient.core.checks import check_fraction, check_number, check_whole
from lbclient.simulator.distributions import Distribution, Exponential, LogNormal, Mixed, Uniform

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Server:
    """One server.

    Args:
        cores: Requests that it works on at once at full speed.
        speed: Seconds of work that a core does in a second.
        weight: That clients give it.
        joins: The second at which clients hear of it.
    """

    cores: int = 4
    speed: float = 1.0
    weight: float = 1.0
    joins: float = 0.0

    def __post_init__(self) -> None:
        check_whole("cores", self.cores, at_least=1)
        check_number("speed", self.speed, above=0)
        check_number("weight", self.weight, above=0)
        check_number("joins", self.joins, at_least=0)


@dataclass(frozen=True, slots=True)
class Speed:
    """From second `at` on, a server is `factor` times as fast as it was declared; 0 stops it."""

    at: float
    server: int
    factor: float

    def __post_init__(self) -> None:
        check_number("at", self.at, at_least=0)
        check_number("factor", self.factor, at_least=0)


@dataclass(frozen=True, slots=True)
class Failing:
    """From second `at` on, a server fails a `share` of its requests within `after` seconds; 0 heals it."""

    at: float
    server: int
    share: float
    after: float = 0.001

    def __post_init__(self) -> None:
        check_number("at", self.at, at_least=0)
        check_fraction("share", self.share)
        check_number("after", self.after, at_least=0)


@dataclass(frozen=True, slots=True)
class Down:
    """From second `at` on, for `seconds`, a server takes no connections; what it was working on is lost."""

    at: float
    server: int
    seconds: float

    def __post_init__(self) -> None:
        check_number("at", self.at, at_least=0)
        check_number("seconds", self.seconds, above=0)


Change: TypeAlias = Speed | Failing | Down


@dataclass(frozen=True, slots=True)
class Antagonist:
    """Others on the same machines: every server's speed changes by itself, at random, with this mean time between.

    Args:
        every: Seconds.
        low, high: The factors of its speed are drawn from.
    """

    every: float = 4.0
    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        check_number("every", self.every, above=0)
        check_number("low", self.low, above=0)
        check_number("high", self.high, at_least=self.low)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet of servers under a load, and what goes wrong with it.

    Args:
        name: For tables.
        servers: The fleet.
        load: Offered work as a share of what all servers can do at their declared speeds.
        work: Seconds that a request takes on an idle core of speed 1.
        rate: Requests a second, instead of `load`.
        seconds: How long it runs.
        warm_up: Seconds at the beginning whose requests are not counted.
        delay: Seconds on the network, there and back.
        timeout: Seconds after which a client gives up, and charges the server with it.
        sharing: Whether a server with more requests than cores works on all of them at once (processor sharing), or
            lets them wait in line.
        changes: What happens when.
        antagonist: Others on the same machines.
        about: A sentence.
        once: The share of requests that may be sent only once, like a POST: 0 to 1.
    """

    name: str
    servers: Sequence[Server]
    load: float = 0.7
    work: Distribution = Exponential(0.005)  # noqa: RUF009 - frozen
    rate: float | None = None
    seconds: float = 20.0
    warm_up: float = 4.0
    delay: float = 0.0005
    timeout: float = 10.0
    sharing: bool = True
    changes: Sequence[Change] = ()
    antagonist: Antagonist | None = None
    about: str = ""
    once: float = 0.0

    def __post_init__(self) -> None:
        if not self.servers or all(server.joins for server in self.servers):
            raise ValueError(
                f"scenario {self.name!r} begins without servers; write at least one that joins at 0"
            )
        check_number("load", self.load, above=0)
        if self.rate is not None:
            check_number("rate", self.rate, above=0)
        check_number("seconds", self.seconds, above=0)
        check_number("warm_up", self.warm_up, at_least=0, at_most=self.seconds)
        check_number("delay", self.delay, at_least=0)
        check_number("timeout", self.timeout, above=0)
        check_fraction("once", self.once)
        for change in self.changes:
            check_whole("server", change.server, at_least=0, at_most=len(self.servers) - 1)

    @property
    def requests_per_second(self) -> float:
        """All clients together."""
        if self.rate is not None:
            return self.rate
        capacity = sum(server.cores * server.speed for server in self.servers if not server.joins)
        return self.load * capacity / self.work.mean

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Scenario:
        """A scenario that was written as JSON or YAML.

        The keys are the arguments. `servers` is a list of mappings, each with `count` if there are several of it;
        `work`, and each of `changes`, is a mapping whose `kind` is its class in lower case.

        Raises:
            ValueError, TypeError: Something is none of it.
        """
        options = dict(written)
        servers: list[Server] = []
        for one in _listed("servers", options.get("servers", ())):
            own = _mapping(Server, one)
            count = check_whole("count", own.pop("count", 1), at_least=1)
            servers += [_made(Server, own)] * count
        options["servers"] = tuple(servers)
        if "work" in options:
            options["work"] = _of_kind("work", options["work"], (Exponential, LogNormal, Mixed, Uniform))
        options["changes"] = tuple(
            _of_kind("changes", change, (Speed, Failing, Down))
            for change in _listed("changes", options.get("changes", ()))
        )
        if options.get("antagonist") is not None:
            options["antagonist"] = _made(Antagonist, _mapping(Antagonist, options["antagonist"]))
        return _made(cls, options)


def _listed(name: str, written: object) -> Sequence[object]:
    if isinstance(written, (str, bytes)) or not isinstance(written, Sequence):
        raise TypeError(f"{name} is {written!r}; write a list")
    return cast("Sequence[object]", written)


def _mapping(kind: type, written: object) -> dict[str, Any]:
    if not isinstance(written, Mapping):
        known = ", ".join(field.name for field in fields(kind))
        raise TypeError(f"{kind.__name__.lower()} is {written!r}; write a mapping with some of: {known}")
    return dict(cast("Mapping[str, Any]", written))


def _of_kind(name: str, written: object, kinds: Sequence[type[Any]]) -> Any:
    by_name = {kind.__name__.lower(): kind for kind in kinds}
    options = dict(cast("Mapping[str, Any]", written)) if isinstance(written, Mapping) else {}
    kind = by_name.get(options.pop("kind", ""))
    if kind is None:
        raise ValueError(f"{name} has {written!r}; write its kind, one of: {', '.join(by_name)}")
    return _made(kind, options)


def _made(kind: type[_Made], options: Mapping[str, Any]) -> _Made:
    """An object of these arguments, or what is wrong with them."""
    name = kind.__name__.lower()
    needed = {field.name: field.default is MISSING for field in fields(cast("Any", kind))}
    unknown = ", ".join(str(key) for key in options if key not in needed)
    if unknown:
        raise ValueError(f"{name} has no {unknown}; it has: {', '.join(needed)}")
    missing = ", ".join(key for key, must in needed.items() if must and key not in options)
    if missing:
        raise ValueError(f"{name} lacks: {missing}")
    return kind(**options)
