"""A sidecar that runs: in the event loop of a test, or as the process that `lbclient serve` is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from lbclient.sidecar.sidecar import Sidecar
from tests.servers.process import ROOT

READY_WITHIN = 60.0


def written(path: Path, **configuration: Any) -> Path:
    """A configuration as a file; any port for the listeners and for the admin where nothing else is said."""
    whole: dict[str, Any] = {
        "listeners": ["127.0.0.1:0"],
        "admin": {"bind": "127.0.0.1:0"},
        "access_log": False,
        "reload": {"watch": False},
        **configuration,
    }
    replace(path, yaml.safe_dump(whole))
    return path


def replace(path: Path, text: str) -> None:
    """Write a file as a careful editor does: whole, or not at all."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def one_pool(urls: Iterable[str], **options: Any) -> dict[str, Any]:
    """`pools` with one of them."""
    return {"api": {"backends": list(urls), **options}}


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Sidecar, httpx.AsyncClient, httpx.AsyncClient]]:
    """A sidecar in this event loop, a client of its first listener, and one of its admin."""
    sidecar = Sidecar(path)
    await sidecar.start()
    assert sidecar.admin is not None
    try:
        async with (
            httpx.AsyncClient(base_url=f"http://{sidecar.listeners[0].address}", timeout=20) as client,
            httpx.AsyncClient(base_url=f"http://{sidecar.admin.address}", timeout=20) as admin,
        ):
            yield sidecar, client, admin
    finally:
        await sidecar.aclose()


class Process:
    """`lbclient serve`.

    Args:
        path: Its configuration, whose admin listens on a port of 127.0.0.1.
        inherited: Descriptors that it gets.
        measured: Whether its coverage is; that makes it slow to start.
    """

    def __init__(self, path: Path, *, inherited: Iterable[int] = (), measured: bool = False) -> None:
        self.path = path
        environment = {
            name: value for name, value in os.environ.items() if measured or not name.startswith("COVERAGE_")
        }
        self._log = path.with_suffix(f".{time.monotonic_ns()}.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lbclient", "serve", str(path)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=tuple(inherited),
                env=environment,
            )
        self.admin = httpx.Client(
            base_url=f"http://{yaml.safe_load(path.read_text())['admin']['bind']}", timeout=20
        )

    def __enter__(self) -> Self:
        try:
            deadline = time.monotonic() + READY_WITHIN
            while time.monotonic() < deadline:
                assert self._process.poll() is None, self.log()
                try:
                    self.admin.get("/health").raise_for_status()
                except httpx.TransportError:
                    time.sleep(0.05)
                else:
                    return self
            raise AssertionError(f"not ready within {READY_WITHIN} s: {self.log()}")
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.admin.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    def status(self, worker: int | None = None) -> Any:
        """What the admin tells."""
        query = "" if worker is None else f"?worker={worker}"
        return json.loads(self.admin.get(f"/status{query}").text)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, within: float = 30.0) -> int:
        """Its exit code."""
        return self._process.wait(within)
