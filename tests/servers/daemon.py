"""A server that is no HTTP server of ours: a program in a process group of its own, ready when it says so."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

READY_WITHIN = 30.0
STOP_WITHIN = 5.0

_running: weakref.WeakSet[Daemon] = weakref.WeakSet()


class Daemon:
    """A program with a directory of its own. A context manager; `close()` leaves neither processes nor files behind.

    Args:
        command: Given the directory, the command line.
        is_ready: Asked again and again until it is true; what it raises of `OSError` and `ValueError` is false.
    """

    def __init__(self, command: Callable[[Path], Sequence[str]], is_ready: Callable[[], bool]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="lbclient-test-"))
        self._command = command
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it printed so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it, with what its directory holds, and wait until it is ready."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                list(self._command(self.directory)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=env,
                start_new_session=True,
            )
        _running.add(self)
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline and self.running:
            with suppress(OSError, ValueError):
                if self._is_ready() and self.running:
                    return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self._command(self.directory)[0]} is not ready:\n{self.log()}")

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_WITHIN)
        _running.discard(self)

    def close(self) -> None:
        """End the processes and remove the directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def program(name: str) -> str | None:
    """Where a program is, also where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


@atexit.register
def _close_all() -> None:
    for daemon in list(_running):
        daemon.close()
