"""How a pool's connections are made. Configuration only: to the rest of the core it is opaque."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

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
    cert: str | tuple[str, str] | tuple[str, str, str] | None = None
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
        if self.start_next_after is not None:
            check_number("start_next_after", self.start_next_after, above=0)
        if self.engine not in get_args(Engine):
            raise ValueError(f"engine is {self.engine!r}; write one of {', '.join(get_args(Engine))}")
        if self.engine == "native" and self.http2:
            raise ValueError(
                "engine is 'native', which speaks HTTP/1.1 only, and http2 is True; write engine='auto' or http2=False"
            )
