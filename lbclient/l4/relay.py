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
from typing import Protocol

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

    def start(self, first: bytes, own: int = 0) -> None:
        """Begin with bytes that were read before, the first `own` of which are none of the source's."""
        self.passed = -own
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


class Owner(Protocol):
    """What a relay tells whoever started it."""

    def over(self, relay: Relay) -> None:
        """Both sockets are closed. Said once, unless `elsewhere` was said."""
        ...  # pragma: no cover - a protocol

    def elsewhere(self, relay: Relay, exc: OSError, unsent: bytes) -> bool:
        """The backend broke before a byte had passed either way. Whether the client is to have another one.

        Then the client's socket stays open, and its first bytes are `unsent`.
        """
        ...  # pragma: no cover - a protocol


class Relay:
    """One forwarded connection. Owns both sockets, from `start` on.

    Args:
        client: The accepted socket.
        backend: The connected one.
        ticket: In flight until the end.
        fleet: Of the ticket's pool.
        owner: Is told how it ends.

    Attributes:
        ticket: As given.
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
        "_owner",
        "_readiness",
        "_seen",
        "_silent_since",
        "_up",
        "buffer",
        "idle_since",
        "reason",
        "ticket",
    )

    def __init__(
        self,
        client: socket.socket,
        backend: socket.socket,
        ticket: Ticket,
        fleet: Fleet,
        owner: Owner,
    ) -> None:
        self._client = client
        self._backend = backend
        self.ticket = ticket
        self._fleet = fleet
        self._owner = owner
        self._up = _Way(self, client, backend)
        self._down = _Way(self, backend, client)
        self._readiness: Readiness | None = None
        self._open = False
        self._seen: int | None = None
        self._silent_since: float | None = None
        self.idle_since = 0.0
        self.reason: str | None = None

    def __repr__(self) -> str:
        state = "cut" if self.reason else "open" if self._open else "closed"
        return f"<Relay to {self.ticket.state.url}, {state}, {self.up} bytes up, {self.down} down>"

    @property
    def up(self) -> int:
        """Bytes of the client's that the backend's socket took."""
        return max(0, self._up.passed)

    @property
    def down(self) -> int:
        """Bytes that the client's socket took."""
        return self._down.passed

    def start(self, readiness: Readiness, buffer: memoryview, to_backend: bytes, own: int = 0) -> None:
        """Pass bytes from now on.

        Args:
            readiness: Of the event loop.
            buffer: `CHUNK_BYTES` to read into, which relays of one event loop share.
            to_backend: What goes before the client's next bytes.
            own: How many of those are ours, and not the client's.
        """
        self._open = True
        self.buffer = buffer
        self._readiness = readiness
        if self.reason is not None:  # cut since it came about; who cuts from now on finds the readiness
            self.abort()
            return
        self._up.start(to_backend, own)
        self._down.start(b"")

    @property
    def readiness(self) -> Readiness:
        """Of its event loop."""
        assert self._readiness is not None
        return self._readiness

    def look(self, now: float, patience: float, answer_within: float | None) -> bool:
        """Whether its time is up; to be asked now and then.

        Args:
            now: On the event loop's clock.
            patience: Seconds without a byte.
            answer_within: Seconds from the client's first bytes to the backend's; None for no limit.
        """
        passed = self._up.passed + self._down.passed
        if passed != self._seen:
            self._seen = passed
            self.idle_since = now
        if answer_within is not None and self.up and not self.down:
            if self._silent_since is None:
                self._silent_since = now
            if now - self._silent_since >= answer_within:
                return True
        else:
            self._silent_since = None
        return now - self.idle_since >= patience

    # How it ends

    def way_ended(self) -> None:
        """One way is done."""
        if self._up.ended and self._down.ended:
            self._close(abort=False)

    def broke(self, end: socket.socket, exc: OSError) -> None:
        """One side broke. The backend's fault, unless it had said that it was done, or was cut off."""
        if end is self._backend and self.reason is None and not self._down.ended:
            if not self.up and not self.down and self._goes_elsewhere(exc):
                return
            self.ticket.failed(kind_of(exc))
        self._close(abort=True)

    def _goes_elsewhere(self, exc: OSError) -> bool:
        unsent = self._up.waiting[max(0, -self._up.passed) :]
        if not self._open or not self._owner.elsewhere(self, exc, unsent):
            return False
        self._open = False
        self._up.stop()
        self._down.stop()
        self.discard()
        return True

    def time_out(self) -> None:
        """Its time is up. The backend's fault if it does not take what it was sent, or was to answer and did not.

        Then it is a break; otherwise nothing is known to be missing, and it is an orderly end.
        """
        if self._up.waiting or self._silent_since is not None:
            self.ticket.failed("timeout")
        self._close(abort=bool(self._up.waiting or self._down.waiting or self._silent_since is not None))

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
        self._fleet.leave(self.ticket, self)
        self._backend.close()

    def _close(self, *, abort: bool) -> None:
        if not self._open:
            return
        self._open = False
        self._fleet.leave(self.ticket, self)
        self._up.stop()
        self._down.stop()
        for end in (self._client, self._backend):
            if abort:
                reset_on_close(end)
            end.close()
        if self.reason is None:
            self.ticket.release()
        else:
            self.ticket.failed("local")
        self._owner.over(self)
