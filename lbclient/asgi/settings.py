"""What a reverse proxy can be told, checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

import httpx

from lbclient.asgi.forwarding import ClientFrom, Trust
from lbclient.core.checks import check_flag, check_number, check_whole

DEFAULT_TIMEOUT = httpx.Timeout(60.0, connect=5.0, pool=5.0)
_PSEUDONYM = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?::[0-9]+)?")  # RFC 9110, 7.6.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """See `ReverseProxy`, whose arguments these are."""

    trusted: Iterable[str]
    client_from: ClientFrom
    forwarded: bool
    via: str | None
    rewrite_location: bool
    rewrite_cookies: bool
    max_body: int | None
    body_timeout: float | None
    timeout: float | httpx.Timeout
    deadline: float | None
    max_message: int
    ping_interval: float | None
    ping_timeout: float

    trust: Trust = field(init=False, repr=False, compare=False)
    timeouts: dict[str, float | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "trust", Trust(self.trusted))
        if self.client_from not in get_args(ClientFrom):
            names = " or ".join(map(repr, get_args(ClientFrom)))
            raise ValueError(f"client_from is {self.client_from!r}; write {names}")
        if self.via is not None and not (isinstance(self.via, str) and _PSEUDONYM.fullmatch(self.via)):
            raise ValueError(f"via is {self.via!r}; write a name such as 'edge-1', or None for no Via")
        for name in ("forwarded", "rewrite_location", "rewrite_cookies"):
            check_flag(name, getattr(self, name))
        if self.max_body is not None:
            check_whole("max_body", self.max_body, at_least=0)
        for name in ("body_timeout", "deadline", "ping_interval"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, above=0)
        check_whole("max_message", self.max_message, at_least=1)
        check_number("ping_timeout", self.ping_timeout, above=0)
        if not isinstance(self.timeout, httpx.Timeout):
            check_number("timeout", self.timeout, above=0)
        put(self, "timeouts", httpx.Timeout(self.timeout).as_dict())
