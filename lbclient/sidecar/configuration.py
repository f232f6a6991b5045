"""The configuration file as a whole: read, checked, and turned into pools and a router."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, model_validator

from lbclient.core.pool import Pool
from lbclient.core.routing import Expected, Route, Router
from lbclient.core.split import Split
from lbclient.sidecar.document import ConfigurationError, Document, Key, Problem
from lbclient.sidecar.layer4 import L4Section
from lbclient.sidecar.listeners import Address, Bind, ListenerSection
from lbclient.sidecar.pools import PoolSection
from lbclient.sidecar.problems import in_words, problems_of
from lbclient.sidecar.proxying import ProxySection, RateLimitsSection
from lbclient.sidecar.section import Built, Count, Off, Seconds, SecretText, Section, home_of


class RegexSection(Built):
    """A regular expression that has to match all of a value."""

    regex: str
    """As Python's `re` reads it."""

    def build(self) -> re.Pattern[str]:
        """The pattern."""
        try:
            return re.compile(self.regex)
        except re.error as exc:
            raise ValueError(f"regex is {self.regex!r}, which is none: {exc}") from exc


def _condition(value: object) -> object:
    if isinstance(value, (str, RegexSection)) or value is True:
        return value
    if isinstance(value, dict):
        return RegexSection.model_validate(value)
    raise ValueError(f"is {value!r}; write the text it has to be, true for 'there at all', or {{regex: ...}}")


Condition: TypeAlias = Annotated[
    Any, BeforeValidator(_condition, json_schema_input_type=str | Literal[True] | RegexSection)
]
"""What a header, cookie or parameter has to be."""


class RouteSection(Section):
    """The requests that go to a pool or a split: those for which every condition holds."""

    host: str | None = None
    """A name, or "*.example.com" for all below it."""
    path: str | None = None
    """A path, or "/api/*" for it and all below it."""
    methods: list[str] | None = None
    """Such as [GET, HEAD]."""
    headers: dict[str, Condition] | None = None
    """By name: the text it has to be, true for "there at all", or {regex: ...}."""
    cookies: dict[str, Condition] | None = None
    """The same for cookies."""
    query: dict[str, Condition] | None = None
    """The same for parameters of the query."""
    to: str
    """The pool or the split that serves them."""

    def build(self, target: Pool | Split) -> Route:
        """The route.

        Args:
            target: What `to` is the name of.
        """
        options = self.given("to")
        for name in ("headers", "cookies", "query"):
            conditions: dict[str, Any] | None = options.get(name)
            if conditions is not None:
                options[name] = {key: _expected(value) for key, value in conditions.items()}
        return Route(to=target, **options)


def _expected(condition: Any) -> Expected:
    return condition.build() if isinstance(condition, RegexSection) else condition


class SplitSection(Section):
    """Pools that share requests by weight."""

    weights: Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """The share of each pool; 0 is off."""
    sticky: bool = False
    """Whether a client stays on its side, by a cookie."""
    secret: SecretText | list[SecretText] | None = None
    """What that cookie is signed with; by default a random one of this process."""
    cookie: str = "LBCLIENT-SPLIT"
    """Its name; splits that serve the same host need a name each."""

    def build(self, name: str, pools: dict[str, Pool], default_secret: str | None = None) -> Split:
        """The split.

        Args:
            name: Its name.
            pools: All pools by name.
            default_secret: What signs the cookie when the file says nothing of it.
        """
        options = self.given("weights")
        if self.sticky and default_secret is not None:
            options.setdefault("secret", default_secret)
        return Split({pools[pool]: weight for pool, weight in self.weights.items()}, name=name, **options)


