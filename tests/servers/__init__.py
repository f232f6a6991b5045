"""Real servers on loopback for the tests: ASGI servers and nginx in processes of their own, and raw TCP."""

from tests.servers.nginx import CONFIGURATION as NGINX_CONFIGURATION
from tests.servers.ports import free_port
from tests.servers.process import KINDS, CertFiles, Kind, Server, available, start
from tests.servers.raw import Connection, Handler, RawServer, full_backlog

__all__ = [
    "KINDS",
    "NGINX_CONFIGURATION",
    "CertFiles",
    "Connection",
    "Handler",
    "Kind",
    "RawServer",
    "Server",
    "available",
    "free_port",
    "full_backlog",
    "start",
]
