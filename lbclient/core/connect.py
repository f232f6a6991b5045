"""How a pool's connections are made. Configuration only: to the rest of the core it is opaque."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from lbclient.core.checks import check_flag, check_number, check_whole

if TYPE_CHECKING:
    from ssl import SSLContext

Engine: TypeAlias = Literal["auto", "native", "httpcore"]
SocketOption: TypeAlias = tuple[int, int, int] | tuple[int, int, bytes | bytearray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Connections of a pool: each backend has its own, within these limits.

    Args:
        verify: True (the usual certificate authorities), False (no verification), the path of a CA bundle, or an
            `ssl.SSLContext`. A context must not be shared between pools that differ in `http2`: the protocols offered
            in the handshake are set on it.
        cert: A client certificate: a file, or (certificate, key), or (certificate, key, password).
        http1, http2: The protocols offered; at least one. HTTP/2 needs the extra `http2`, and over plain http it is
            only spoken when `http1=False` (prior knowledge).
        max_connections: Per backend; >= 1, or None for no limit.
        max_idle: Kept open per backend; >= 0, or None for no limit.
        keepalive_expiry: Seconds that an idle connection is kept; >= 0, or None for ever.
        connect_timeout: Seconds for one attempt to connect while another backend is left to try; > 0.
        start_next_after: Seconds (> 0) after which, while the attempt to connect goes on, another backend is asked as
            well: the first that takes a connection gets the request ("happy eyeballs", RFC 8305). None: never.
        local_address: The address to connect from.
        socket_options: For `socket.setsockopt`.
        engine: "native" is our own HTTP/1.1, on asyncio, uvloop, trio and in threads; "httpcore" also speaks HTTP/2;
            "auto" is native unless `http2` is asked for.

    Raises:
        ValueError, TypeError: A value is out of its range.
    """

    verify: SSLContext | str | bool = True
    cert: str | tuple[str, str] | tuple[str, str, str] | None = field(default=None, repr=False)
    http1: bool = True
    http2: bool = False
    max_connections: int | None = 100
    max_idle: int | None = 100
    keepalive_expiry: float | None = 5.0
    connect_timeout: float = 1.0
    start_next_after: float | None = None
    local_address: str | None = None
    socket_options: Sequence[SocketOption] | None = None
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        self._check_tls()
        check_flag("http1", self.http1)
        check_flag("http2", self.http2)
        if not self.http1 and not self.http2:
            raise ValueError("http1 and http2 are both False; at least one has to be True")
        if self.max_connections is not None:
            check_whole("max_connections", self.max_connections, at_least=1)
        if self.max_idle is not None:
            check_whole("max_idle", self.max_idle, at_least=0)
        if self.keepalive_expiry is not None:
            check_number("keepalive_expiry", self.keepalive_expiry, at_least=0)
        check_number("connect_timeout", self.connect_timeout, above=0)
        if self.local_address is not None and not isinstance(self.local_address, str):
            raise TypeError(
                f"local_address is {self.local_address!r}; write an address, like '10.0.0.9', or None"
            )
        if self.socket_options is not None:
            _check_socket_options(self.socket_options)
        if self.start_next_after is not None:
            check_number("start_next_after", self.start_next_after, above=0)
        if self.engine not in get_args(Engine):
            raise ValueError(f"engine is {self.engine!r}; write one of {', '.join(get_args(Engine))}")
        if self.engine == "native" and self.http2:
            raise ValueError(
                "engine is 'native', which speaks HTTP/1.1 only, and http2 is True; write engine='auto' or http2=False"
            )

    def _check_tls(self) -> None:
        verify, cert = self.verify, self.cert
        if not isinstance(verify, (bool, str)) and not hasattr(verify, "wrap_bio"):
            raise TypeError(
                f"verify is {verify!r}; write True, False, the path of a CA bundle, or an ssl.SSLContext"
            )
        parts = (cert,) if isinstance(cert, str) else cert
        if parts is not None and not (
            isinstance(parts, tuple) and 1 <= len(parts) <= 3 and all(isinstance(part, str) for part in parts)
        ):
            raise TypeError(
                f"cert is no certificate but a {type(cert).__name__}; "  # there may be a password in it
                "write a file, or (certificate, key), or (certificate, key, password)"
            )


def _check_socket_options(options: object) -> None:
    allowed = "a list of what setsockopt takes, like [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]"
    if isinstance(options, (str, bytes)) or not isinstance(options, Sequence):
        raise TypeError(f"socket_options is {options!r}; write {allowed}")
    for option in cast("Sequence[object]", options):
        if not isinstance(option, tuple) or len(cast("tuple[object, ...]", option)) < 3:
            raise TypeError(f"socket_options has {option!r}; write {allowed}")
