"""Real servers that are not Python's, for the examples: found, started on a free port, and stopped in the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def program(name: str, package: str) -> str:
    """Where it is; says what to install, and ends the example well, when it is not here."""
    found = shutil.which(
        name, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin"
    )
    if found is None:
        raise SystemExit(
            f"skipped: this example needs {name} (Debian, Ubuntu: apt install {package})"
        ) from None
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once it takes connections on `port`; stopped in the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except OSError:
                    if time.monotonic() > end or process.poll() is not None:
                        raise RuntimeError(f"{command[0]} does not come up") from None
                    time.sleep(0.05)
                else:
                    break
            yield process
        finally:
            process.terminate()
