"""A small memory-mapped file on which the processes of one machine write what they know of backends.

Its lock is `flock`'s, which the kernel lets go of when its holder dies. It is held for microseconds, and nobody waits
for it: who does not get it comes back a moment later. A second file's lock is held for long, by the one process that
probes.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lbclient.core.forking import tell_after_fork

MAGIC = b"lbclient board 1"
CAPACITY = 1024  # backends
ENTRY = struct.Struct("<16sdBdd")
"""A backend's key; since when its check is what it is; the check; since when it is out, or in again; until when."""
SIZE = len(MAGIC) + CAPACITY * ENTRY.size


class Known(NamedTuple):
    """What is written of a backend. Moments are on the machine's monotonic clock; 0 is never."""

    checked_at: float = 0.0
    check: int = 0
    ejected_at: float = 0.0
    ejected_until: float = 0.0


class Board:
    """The board of that name, shared by all processes of this user.

    Args:
        name: Letters, digits, ".", "_" and "-".

    Raises:
        OSError: It cannot be opened, or belongs to somebody else.
    """

    def __init__(self, name: str) -> None:
        path = _folder() / f"lbclient-{os.getuid()}-{name}"
        self._file = _open(path)
        self._election = _open(path.with_name(f"{path.name}.prober"))
        self.elected = False
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if os.fstat(self._file).st_size != SIZE or os.pread(self._file, len(MAGIC), 0) != MAGIC:
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, SIZE)
            os.pwrite(self._file, MAGIC, 0)
        self._map = mmap.mmap(self._file, SIZE)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        tell_after_fork(self)

    def stand(self) -> bool:
        """Whether this process is the one that probes, from now on if nobody else is."""
        if not self.elected:
            with suppress(BlockingIOError):
                fcntl.flock(self._election, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.elected = True
        return self.elected

    def exchange(self, urls: list[str], news: Mapping[str, Known]) -> dict[str, Known] | None:
        """Write `news`, and read what is known of `urls`; None when somebody else is at it just now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        try:
            for url, known in news.items():
                self._write(url, known)
            return {url: self._read(url)[1] for url in urls}
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _write(self, url: str, known: Known) -> None:
        place, _ = self._read(url)
        if place is not None:
            ENTRY.pack_into(self._map, place, _key(url), *_packed(known))

    def _read(self, url: str) -> tuple[int | None, Known]:
        """Where a backend's entry is, or may be; None when the board is full."""
        key = _key(url)
        start = int.from_bytes(key[:4], "big")
        for step in range(CAPACITY):
            place = len(MAGIC) + (start + step) % CAPACITY * ENTRY.size
            found, checked_at, check, ejected_at, ejected_until = ENTRY.unpack_from(self._map, place)
            if found == key:
                return place, Known(checked_at, check, ejected_at, ejected_until)
            if not any(found):
                return place, Known()
        return None, Known()

    def after_fork(self) -> None:
        """In the child: the parent's locks are not to live on in here."""
        self.close()

    def close(self) -> None:
        """Let go of it, and of the election. Idempotent."""
        if self._file >= 0:
            self._map.close()
            os.close(self._file)
            os.close(self._election)
            self._file = self._election = -1
            self.elected = False


def _key(url: str) -> bytes:
    return hashlib.blake2b(url.encode(), digest_size=16).digest()


def _packed(known: Known) -> tuple[float, int, float, float]:
    return known.checked_at, known.check, known.ejected_at, known.ejected_until


def _folder() -> Path:
    memory = Path("/dev/shm")  # noqa: S108  # the files are made for this user only, and checked to be
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def _open(path: Path) -> int:
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.fstat(number).st_uid != os.getuid():
        os.close(number)
        raise PermissionError(f"{path} belongs to another user; choose another name for Pool(shared=)")
    return number
