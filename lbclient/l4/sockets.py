"""Sockets to backends: where they connect to, how they are set up, and how they end."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import struct
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeAlias

import anyio

from lbclient.core.backend import Backend
from lbclient.core.connect import Connect
from lbclient.core.outcome import Failure

Address: TypeAlias = tuple[socket.AddressFamily, Any]
"""A family, and what `socket.connect` wants of it."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def known_address(backend: Backend) -> Address | None:
    """Where it listens, when nobody has to be asked: a Unix socket, or an IP address."""
    if backend.uds is not None:
        return socket.AF_UNIX, backend.uds
    family = _family_of(backend.hostname)
    return None if family is None else (family, (backend.hostname, backend.port))


@lru_cache(maxsize=4096)  # it is asked for every connection
def _family_of(hostname: str) -> socket.AddressFamily | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, hostname)
            return family
    return None


async def addresses_of(backend: Backend, kind: socket.SocketKind) -> list[Address]:
    """Where it listens, in the resolver's order.

    Raises:
        OSError: Its name is unknown (`socket.gaierror`).
    """
    known = known_address(backend)
    if known is not None:
        return [known]
    found = await anyio.getaddrinfo(backend.hostname, backend.port, type=kind)
    return [(socket.AddressFamily(family), address) for family, _, _, _, address in found]


def new_socket(family: int, kind: socket.SocketKind, connect: Connect) -> socket.socket:
    """A socket that does not block, with the pool's options, bound to its local address.

    Raises:
        OSError: An option or the address is refused, or there are no descriptors left.
    """
    made = socket.socket(family, kind)
    try:
        made.setblocking(False)
        if family != socket.AF_UNIX:
            if kind == socket.SOCK_STREAM:
                stream_options(made)
            if connect.local_address is not None:
                made.bind((connect.local_address, 0))
        for option in connect.socket_options or ():
            made.setsockopt(*option)
    except BaseException:
        made.close()
        raise
    return made


def stream_options(end: socket.socket) -> None:
    """Small writes go out at once, and a peer that has vanished is found out."""
    if end.family != socket.AF_UNIX:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def connected_socket(backend: Backend, connect: Connect) -> socket.socket:
    """A TCP connection, or one to a Unix socket. Where a name has several addresses, the first that takes it.

    Raises:
        OSError: Refused, unreachable, unknown.
    """
    refused: OSError | None = None
    for family, address in await addresses_of(backend, socket.SOCK_STREAM):
        end = new_socket(family, socket.SOCK_STREAM, connect)
        try:
            await _finish_connecting(end, end.connect_ex(address))
        except OSError as exc:
            end.close()
            refused = exc
        except BaseException:
            end.close()
            raise
        else:
            return end
    assert refused is not None
    raise refused


async def _finish_connecting(end: socket.socket, code: int) -> None:
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(end, select.POLLOUT)
        if not poll.poll(0):  # on this machine it has come about by now: a look is cheaper than a wait
            await anyio.wait_writable(end)
        code = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:  # EAGAIN of a Unix socket: its backlog is full
        raise OSError(code, os.strerror(code))


def reset_on_close(end: socket.socket) -> None:
    """The peer is to see that this was no orderly end."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def kind_of(exc: OSError) -> Failure:
    """What an error of an open connection is to its backend."""
    return "timeout" if exc.errno == errno.ETIMEDOUT or isinstance(exc, TimeoutError) else "reset"


def shut(end: socket.socket) -> None:
    """`shutdown(2)` of both directions: wakes whoever waits for it, in whatever event loop or thread."""
    with suppress(OSError):  # it is not connected any more
        end.shutdown(socket.SHUT_RDWR)


def blocking_socket(backend: Backend, connect: Connect, within: float) -> socket.socket:
    """`connected_socket` for those without an event loop; `within` seconds, which stay the socket's timeout."""
    give_up = time.monotonic() + within
    known = known_address(backend)
    if known is not None:
        addresses = [known]
    else:
        found = socket.getaddrinfo(backend.hostname, backend.port, type=socket.SOCK_STREAM)
        addresses = [(socket.AddressFamily(family), address) for family, _, _, _, address in found]
    refused: OSError | None = None
    for family, address in addresses:
        end = new_socket(family, socket.SOCK_STREAM, connect)
        try:
            end.settimeout(max(0.001, give_up - time.monotonic()))  # 0 would be "do not block"
            end.connect(address)
        except OSError as exc:
            end.close()
            refused = exc
        except BaseException:
            end.close()
            raise
        else:
            return end
    assert refused is not None
    raise refused


def is_break(exc: OSError) -> bool:
    """Whether the connection itself broke: not a timeout of the caller's, nor a closed descriptor."""
    unreachable = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
    return isinstance(exc, (ConnectionError, ssl.SSLEOFError)) or exc.errno in unreachable
