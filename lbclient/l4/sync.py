"""`create_connection`: the same as `connect` for those without an event loop, as a socket."""

from __future__ import annotations

import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from lbclient.core.backend import Backend
from lbclient.core.checks import check_number
from lbclient.core.explain import Record
from lbclient.core.pool import Pool
from lbclient.core.ticket import Ticket
from lbclient.l4.dial import Dial, dial_blocking
from lbclient.l4.errors import CutOff
from lbclient.l4.fleet import Fleet, fleet_of
from lbclient.l4.sockets import blocking_socket, is_break, kind_of, shut
from lbclient.l4.stream import TIMEOUT, context_of, facts_of, stream_backend

_T = TypeVar("_T")

_wrapping = threading.Lock()


class _InFlight(socket.socket):
    """What a socket does that holds a ticket; one without is a socket like any other.

    The standard library closes a socket when its last `makefile()` is closed, in `_real_close`: so does this.
    """

    _ticket: Ticket | None = None
    _fleet: Fleet
    _reason: str | None = None
    record: Record
    """Whom `create_connection` tried, and why."""

    def hold(self, ticket: Ticket, fleet: Fleet, record: Record) -> None:
        """From now on it is that ticket's."""
        self._ticket = ticket
        self._fleet = fleet
        self.record = record

    @property
    def backend(self) -> Backend:
        """Who is at the other end."""
        assert self._ticket is not None
        return self._ticket.backend

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        """See `socket.socket.recv`."""
        data = self._watched(super().recv, *args, **kwargs)
        if not data and self._reason is not None:
            raise CutOff(self._reason)
        return data

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """See `socket.socket.recv_into`."""
        count = self._watched(super().recv_into, *args, **kwargs)
        if not count and self._reason is not None:
            raise CutOff(self._reason)
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:
        """See `socket.socket.send`."""
        return self._watched(super().send, *args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        """See `socket.socket.sendall`."""
        self._watched(super().sendall, *args, **kwargs)

    def _watched(self, call: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        try:
            return call(*args, **kwargs)
        except OSError as exc:
            if self._reason is not None and not isinstance(exc, CutOff):
                raise CutOff(self._reason) from exc
            if self._ticket is not None and is_break(exc):
                self._ticket.failed(kind_of(exc))
            raise

    def cut(self, reason: str) -> None:
        """See `fleet.Cuttable`."""
        self._reason = reason
        shut(self)

    def discard(self) -> None:
        """Close it; its ticket has ended."""
        self.close()

    def detach(self) -> int:
        """The descriptor, which from now on is the caller's: the connection is not in flight any more."""
        self._let_go()
        return super().detach()

    def _real_close(self, *args: Any, **kwargs: Any) -> None:
        self._let_go()
        above: Any = super()
        above._real_close(*args, **kwargs)

    def _let_go(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._fleet.leave(ticket, self)
            if self._reason is None:
                ticket.release()
            else:
                ticket.failed("local")

    def __del__(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.abandon()
            message = f"a connection to {ticket.state.url} was never closed; use `with`"
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)


class BackendSocket(_InFlight):
    """A connection, in flight until it is closed. Not to be made: `create_connection` does."""


class BackendSSLSocket(_InFlight, ssl.SSLSocket):
    """The same inside TLS."""


def create_connection(
    pool: Pool,
    *,
    key: bytes | str | None = None,
    tls: ssl.SSLContext | bool | None = None,
    timeout: float = TIMEOUT,
) -> socket.socket:
    """A connection to one backend of the pool, in flight until it is closed. Blocks.

    The arguments, what is tried, and the errors are those of `connect`; like `socket.create_connection` it returns a
    socket, or an `ssl.SSLSocket` with `tls=`. It has no timeout: that is the caller's to set. Besides it knows
    `.backend` and `.record`.
    """
    fleet = fleet_of(pool)
    check_number("timeout", timeout, above=0)
    context = context_of(fleet, tls)
    fleet.probe_in_a_thread()
    dialing = Dial(fleet, facts_of(key), timeout)

    def establish(ticket: Ticket, within: float) -> BackendSocket | BackendSSLSocket:
        backend = stream_backend(ticket)
        plain = blocking_socket(backend, pool.connect, within)
        made: BackendSocket | BackendSSLSocket
        if context is None:
            made = BackendSocket(plain.family, plain.type, plain.proto, plain.detach())
        else:
            made = _wrapped(plain, backend, context)
        made.settimeout(None)
        made.hold(ticket, fleet, dialing.record)
        return made

    return dial_blocking(dialing, establish)


def _wrapped(plain: socket.socket, backend: Backend, context: ssl.SSLContext) -> BackendSSLSocket:
    name = backend.server_name or backend.hostname
    with _wrapping:  # the class is the context's; whoever else wraps meanwhile gets one that holds nothing
        usual, context.sslsocket_class = context.sslsocket_class, BackendSSLSocket
        try:
            made = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
        finally:
            context.sslsocket_class = usual
    assert isinstance(made, BackendSSLSocket)
    try:
        made.do_handshake()
    except BaseException:
        made.close()
        raise
    return made
