"""ASGI apps for the servers that tests start as processes: where they lead to stands in the environment."""

import os

from lbclient import Pool, Route, Router
from lbclient.asgi import ReverseProxy

_ours = Pool(os.environ.get("BACKENDS", "http://127.0.0.1:1").split(","), name="ours")
_raw = Pool([os.environ.get("RAW", "http://127.0.0.1:1")], name="raw", passive=None)

proxy = ReverseProxy(Router([Route(path="/raw/*", to=_raw)], default=_ours))
