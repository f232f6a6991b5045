"""What requests go over: HTTP/1.1 and HTTP/2, plain and inside TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from trustme import CA

from lbclient import Connect
from tests.conftest import StartServer
from tests.servers import CertFiles, Kind, Server


@dataclass(frozen=True, slots=True)
class Wire:
    """One of them, and who speaks it."""

    kind: Kind
    tls: bool
    http2: bool

    def __str__(self) -> str:
        return f"{'http2' if self.http2 else 'http1'} {'over TLS' if self.tls else 'plain'}"

    def start(self, start_server: StartServer, files: CertFiles, name: str) -> Server:
        """A server that speaks it."""
        return start_server(self.kind, name=name, tls=files if self.tls else None)

    def connect(self, ca: CA) -> Connect:
        """For a pool of such servers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(context)
        return Connect(
            verify=context,
            http1=not self.http2 or self.tls,
            http2=self.http2,
            connect_timeout=0.3,
        )

    def raw_tls(self, ca: CA) -> ssl.SSLContext | None:
        """For a raw server among them."""
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(context)
        return context


# granian ends an HTTP/2 stream together with the head of a response that has no body, so that nothing is left to break.
WIRES = (
    Wire("uvicorn", tls=False, http2=False),
    Wire("uvicorn", tls=True, http2=False),
    Wire("granian", tls=False, http2=True),
    Wire("granian", tls=True, http2=True),
)