class AdminSection(Section):
    """Where operators look, and act: status, metrics, dashboard, drains."""

    bind: Bind = Address("tcp", host="127.0.0.1", port=9901)
    """The address: of this machine only, unless there is a token."""
    token: SecretText | None = None
    """What has to be sent as `Authorization: Bearer TOKEN`; at least 16 characters."""
    hosts: list[str] = []
    """Names by which it may be asked for, beside its address and localhost."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if self.token is None and not self.bind.is_private:
            raise ValueError(
                f"bind is '{self.bind}', which others can reach, and there is no token; write a token, "
                "or an address of this machine such as '127.0.0.1:9901' or 'unix:/run/lbclient.sock'"
            )
        if self.token is not None and len(self.token) < 16:
            raise ValueError("token has fewer than 16 characters, so it can be guessed; write a longer one")
        return self


def _log_path(value: object, info: ValidationInfo) -> object:
    return str(home_of(info) / value) if isinstance(value, str) and value not in ("", "-") else value


LogPath: TypeAlias = Annotated[str, Field(min_length=1), BeforeValidator(_log_path)]


class AccessLogSection(Section):
    """A line for each request."""

    path: LogPath = "-"
    """A file, or "-" for standard output. The file is opened anew on SIGHUP."""
    format: Literal["text", "json"] = "text"
    """How a line is written."""


class ReloadSection(Section):
    """How a changed file is noticed; SIGHUP always works."""

    watch: bool = True
    """Whether this file and the certificates are looked at."""
    interval: Annotated[Seconds, Field(gt=0)] = 1.0
    """How often."""


class ShutdownSection(Section):
    """What happens between SIGTERM and the end of the process."""

    delay: Seconds = 0.0
    """For so long new connections are still taken, while /ready says 503 and answers close their connections."""
    linger: Seconds = 1.0
    """For so long connections without a request are kept: one may be on its way."""
    grace: Seconds = 30.0
    """For so long requests that are under way may take; then they are cut off."""


class Configuration(Section):
    """What `lbclient serve` is told."""

    listeners: list[ListenerSection] = []
    """Where HTTP requests and WebSockets come in."""
    l4: list[L4Section] = []
    """Where connections and datagrams come in that are passed on as they are."""
    pools: Annotated[dict[str, PoolSection], Field(min_length=1)]
    """By name."""
    splits: dict[str, SplitSection] = {}
    """By name."""
    routes: list[RouteSection] = []
    """Tried in order; the first whose conditions all hold decides."""
    default: str | None = None
    """The pool or split that serves what no route takes. With a single pool and no routes: that pool."""
    proxy: ProxySection = ProxySection()
    """How requests are passed on."""
    rate_limits: Annotated[RateLimitsSection | None, Off] = None
    """How often clients may ask."""
    admin: Annotated[AdminSection | None, Off] = AdminSection()
    """Where operators look, and act; off for nowhere."""
    access_log: Annotated[AccessLogSection | None, Off] = AccessLogSection()
    """A line for each request; off for none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What the sidecar says of itself, on standard error."""
    reload: ReloadSection = ReloadSection()
    """How a changed file is noticed."""
    shutdown: ShutdownSection = ShutdownSection()
    """What happens between SIGTERM and the end of the process."""
    workers: Count = 1
    """Processes that serve, each with connections and health of its own. Another number takes a restart."""

    @property
    def entry(self) -> str | None:
        """What serves the requests that no route takes."""
        if self.default is None and self.listeners and not self.routes and len(self.pools) == 1:
            return next(iter(self.pools))
        return self.default

    def router(self, pools: Mapping[str, Pool], splits: Mapping[str, Split]) -> Router | None:
        """The routes over pools and splits that were made of this configuration; None when nothing comes in by HTTP.

        Raises:
            ValueError: A route is never reached, or two cookies have the same name.
        """
        targets: dict[str, Pool | Split] = {**pools, **splits}
        if not self.routes and self.entry is None:
            return None
        default = None if self.entry is None else targets[self.entry]
        return Router([route.build(targets[route.to]) for route in self.routes], default=default)

    def files(self) -> tuple[str, ...]:
        """The files beside the configuration that are read again when they change."""
        return tuple(path for each in self.listeners if each.tls is not None for path in each.tls.files())


def read(path: Path) -> Configuration:
    """The configuration in a file, checked: what this returns can be served.

    Raises:
        ConfigurationError: It cannot; the message has a line for each problem, with the file and the line in it.
    """
    return understand(Document.read(path), path.resolve().parent)


def understand(document: Document, home: Path) -> Configuration:
    """The configuration in a document.

    Args:
        document: It.
        home: What relative paths in it start from.

    Raises:
        ConfigurationError: See `read`.
    """
    try:
        configuration = Configuration.model_validate(document.data, context={"home": home})
    except ValidationError as exc:
        raise ConfigurationError(problems_of(exc, document, Configuration)) from exc
    wrong: list[_Finding] = []
    # one after the other: each relies on the one before
    for look in (_loose_ends, _unused, _not_for_several, _refused):
        wrong = wrong or list(look(configuration))
    if wrong:
        problems: list[Problem] = []
        for place, message in wrong:
            taken, line, _ = document.find(place)
            problems.append(Problem(document.file, line, in_words(taken), message))
        raise ConfigurationError(problems)
    return configuration


_Finding: TypeAlias = tuple[tuple[Key, ...], str]


def _loose_ends(configuration: Configuration) -> Iterator[_Finding]:
    """Names that lead nowhere, and addresses that two want."""
    pools, splits = configuration.pools, configuration.splits
    names = ", ".join((*pools, *splits))
    for name in splits.keys() & pools.keys():
        yield ("splits", name), f"a pool has the name {name!r} as well; give them a name each"
    for name, split in splits.items():
        for pool in split.weights:
            if pool not in pools:
                yield ("splits", name, "weights", pool), f"is no pool; the pools are {', '.join(pools)}"
    for at, route in enumerate(configuration.routes):
        if route.to not in pools and route.to not in splits:
            yield (
                ("routes", at, "to"),
                f"is {route.to!r}, which is no pool and no split; write one of: {names}",
            )
    entry = configuration.entry
    if entry is not None and entry not in pools and entry not in splits:
        yield ("default",), f"is {entry!r}, which is no pool and no split; write one of: {names}"
    for at, listener in enumerate(configuration.l4):
        for place, pool in listener.pools():
            if pool not in pools:
                yield ("l4", at, *place), f"is {pool!r}, which is no pool; write one of: {', '.join(pools)}"
    if configuration.listeners and not configuration.routes and entry is None:
        yield ("listeners",), "there is nobody to route to; write routes, or a default"
    if not configuration.listeners and not configuration.l4:
        yield (), "nothing is listened to; write listeners, like ['127.0.0.1:8080'], or l4"
    limits = [] if configuration.rate_limits is None else configuration.rate_limits.limits
    for at, limit in enumerate(limits):
        if limit.name in (other.name for other in limits[:at]):
            yield ("rate_limits", "limits", at, "name"), f"is {limit.name!r} again; give each limit a name"
    seen: dict[str, str] = {}
    for place, bind in _binds(configuration):
        anything = bind.kind == "tcp" and not bind.port  # of each kind of listener one may take any port
        before = seen.setdefault(f"{place[0]} {bind}" if anything else str(bind), in_words(place))
        if before != in_words(place):
            yield (*place, "bind"), f"is '{bind}', which {before} listens to already"


def _unused(configuration: Configuration) -> Iterator[_Finding]:
    """What nothing leads to."""
    used = {route.to for route in configuration.routes} | {configuration.entry}
    used |= {pool for split in configuration.splits.values() for pool in split.weights}
    used |= {pool for listener in configuration.l4 for _, pool in listener.pools()}
    for kind, names in (("pools", configuration.pools), ("splits", configuration.splits)):
        for name in names:
            if name not in used:
                yield (kind, name), "nothing leads to it; write a route, a default or an l4 listener to it"


def _not_for_several(configuration: Configuration) -> Iterator[_Finding]:
    """What several workers cannot share."""
    if configuration.workers == 1:
        return
    for place, bind in _binds(configuration):
        if place != ("admin",) and (bind.kind == "unix" or (bind.kind == "tcp" and not bind.port)):
            yield (*place, "bind"), f"is '{bind}', which workers cannot share; write an address and a port"
    limits = configuration.rate_limits
    if limits is not None and limits.store is None:
        yield (
            ("rate_limits",),
            "each worker would count by itself; write a store, like 'redis://127.0.0.1:6379'",
        )


def _binds(configuration: Configuration) -> Iterator[tuple[tuple[Key, ...], Address]]:
    for at, listener in enumerate(configuration.listeners):
        yield ("listeners", at), listener.bind
    for at, other in enumerate(configuration.l4):
        if other.protocol == "tcp":  # a datagram's port is another one
            yield ("l4", at), other.bind
    if configuration.admin is not None:
        yield ("admin",), configuration.admin.bind


def _refused(configuration: Configuration) -> Iterator[_Finding]:
    """What pools, routes and splits have against each other."""
    pools = {name: section.build(name) for name, section in configuration.pools.items()}
    splits: dict[str, Split] = {}
    for name, section in configuration.splits.items():
        try:
            splits[name] = section.build(name, pools)
        except (TypeError, ValueError) as exc:
            yield ("splits", name), str(exc)
    if len(splits) < len(configuration.splits):
        return
    for at, route in enumerate(configuration.routes):
        try:
            route.build(next(iter(pools.values())))
        except (TypeError, ValueError) as exc:
            yield ("routes", at, str(exc).partition(" ")[0]), str(exc)
            return
    try:
        router = configuration.router(pools, splits)
    except (TypeError, ValueError) as exc:
        at_route = re.match(r"routes\[(\d+)\]", str(exc))
        yield ("routes", *([] if at_route is None else [int(at_route[1])])), str(exc)
        return
    for pool in () if router is None else router.pools:
        for backend in pool.declared:
            if backend.scheme not in ("http", "https"):
                words = f"has {backend.url}, and HTTP is routed to it; write http:// or https://, or an l4 listener"
                yield ("pools", pool.name), words
    for at, listener in enumerate(configuration.l4):
        try:
            listener.build(pools)
        except ValueError as exc:
            yield ("l4", at), str(exc)
