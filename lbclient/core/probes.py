"""How backends are probed: what is asked, how often, and which answer passes.

Configuration and verdicts only. Carrying a probe out is the prober's business, and what a verdict does to a
backend is `health.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias, cast

from lbclient.core.checks import check_fraction, check_number, check_whole
from lbclient.core.frozen import FrozenMapping

Expect: TypeAlias = str | int | Collection[int]
Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
Text: TypeAlias = str | re.Pattern[str] | re.Pattern[bytes]

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Z]+")  # RFC 9110, section 9.1: case counts
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?|")
_PATH = re.compile(r"/[\x21\x22\x24-\x7e]*")  # printable ASCII, no space and no '#'
_HOST = re.compile(r"[\x21-\x2e\x30-\x3f\x41-\x7e]+")  # the same without '/' and '@'
_STATUSES = re.compile(r"(\d{3})(?:-(\d{3}))?")
_OURS = frozenset({"connection", "content-length", "host", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Ask every backend over HTTP, on a connection of the probe's own. Redirects are answers, not followed.

    Args:
        path: What to ask for, with its query if it has one; starts with "/". A path prefix in a backend's URL
            is *not* put before it: the prefix belongs to the service, health to the server.
        method: The request's method.
        interval: Seconds from the start of one probe to the start of the next; > 0. How long an answer takes
            does not delay the next probe.
        timeout: Seconds for the whole probe, connecting included; > 0, at most `interval`.
        healthy_threshold: Passed probes in a row that bring a failing backend back; >= 1.
        unhealthy_threshold: Failed probes in a row that take a passing backend out; >= 1.
        expect: The statuses that pass: "200", "200,202", "200-299" (the form of ALB's matcher), a number, or
            a collection of numbers.
        headers: Additional request headers, as a mapping or pairs.
        host: The `Host` header, by default the backend's. The TLS server name stays the backend's either way.
        port: The port to ask at instead of the backend's.
        body: What the response's body must contain as well: plain text, or a compiled regular expression to
            search for (of str, for a body read as UTF-8, or of bytes). The first MiB is looked at.
        jitter: The share of the interval by which the next probe may come earlier or later; 0 to 1. So those
            who began at the same moment do not stay together.
        interval_unhealthy: Seconds between the probes of a backend that is failing; > 0, by default
            `interval`. Where `timeout` is longer, a hanging probe is waited for: there are never two at once.
        scheme: "http" or "https" whatever the backend's URL says; by default as its URL says.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    path: str = "/"
    method: str = field(default="GET", kw_only=True)
    interval: float = field(default=15.0, kw_only=True)
    timeout: float = field(default=5.0, kw_only=True)
    healthy_threshold: int = field(default=2, kw_only=True)
    unhealthy_threshold: int = field(default=3, kw_only=True)
    expect: Expect = field(default="200", kw_only=True)
    headers: Headers | None = field(default=None, kw_only=True, hash=False)
    host: str | None = field(default=None, kw_only=True)
    port: int | None = field(default=None, kw_only=True)
    body: Text | None = field(default=None, kw_only=True)
    jitter: float = field(default=0.1, kw_only=True)
    interval_unhealthy: float | None = field(default=None, kw_only=True)
    scheme: Literal["http", "https"] | None = field(default=None, kw_only=True)

    _statuses: frozenset[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        _check_text("path", self.path, _PATH, "a path that starts with '/', percent-encoded, like '/health'")
        _check_text("method", self.method, _METHOD, "a method in upper case, such as 'GET'")
        _check_schedule(self)
        if self.interval_unhealthy is not None:
            check_number("interval_unhealthy", self.interval_unhealthy, above=0)
        put(self, "_statuses", _statuses("expect", self.expect, 100, 599))
        if not isinstance(self.expect, (str, int)):
            put(self, "expect", self._statuses)
        put(self, "headers", _frozen(self.headers))
        if self.host is not None:
            _check_text("host", self.host, _HOST, "a host, with a port if needed, like 'example.com:8080'")
        if self.scheme not in (None, "http", "https"):
            raise ValueError(f"scheme is {self.scheme!r}; write 'http', 'https', or None for its URL's")
        _check_body(self.body, self.method)

    @property
    def header_pairs(self) -> tuple[tuple[str, str], ...]:
        """The additional headers as pairs."""
        return _pairs(self.headers)

    def matches(self, status: int) -> bool:
        """Whether an answer with this status may pass."""
        return status in self._statuses

    def accepts(self, status: int, body: bytes = b"") -> bool:
        """Whether the answer passes."""
        return self.objection(status, body) is None

    def objection(self, status: int, body: bytes = b"") -> str | None:
        """Why the answer does not pass, in words; None when it does."""
        if not self.matches(status):
            return f"status {status} instead of {_shown(self.expect)}"
        if self.body is None or _contains(body, self.body):
            return None
        return f"{self.body!r} is not in its body"

    def delay(self, passing: bool, rng: Random) -> float:
        """Seconds from the start of a probe to the start of the next.

        The first probe of all has no delay: a backend that joins is judged by it, and a client that starts
        waits for it. The jitter of the later ones takes those apart who began together.

        Args:
            passing: Whether the backend is not failing.
            rng: What draws the jitter.
        """
        interval = self.interval if passing or self.interval_unhealthy is None else self.interval_unhealthy
        return _jittered(interval, self.jitter, rng)

    @classmethod
    def from_alb(cls, settings: Mapping[str, object]) -> HttpProbe:
        """The probe that an AWS target group's health check describes.

        Args:
            settings: The keys of ELBv2's `CreateTargetGroup` that begin with `HealthCheck`, the thresholds
                and `Matcher`, with ALB's ranges and defaults. `HealthCheckProtocol` decides whether the probe
                speaks TLS, whatever the backend's URL says; when it is left out, the URL decides.
                Certificates are verified as for every request to the backend (ALB verifies none).

        Raises:
            ValueError, TypeError: A key is unknown, or a value is out of ALB's range.
        """
        return cls(**_from_alb(settings))  # type: ignore[arg-type]  # checked by __post_init__


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpProbe:
    """Connect to every backend and close again: passed when the connection was accepted. TLS is not spoken.

    Args:
        interval: Seconds from the start of one probe to the start of the next; > 0.
        timeout: Seconds to connect; > 0, at most `interval`.
        healthy_threshold: Passed probes in a row that bring a failing backend back; >= 1.
        unhealthy_threshold: Failed probes in a row that take a passing backend out; >= 1.
        port: The port to connect to instead of the backend's.
        jitter: Which share of the interval the next probe may come earlier or later; 0 to 1.

    Raises:
        ValueError, TypeError: An argument is out of its range; the message says what to write.
    """

    interval: float = 15.0
    timeout: float = 5.0
    healthy_threshold: int = 2
    unhealthy_threshold: int = 3
    port: int | None = None
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check_schedule(self)

    def delay(self, passing: bool, rng: Random) -> float:
        """Seconds from the start of a probe to the start of the next, passing or not."""
        return _jittered(self.interval, self.jitter, rng)


Probe: TypeAlias = HttpProbe | TcpProbe


def _jittered(interval: float, jitter: float, rng: Random) -> float:
    return interval * (1 + jitter * (2 * rng.random() - 1))


def _check_schedule(probe: Probe) -> None:
    """What both kinds have in common."""
    check_number("interval", probe.interval, above=0)
    check_number("timeout", probe.timeout, above=0)
    if probe.timeout > probe.interval:
        raise ValueError(f"timeout is {probe.timeout!r}; write at most the interval ({probe.interval!r})")
    check_whole("healthy_threshold", probe.healthy_threshold, at_least=1)
    check_whole("unhealthy_threshold", probe.unhealthy_threshold, at_least=1)
    if probe.port is not None:
        check_whole("port", probe.port, at_least=1, at_most=65535)
    check_fraction("jitter", probe.jitter)


def _check_text(name: str, value: object, form: re.Pattern[str], wanted: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; write {wanted}")
    if not form.fullmatch(value):
        raise ValueError(f"{name} is {value!r}; write {wanted}")


# Statuses


def _statuses(name: str, expect: object, at_least: int, at_most: int) -> frozenset[int]:
    """The statuses that `expect` stands for, each from `at_least` to `at_most`."""
    wanted = f"'200', '200,202', '200-299' or numbers from {at_least} to {at_most}"
    found: list[object]
    if isinstance(expect, str):
        found = [status for item in expect.split(",") for status in _span(name, expect, item.strip(), wanted)]
    elif isinstance(expect, int):
        found = [expect]
    elif isinstance(expect, Collection) and not isinstance(expect, (bytes, Mapping)):
        found = list(cast(Collection[object], expect))
    else:
        raise TypeError(f"{name} is {expect!r}; write {wanted}")
    if not found:
        raise ValueError(f"{name} is {expect!r}, which no status matches; write {wanted}")
    checked = (check_whole(f"a status in {name}", one, at_least=at_least, at_most=at_most) for one in found)
    return frozenset(checked)


def _span(name: str, expect: str, item: str, wanted: str) -> range:
    match = _STATUSES.fullmatch(item)
    if match is None:
        raise ValueError(f"{name} is {expect!r}; write {wanted}")
    first = int(match[1])
    last = int(match[2] or first)
    if last < first:
        raise ValueError(f"{name} is {expect!r}, and {item!r} goes backwards; write {wanted}")
    return range(first, last + 1)


def _shown(expect: Expect) -> str:
    return str(expect) if isinstance(expect, (str, int)) else ", ".join(map(str, sorted(expect)))


# Headers and body


def _pairs(headers: Headers | None) -> tuple[tuple[str, str], ...]:
    if headers is None:
        return ()
    if isinstance(headers, Mapping):
        return tuple(cast(Mapping[str, str], headers).items())
    return tuple(headers)


def _frozen(headers: object) -> Headers | None:
    """The headers as they were written, checked, and out of the reach of later changes."""
    if headers is None:
        return None
    wanted = "a mapping or pairs of strings, like {'X-Probe': 'lbclient'}"
    if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise TypeError(f"headers is {headers!r}; write {wanted}")
    pairs: list[tuple[str, str]] = []
    given: Iterable[object] = cast("Iterable[object]", headers)
    if isinstance(headers, Mapping):
        given = cast("Mapping[object, object]", headers).items()
    for pair in given:
        match pair:
            case [str(name), str(value)]:
                pairs.append((name, value))
            case _:
                raise TypeError(f"headers has {pair!r}; write {wanted}")
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"headers has {name!r}: {value!r}, which cannot be sent; write {wanted}")
        if name.lower() in _OURS:
            instead = "write host= instead" if name.lower() == "host" else "leave it out: the probe sets it"
            raise ValueError(f"headers has {name!r}; {instead}")
    return FrozenMapping(dict(pairs)) if isinstance(headers, Mapping) else tuple(pairs)


def _check_body(body: object, method: str) -> None:
    if body is None:
        return
    if not isinstance(body, (str, re.Pattern)):
        raise TypeError(f"body is {body!r}; write the text to find, or re.compile(...)")
    if not body:
        raise ValueError("body is '', which is in every body; write the text to find, or leave it out")
    if method == "HEAD":
        raise ValueError("method is 'HEAD', whose answers have no body; write 'GET', or leave body out")


def _contains(body: bytes, wanted: Text) -> bool:
    if isinstance(wanted, str):
        return wanted.encode() in body
    # Type checkers differ on what `pattern` says of the type of the whole.
    text = body if isinstance(wanted.pattern, bytes) else body.decode("utf-8", "replace")
    return cast("Any", wanted).search(text) is not None


# AWS

_ALB_KEYS = (
    "HealthCheckEnabled",
    "HealthCheckProtocol",
    "HealthCheckPort",
    "HealthCheckPath",
    "HealthCheckIntervalSeconds",
    "HealthCheckTimeoutSeconds",
    "HealthyThresholdCount",
    "UnhealthyThresholdCount",
    "Matcher",
)


def _from_alb(settings: Mapping[str, object]) -> dict[str, object]:
    """The arguments of `HttpProbe` for a target group's health check (ELBv2 API 2015-12-01, as for ALB)."""
    if not isinstance(settings, Mapping):
        raise TypeError(f"from_alb takes a mapping, like {{'HealthCheckPath': '/health'}}, not {settings!r}")
    unknown = [key for key in settings if key not in _ALB_KEYS]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"{names} is not of a health check; its keys are {', '.join(_ALB_KEYS)}")
    enabled = settings.get("HealthCheckEnabled", True)
    if enabled is not True:
        raise ValueError(f"HealthCheckEnabled is {enabled!r}; write True, or leave the pool's probe out")

    def whole(key: str, default: int, at_least: int, at_most: int) -> int:
        return check_whole(key, settings.get(key, default), at_least=at_least, at_most=at_most)

    path = settings.get("HealthCheckPath", "/")
    wanted = "a path of 1 to 1024 characters that starts with '/'"
    _check_text("HealthCheckPath", path, re.compile(f"(?=.{{1,1024}}$){_PATH.pattern}"), wanted)
    return {
        "path": path,
        "scheme": _alb_scheme(settings.get("HealthCheckProtocol")),
        "port": _alb_port(settings.get("HealthCheckPort", "traffic-port")),
        "interval": whole("HealthCheckIntervalSeconds", 30, 5, 300),
        "timeout": whole("HealthCheckTimeoutSeconds", 5, 2, 120),
        "healthy_threshold": whole("HealthyThresholdCount", 5, 2, 10),
        "unhealthy_threshold": whole("UnhealthyThresholdCount", 2, 2, 10),
        "expect": _alb_matcher(settings.get("Matcher", {"HttpCode": "200"})),
    }


