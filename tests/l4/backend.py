"""A backend that does as its client says, in a process of its own, to be killed and suspended.

    python -m tests.l4.backend PORT

The first byte of a connection says what becomes of it: `e` echoes, `d` answers with the SHA-256 of what it got, `f`
says that it is done and then reads, `r` resets after the first bytes, `s` neither reads nor answers, `p` pours out as
many MiB as the next eight bytes say.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
MIB = bytes(range(256)) * 4096
CHUNK = 1 << 16


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        mode = await reader.readexactly(1)
        if mode == b"e":
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        elif mode == b"d":
            hashed = hashlib.sha256()
            while data := await reader.read(CHUNK):
                hashed.update(data)
            writer.write(hashed.hexdigest().encode())
        elif mode == b"f":
            writer.write(b"done")
            writer.write_eof()
            while await reader.read(CHUNK):
                pass
        elif mode == b"r":
            await reader.read(CHUNK)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif mode == b"s":
            await asyncio.sleep(3600)
        elif mode == b"p":
            for _ in range(int.from_bytes(await reader.readexactly(8))):
                writer.write(MIB)
                await writer.drain()
        await writer.drain()
    writer.close()


async def main(port: int) -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", port, backlog=2048) as server:
        await server.serve_forever()


class Backend:
    """The process. A context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Return when it listens."""
        command = [sys.executable, "-m", "tests.l4.backend", str(self.port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """It is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def suspend(self) -> None:
        """Connections are taken by the kernel, and nothing else happens."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGCONT)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
