"""What a connection says before its own bytes: who the client is (PROXY header), and whom it wants (ClientHello)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple, TypeAlias, cast

import anyio

from lbclient.l4.client_hello import ClientHello, ClientHelloError, ClientHelloReader
from lbclient.l4.proxy_protocol import ProxyHeader, ProxyHeaderError, ProxyHeaderReader

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

UNRECOGNIZED_NAME, DECODE_ERROR = 112, 50  # TLS alerts: RFC 6066, section 3; RFC 8446, 6.2


class Refused(Exception):
    """The connection is not forwarded.

    Args:
        words: Why.
        last_words: What the client is told.
    """

    def __init__(self, words: str, last_words: bytes = b"") -> None:
        super().__init__(words)
        self.last_words = last_words


class Greeting(NamedTuple):
    """What was said.

    Attributes:
        header: The PROXY header, where one was asked for.
        hello: The ClientHello, likewise.
        first: What was read and is for the backend: the hello, and whatever followed.
    """

    header: ProxyHeader | None = None
    hello: ClientHello | None = None
    first: bytes = b""


async def read_greeting(client: socket.socket, *, header: bool, hello: bool, within: float) -> Greeting:
    """Read what has to come.

    Args:
        client: The accepted socket, which does not block.
        header: Whether it begins with a PROXY header.
        hello: Whether a ClientHello follows.
        within: Seconds for both.

    Raises:
        Refused: Something else came, or nothing in time.
    """
    head, first = None, b""
    said = None
    try:
        with anyio.fail_after(within):
            if header:
                head, first = await _read_proxy_header(client)
            if hello:
                said, first = await _read_hello(client, first)
    except TimeoutError as exc:
        raise Refused(f"no hello within {within} s") from exc
    return Greeting(head, said, first)


async def _read_proxy_header(client: socket.socket) -> tuple[ProxyHeader, bytes]:
    reader = ProxyHeaderReader()
    while True:
        data = await _receive(client)
        try:
            header = reader.feed(data)
        except ProxyHeaderError as exc:
            raise Refused(f"PROXY header: {exc}") from exc
        if header is not None:
            return header, reader.rest


async def _read_hello(client: socket.socket, first: bytes) -> tuple[ClientHello, bytes]:
    reader = ClientHelloReader()
    data = first
    while True:
        try:
            hello = reader.feed(data)
        except ClientHelloError as exc:
            is_tls = reader.received[:1] == b"\x16"
            raise Refused(f"ClientHello: {exc}", alert(DECODE_ERROR) if is_tls else b"") from exc
        if hello is not None:
            return hello, bytes(reader.received)
        data = await _receive(client)


async def _receive(client: socket.socket) -> bytes:
    """Some bytes of a client from which nothing else reads yet."""
    while True:
        try:
            data = client.recv(4096)
        except (BlockingIOError, InterruptedError):
            await anyio.wait_readable(client)
            continue
        except OSError as exc:
            raise Refused("it left before it had said hello") from exc
        if not data:
            raise Refused("it left before it had said hello")
        return data


def say(client: socket.socket, last_words: bytes) -> bool:
    """Tell the client, if there is something to tell; whether it may be left in an orderly way."""
    if not last_words:
        return False
    with suppress(OSError):
        client.send(last_words)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):  # with bytes unread the kernel would send a RST after all
            pass
    return True


def alert(description: int) -> bytes:
    """A fatal TLS alert; the version is what every client takes before there is one."""
    return struct.pack("!BHHBB", 21, 0x0301, 2, 2, description)


def networks(accept_proxy: object) -> bool | tuple[Network, ...]:
    """Whose connections begin with a PROXY header: everybody's, nobody's, or those of some networks.

    Raises:
        ValueError, TypeError: `accept_proxy` is neither.
    """
    if isinstance(accept_proxy, bool):
        return accept_proxy
    write = "write True, False, or the networks of trusted proxies, like ('10.0.0.0/8',)"
    if isinstance(accept_proxy, str) or not isinstance(accept_proxy, Collection):
        raise TypeError(f"accept_proxy is {accept_proxy!r}; {write}")
    try:
        several = cast("Collection[object]", accept_proxy)
        return tuple(ipaddress.ip_network(str(network)) for network in several)
    except ValueError as exc:
        raise ValueError(f"accept_proxy is {accept_proxy!r} ({exc}); {write}") from exc
