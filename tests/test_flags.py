"""A flag is True or False: "false", as it comes from an environment variable, would count as true."""

from collections.abc import Callable
from typing import Any

import pytest

from lbclient import AppCookieAffinity, Backend, Connect, CookieAffinity, PassiveHealth, Pool, Split
from lbclient.asgi import RateLimit, RateLimitMiddleware, ReverseProxy
from lbclient.discovery import Consul, Etcd, Kubernetes

URL = "http://127.0.0.1:1"


def no_app(*_: object) -> Any:
    """Nobody calls it."""


MAKERS: dict[Callable[..., Any], tuple[str, ...]] = {
    lambda **flags: Backend(URL, **flags): ("draining",),
    lambda **flags: Pool([URL], **flags): ("fail_open", "preserve_host"),
    lambda **flags: Split({Pool([URL]): 1}, **flags): ("sticky",),
    lambda **flags: ReverseProxy([URL], **flags): (
        "forwarded",
        "preserve_host",
        "rewrite_location",
        "rewrite_cookies",
        "strip_root_path",
    ),
    lambda **flags: RateLimitMiddleware(no_app, RateLimit(requests=1), **flags): ("headers", "fail_open"),
    lambda **flags: Consul("orders", **flags): ("allow_empty", "stale"),
    lambda **flags: Etcd("/orders/", **flags): ("allow_empty",),
    lambda **flags: Kubernetes("orders", **flags): ("allow_empty", "send_initial_events"),
    AppCookieAffinity: ("sticky_while_draining",),
    Connect: ("http1", "http2"),
    CookieAffinity: ("secure", "sticky_while_draining"),
    PassiveHealth: ("retry_after",),
}


@pytest.mark.parametrize(("make", "flag"), [(make, flag) for make, flags in MAKERS.items() for flag in flags])
def test_what_is_neither_true_nor_false_is_refused(make: Callable[..., Any], flag: str) -> None:
    with pytest.raises(TypeError, match=rf"^{flag}.* is 'false'; write True"):
        make(**{flag: "false"})
