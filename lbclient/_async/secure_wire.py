"""TLS over a wire: the records are made and read in memory, so waiting is as it is below."""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from lbclient._async.wire import AnyWire

ONE_WRITE = 64 * 1024  # bytes that are encrypted before the kernel has taken those before
ONE_READ = 64 * 1024
CLOSED_BY_PEER = "the server has closed the connection"


class SecureWire:
    """See `Wire`. TLS may be inside TLS.

    Args:
        below: What carries the records.
        context: Whom to trust.
        server_hostname: Whom the certificate has to name.
    """

    __slots__ = ("_ended", "_incoming", "_lock", "_outgoing", "_records", "below", "tls")

    def __init__(self, below: AnyWire, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self.below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._records = memoryview(b"")  # made, and not sent yet
        self._ended = False
        self._lock = threading.Lock()  # one side may read while the other writes: OpenSSL's state is one

    async def shake_hands(self, timeout: float | None) -> None:
        """Agree on keys.

        Raises:
            TimeoutError: It took longer than `timeout` seconds.
            OSError: It failed; `ssl.SSLError` says why.
        """
        deadline = None if timeout is None else anyio.current_time() + timeout
        done = False
        while not done:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._flush()  # the alert that tells the other side
                raise
            while not self._flush():
                await self.below.until_writable(_left(deadline))
            if not done:
                data = await self.below.receive(ONE_READ, _left(deadline))
                if data:
                    self._incoming.write(data)
                else:
                    raise ConnectionError(CLOSED_BY_PEER)

    @property
    def closed(self) -> bool:
        """See `Wire`."""
        return self.below.closed

    @property
    def unsent(self) -> bool:
        """See `Wire`."""
        return bool(self._records) or self.below.unsent

    @property
    def readable(self) -> bool:
        """See `Wire`. What is left of a record counts as well."""
        return self._ended or self._incoming.pending > 0 or self.below.readable

    def send(self, data: bytes | memoryview) -> int:
        """See `Wire`."""
        with self._lock:
            if not self._flush() or not data:
                return 0
            taken = self.tls.write(memoryview(data)[:ONE_WRITE])
            self._flush()
            return taken

    def _flush(self) -> bool:
        """Whether all records have been sent."""
        if self._outgoing.pending:
            made = self._outgoing.read()
            self._records = memoryview(bytes(self._records) + made if self._records else made)
        if self.below.unsent:
            self.below.send(b"")
        while self._records:
            taken = self.below.send(self._records)
            if not taken:
                return False
            self._records = self._records[taken:]
        return not self.below.unsent

    def receive_now(self, most: int) -> bytes | None:
        """See `Wire`."""
        data = self._before()
        if data is None:
            records = self.below.receive_now(most)
            data = None if records is None else self._decrypted(records)
        return data

    async def receive(self, most: int, timeout: float | None) -> bytes:
        """See `Wire`."""
        data = self._before()
        while data is None:
            data = self._decrypted(await self.below.receive(most, timeout))
        return data

    def _before(self) -> bytes | None:
        """What can be read of what came before, with the end of the handshake."""
        if self._ended:
            return b""
        with self._lock:
            return self._read() if self._incoming.pending else None

    def _decrypted(self, records: bytes) -> bytes | None:
        with self._lock:
            if records:
                self._incoming.write(records)
            else:
                self._incoming.write_eof()
            data = self._read()
            if self._outgoing.pending:  # a change of keys has an answer
                with suppress(OSError):  # as the next one who writes will see
                    self._flush()
            return data

    def _read(self) -> bytes | None:
        """What is in the records that have come; None for nothing yet, no bytes at the end."""
        parts: list[bytes] = []
        try:
            while part := self.tls.read(ONE_READ):
                parts.append(part)
                if not self._incoming.pending and not self.tls.pending():
                    return parts[0] if len(parts) == 1 else b"".join(parts)
            self._ended = True
        except ssl.SSLWantReadError:
            if not parts:
                return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        return b"".join(parts)

    async def until_writable(self, timeout: float | None, or_readable: bool = False) -> None:
        """See `Wire`."""
        await self.below.until_writable(timeout, or_readable)

    async def checkpoint(self) -> None:
        """See `Wire`."""
        await self.below.checkpoint()

    def close(self) -> None:
        """See `Wire`."""
        self.below.close()

    def drop(self) -> None:
        """See `Wire`."""
        self.below.drop()


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - anyio.current_time()
    if left <= 0:
        raise TimeoutError
    return left
