"""Real servers on loopback for the tests: ASGI servers, nginx and haproxy in processes of their own, and raw TCP."""

from tests.servers.chaos import ChaosProxy, Cut, Fault
from tests.servers.commands import ASGI_KINDS, KINDS, CertFiles, Kind, available
from tests.servers.nginx import CONFIGURATION as NGINX_CONFIGURATION
from tests.servers.ports import free_port
from tests.servers.process import Server, start
from tests.servers.raw import Connection, Handler, RawServer, full_backlog

__all__ = [
    "ASGI_KINDS",
    "KINDS",
    "NGINX_CONFIGURATION",
    "CertFiles",
    "ChaosProxy",
    "Connection",
    "Cut",
    "Fault",
    "Handler",
    "Kind",
    "RawServer",
    "Server",
    "available",
    "free_port",
    "full_backlog",
    "start",
]
