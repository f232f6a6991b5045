"""Where the sidecar listens: addresses, TLS, and what a listener does with its connections."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from lbclient.sidecar.section import Built, CertificateSection, Count, FilePath, Seconds, Section, short_form

_FORMS = "write 'HOST:PORT', '[IPV6]:PORT', ':PORT' (all addresses), 'unix:/PATH' or 'fd:NUMBER'"
_LOOPBACK = ("127.", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        kind: "tcp", "unix", or "fd" for a socket that was inherited and listens already (systemd's are 3 and up).
        host: tcp: the address; empty for all.
        port: tcp: the port; 0 for any that is free.
        path: unix: of the socket.
        fd: fd: the number of the descriptor.
    """

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach it, as far as the address tells."""
        return self.kind == "unix" or (self.kind == "tcp" and self.host.startswith(_LOOPBACK))

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that is written as in the configuration.

        Raises:
            ValueError: It is no address.
        """
        kind, _, rest = text.partition(":")
        if kind == "unix":
            if not rest:
                raise ValueError(f"{text!r} has no path; {_FORMS}")
            return cls("unix", path=rest)
        if kind == "fd":
            if not rest.isdecimal():
                raise ValueError(f"{text!r} has no number; {_FORMS}")
            return cls("fd", fd=int(rest))
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r} is ambiguous; {_FORMS}")
        if not colon or not port.isdecimal() or int(port) > 65535 or ("/" in host):
            raise ValueError(f"{text!r} is no address; {_FORMS}")
        return cls("tcp", host=host, port=int(port))


def _address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


Bind: TypeAlias = Annotated[
    Address,
    BeforeValidator(_address),
    WithJsonSchema(
        {"type": "string", "description": "HOST:PORT, [IPV6]:PORT, :PORT, unix:/PATH or fd:NUMBER."}
    ),
]


class TlsSection(CertificateSection, Built):
    """What clients are shown, and asked for. The files are read again when they change."""

    sni: dict[str, CertificateSection] = Field(default_factory=dict)
    """Other certificates, by the name that the client asks for: "shop.example.com", "*.example.com"."""
    client_ca: FilePath | None = None
    """Clients have to show a certificate of one of the authorities in this file."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest version of TLS that is spoken."""

    def build(self) -> ssl.SSLContext:
        """The context, made of what the files hold at this moment."""
        context = self._context(self)
        if self.sni:
            others = {name.lower(): self._context(section) for name, section in self.sni.items()}

            def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
                asked = (name or "").lower()
                chosen = others.get(asked) or others.get("*." + asked.partition(".")[2])
                if chosen is not None:
                    connection.context = chosen

            context.sni_callback = choose
        return context

    def files(self) -> tuple[str, ...]:
        """All that the context is made of."""
        sections: list[CertificateSection] = [self, *self.sni.values()]
        named = [path for section in sections for path in (section.certificate, section.key)]
        return tuple(path for path in (*named, self.client_ca) if path is not None)

    def _context(self, section: CertificateSection) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = (
            ssl.TLSVersion.TLSv1_3 if self.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
        )
        context.set_alpn_protocols(["http/1.1"])
        try:
            # without a password OpenSSL would ask for one at the terminal
            context.load_cert_chain(section.certificate, section.key, section.password or "")
        except OSError as exc:  # ssl.SSLError is one
            pair = " and ".join(path for path in (section.certificate, section.key) if path)
            raise ValueError(f"{pair} cannot be used: {exc}") from exc
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as exc:
                raise ValueError(f"client_ca {self.client_ca} cannot be used: {exc}") from exc
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class ListenerSection(Section):
    """Where HTTP requests and WebSockets come in: an address, or a mapping with more."""

    model_config = ConfigDict(json_schema_extra=short_form("bind"))

    bind: Bind
    """The address."""
    tls: TlsSection | None = None
    """TLS ends here; without it plain HTTP is spoken."""
    keep_alive: Seconds = 75.0
    """How long an idle connection is kept."""
    max_connections: Count | None = None
    """Beyond this many connections at a time, requests are answered with 503."""
    backlog: Count = 2048
    """Connections that the system keeps until they are accepted."""

    @model_validator(mode="before")
    @classmethod
    def _from_address(cls, value: object) -> object:
        return {"bind": value} if isinstance(value, str) else value
