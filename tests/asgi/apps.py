"""ASGI apps for the servers that tests start as processes: where they lead to stands in the environment."""

import os

from lbclient.asgi import ReverseProxy

proxy = ReverseProxy(os.environ.get("BACKENDS", "http://127.0.0.1:1").split(","))
