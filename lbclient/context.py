"""What an incoming request lends to the outgoing ones that are made while it is served: whom they are for, until when.

A service that calls others through a shared client has end users of its own. Their addresses, their ties to backends
and their patience belong to them and not to the client, so they travel in a context variable: set where the request
comes in (`lbclient.asgi.ClientContextMiddleware`), read where a balanced transport reads the facts of a request.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from lbclient.core.checks import check_number
from lbclient.core.cookies import without_cookie
from lbclient.core.errors import DeadlineExceeded
from lbclient.core.facts import Header


class ClientContext:
    """The end client on whose behalf requests are made.

    Args:
        client_ip: Its address; what `key="client_ip"` hashes.
        deadline: Seconds from now within which all of it has to be done; None for no limit.
        cookies: Its affinity cookies, as `cookie` headers. They tie requests to backends and are not sent on.
        affinity_cookies: The names of all cookies that are the end client's to keep. A balanced transport reads these
            from here and not from the outgoing request, and puts new ones into `set_cookies`: in the jar of a shared
            client they would tie everybody to one user's backend.

    Raises:
        ValueError, TypeError: `deadline` is not a number, or negative.

    Attributes:
        set_cookies: `set-cookie` headers for the end client, by the name of the cookie.
    """

    __slots__ = ("_cookies", "_until", "affinity_cookies", "client_ip", "set_cookies")

    def __init__(
        self,
        client_ip: str | None = None,
        *,
        deadline: float | None = None,
        cookies: Sequence[Header] = (),
        affinity_cookies: Iterable[str] = (),
    ) -> None:
        self.client_ip = client_ip
        self._until = math.inf
        if deadline is not None:
            self._until = time.monotonic() + check_number("deadline", deadline, at_least=0)
        self._cookies = list(cookies)
        self.affinity_cookies = tuple(affinity_cookies)
        self.set_cookies: dict[bytes, Header] = {}

    def __repr__(self) -> str:
        until = "" if self._until == math.inf else f", {self.left():.3g} s left"
        return f"<ClientContext {self.client_ip}{until}>"

    def left(self) -> float:
        """Seconds until the deadline; infinity when there is none."""
        return self._until - time.monotonic()

    def deadline_only(self) -> ClientContext | None:
        """The same patience of a client that nothing else is known of; None when it has no end."""
        if self._until == math.inf:
            return None
        impatient = ClientContext()
        impatient._until = self._until
        return impatient

    def options(self, own: Mapping[str, object]) -> Mapping[str, object]:
        """The options of an outgoing request: what it says itself, and of a deadline the earlier one.

        Raises:
            DeadlineExceeded: There is no time left.
        """
        options = dict(own)
        if self.client_ip is not None:
            options.setdefault("client_ip", self.client_ip)
        if self._until != math.inf:
            left, given = self.left(), options.get("deadline")
            if left <= 0:
                raise DeadlineExceeded("the deadline of the request that this one is made for has passed")
            options["deadline"] = min(left, given) if isinstance(given, (int, float)) else left
        return options

    def headers(self, own: list[Header]) -> list[Header]:
        """The headers in which an outgoing request's affinities are looked for."""
        for name in self.affinity_cookies:
            own = without_cookie(own, name)
        return [*own, *self._cookies]

    def keep(self, set_cookies: Iterable[Header]) -> None:
        """Remember what a response ties the end client to: for itself, and for what else is asked on its behalf."""
        for header in set_cookies:
            pair = header[1].partition(b";")[0]
            name = pair.partition(b"=")[0]
            self.set_cookies[name] = header
            self._cookies = without_cookie(self._cookies, name.decode("ascii"))
            self._cookies.append((b"cookie", pair))


CLIENT: ContextVar[ClientContext | None] = ContextVar("lbclient_client", default=None)
"""On whose behalf the code that runs makes its requests; None for its own."""


@contextmanager
def on_behalf_of(client: ClientContext | None) -> Generator[None, None, None]:
    """Requests that balanced transports send in here are made for `client`; None: for nobody but the caller."""
    token = CLIENT.set(client)
    try:
        yield
    finally:
        CLIENT.reset(token)