def _alb_scheme(protocol: object) -> str | None:
    if protocol in ("TCP", "TLS"):
        raise ValueError(
            f"HealthCheckProtocol is {protocol!r}; use TcpProbe(...), or write 'HTTP' or 'HTTPS'"
        )
    if protocol not in (None, "HTTP", "HTTPS"):
        raise ValueError(f"HealthCheckProtocol is {protocol!r}; write 'HTTP' or 'HTTPS'")
    return None if protocol is None else str(protocol).lower()


def _alb_port(port: object) -> int | None:
    if port == "traffic-port":
        return None
    number = int(port) if isinstance(port, str) and re.fullmatch("[0-9]{1,5}", port) else port
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
        raise ValueError(f"HealthCheckPort is {port!r}; write 'traffic-port' or a number from 1 to 65535")
    return number


def _alb_matcher(matcher: object) -> Expect:
    given: Mapping[object, object] = {}
    if isinstance(matcher, Mapping):
        given = cast("Mapping[object, object]", matcher)
    if set(given) != {"HttpCode"}:
        raise ValueError(
            f"Matcher is {matcher!r}; write {{'HttpCode': '200-299'}} (there are no gRPC probes)"
        )
    code = given["HttpCode"]
    if not isinstance(code, (str, int)):
        raise TypeError(f"HttpCode is {code!r}; write it like '200', '200,202' or '200-299'")
    _statuses("HttpCode", code, 200, 499)
    return code
