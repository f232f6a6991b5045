"""Bytes both ways between a client and a backend, until both have said that they are done.

    client ── up ──> backend        Each way is a small pump of its own: read when there is something, write what was
    client <─ down ─ backend        read, and read no more until all of it is written (back-pressure). So there are
                                    never more than `CHUNK_BYTES` of a way in this process.

How a way ends is passed on as it came. An end of stream (FIN) closes the other side for writing, behind the last
byte, while the opposite way goes on: a half-close. A break (RST, timeout, a cut) is a break for the other side too:
what was truncated must not look complete. Nothing here waits, so nothing here can be cancelled in the middle.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from lbclient.core.ticket import Ticket
from lbclient.l4.fleet import Fleet
from lbclient.l4.readiness import Readiness
from lbclient.l4.sockets import kind_of, reset_on_close

CHUNK_BYTES = 65_536
CHUNKS_AT_ONCE = 8  # before the others have their turn


class _Way:
    """One direction."""

    __slots__ = ("_reading", "_relay", "_sink", "_source", "_writing", "ended", "passed", "waiting")

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket) -> None:
        self._relay = relay
        self._source = source
        self._sink = sink
        self._reading = self._writing = False  # what is waited for; closing is cheaper for whoever knows
        self.waiting = b""  # what was read and is not written yet
        self.passed = 0
        self.ended = False

    def start(self, first: bytes) -> None:
        """Begin with bytes that were read before."""
        self.waiting = first
        if first:
            self._write()
        else:
            self._read()

    def _read(self) -> None:
        self._reading = True
        self._relay.readiness.on_readable(self._source, self.pump)

    def _write(self) -> None:
        self._writing = True
        self._relay.readiness.on_writable(self._sink, self.flush)

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._reading:
            self._reading = False
            self._relay.readiness.off_readable(self._source)
        if self._writing:
            self._writing = False
            self._relay.readiness.off_writable(self._sink)

    def pump(self) -> None:
        """There is something to read."""
        relay = self._relay
        buffer = relay.buffer
        for _ in range(CHUNKS_AT_ONCE):
            try:
                count = self._source.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                relay.broke(self._source, exc)
                return
            if not count:
                self._end()
                return
            try:
                sent = self._sink.send(buffer[:count])
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                relay.broke(self._sink, exc)
                return
            self.passed += sent
            if sent < count:
                self.waiting = bytes(buffer[sent:count])
                self.stop()
                self._write()
                return
            if count < CHUNK_BYTES:
                return

    def flush(self) -> None:
        """There is room to write."""
        relay = self._relay
        try:
            sent = self._sink.send(self.waiting)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            relay.broke(self._sink, exc)
            return
        self.passed += sent
        self.waiting = self.waiting[sent:]
        if not self.waiting:
            self.stop()
            self._read()

    def _end(self) -> None:
        relay = self._relay
        self.ended = True
        self.stop()
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError as exc:
            relay.broke(self._sink, exc)
        else:
            relay.way_ended()


class Relay:
    """One forwarded connection. Owns both sockets, from `start` on.

    Args:
        client: The accepted socket.
        backend: The connected one.
        ticket: In flight until the end.
        fleet: Of the ticket's pool.
        over: Called once, when both sockets are closed.

    Attributes:
        reason: Why it was cut; None while it was not.
        idle_since: When the last bytes passed, for `look`.
    """

    __slots__ = (
        "__weakref__",
        "_backend",
        "_client",
        "_down",
        "_fleet",
        "_open",
        "_over",
        "_readiness",
        "_seen",
        "_ticket",
        "_up",
        "buffer",
        "idle_since",
        "reason",
    )

    def __init__(
        self,
        client: socket.socket,
        backend: socket.socket,
        ticket: Ticket,
        fleet: Fleet,
        over: Callable[[Relay], None],
    ) -> None:
        self._client = client
        self._backend = backend
        self._ticket = ticket
        self._fleet = fleet
        self._over = over
        self._up = _Way(self, client, backend)
        self._down = _Way(self, backend, client)
        self._readiness: Readiness | None = None
        self._open = False
        self._seen = -1
        self.idle_since = 0.0
        self.reason: str | None = None

    def __repr__(self) -> str:
        state = "cut" if self.reason else "open" if self._open else "closed"
        return f"<Relay to {self._ticket.state.url}, {state}, {self.up} bytes up, {self.down} down>"

    @property
    def up(self) -> int:
        """Bytes that the backend's socket took."""
        return self._up.passed

    @property
    def down(self) -> int:
        """Bytes that the client's socket took."""
        return self._down.passed

    def start(self, readiness: Readiness, buffer: memoryview, to_backend: bytes) -> None:
        """Pass bytes from now on.

        Args:
            readiness: Of the event loop.
            buffer: `CHUNK_BYTES` to read into, which relays of one event loop share.
            to_backend: What goes before the client's next bytes.
        """
        self._open = True
        self.buffer = buffer
        self._readiness = readiness
        if self.reason is not None:  # cut since it came about; who cuts from now on finds the readiness
            self.abort()
            return
        self._up.start(to_backend)
        self._down.start(b"")

    @property
    def readiness(self) -> Readiness:
        """Of its event loop."""
        assert self._readiness is not None
        return self._readiness

    def look(self, now: float, patience: float) -> bool:
        """Whether nothing has passed for so many seconds; to be asked now and then."""
        passed = self._up.passed + self._down.passed
        if passed != self._seen:
            self._seen = passed
            self.idle_since = now
        return now - self.idle_since >= patience

    # How it ends

    def way_ended(self) -> None:
        """One way is done."""
        if self._up.ended and self._down.ended:
            self._close(abort=False)

    def broke(self, end: socket.socket, exc: OSError) -> None:
        """One side broke. The backend's fault, unless it had said that it was done, or was cut off."""
        if end is self._backend and self.reason is None and not self._down.ended:
            self._ticket.failed(kind_of(exc))
        self._close(abort=True)

    def time_out(self) -> None:
        """Nothing has passed for too long: the backend's fault if it does not take what it was sent."""
        if self._up.waiting:
            self._ticket.failed("timeout")
        self._close(abort=bool(self._up.waiting or self._down.waiting))

    def cut(self, reason: str) -> None:
        """See `fleet.Cuttable`."""
        self.reason = reason
        if self._readiness is not None:
            self._readiness.here(self.abort)

    def abort(self) -> None:
        """End it at once. From its own event loop."""
        self._close(abort=True)

    def discard(self) -> None:
        """Close the backend's socket only: it came too late, and the client gets another one."""
        self._fleet.leave(self._ticket, self)
        self._backend.close()

    def _close(self, *, abort: bool) -> None:
        if not self._open:
            return
        self._open = False
        self._fleet.leave(self._ticket, self)
        self._up.stop()
        self._down.stop()
        for end in (self._client, self._backend):
            if abort:
                reset_on_close(end)
            end.close()
        if self.reason is None:
            self._ticket.release()
        else:
            self._ticket.failed("local")
        self._over(self)
