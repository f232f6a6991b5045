"""Who keeps several workers: begins them, passes signals on, and begins another one where one dies.

They share nothing but their addresses (SO_REUSEPORT: the system deals connections out) and live through reloads, each
with its pools, connections and health. So the supervisor has nothing to do with what is served, and serves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from lbclient.sidecar.configuration import Configuration
from lbclient.sidecar.listening import bound
from lbclient.sidecar.worker import Worker

logger = logging.getLogger("lbclient.sidecar")

SOONEST, LATEST = 0.2, 30.0  # seconds between the death of a worker and the next one
STEADY = 10.0  # seconds; who has lived longer is replaced soon


class Supervisor:
    """Several workers.

    Args:
        path: Of the configuration.
        configuration: It.
    """

    def __init__(self, path: Path, configuration: Configuration) -> None:
        self._path = path
        self._configuration = configuration
        self._secret = secrets.token_urlsafe(32)
        self._kept: list[_Kept] = []
        self._asked = asyncio.Event()

    async def run(self) -> int:
        """Until they have ended, because they were told to.

        Returns:
            The exit code: 0 after a graceful end, 1 when one could not start, or requests were cut off in the end.

        Raises:
            OSError: An address is taken by somebody else.
        """
        configuration = self._configuration
        for section in configuration.listeners:
            if section.bind.kind == "tcp":
                bound(section.bind).close()  # workers share addresses, but not with others
        for other in configuration.l4:
            kind = socket.SOCK_DGRAM if other.protocol == "udp" else socket.SOCK_STREAM
            bound(other.bind, kind=kind).close()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        for asked in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(asked, self._end)
        with TemporaryDirectory(prefix="lbclient-") as folder:
            count = configuration.workers
            descriptors = [each.bind.fd for each in configuration.listeners if each.bind.kind == "fd"]
            for number in range(1, count + 1):
                worker = Worker(number, count, folder, self._secret, -1)
                self._kept.append(_Kept(self._path, worker, descriptors, self._asked))
            codes = await asyncio.gather(*(self._keep(kept) for kept in self._kept))
        return max(codes)

    async def _keep(self, kept: _Kept) -> int:
        wait = SOONEST
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                code, has_served = await kept.live()
            except OSError as exc:  # no processes are left to be had
                logger.error("worker %d cannot begin: %s", kept.number, exc)
                code, has_served = 1, False
            if self._asked.is_set():
                return min(abs(code), 1)
            if not has_served and not all(each.has_served for each in self._kept):
                self._end()  # the first ones could not start
                return 1
            wait = SOONEST if loop.time() - began > STEADY else min(wait * 2, LATEST)
            logger.error("worker %d has ended by itself (%d); another one begins", kept.number, code)
            try:
                async with asyncio.timeout(wait):
                    await self._asked.wait()
                    return 0
            except TimeoutError:
                continue

    def _reload(self) -> None:
        for kept in self._kept:
            kept.reload()

    def _end(self) -> None:
        self._asked.set()
        for kept in self._kept:
            kept.end()


class _Kept:
    """The place of one worker, and who has it."""

    def __init__(self, path: Path, worker: Worker, descriptors: list[int], asked: asyncio.Event) -> None:
        self._path = path
        self._worker = worker
        self._descriptors = descriptors
        self._asked = asked
        self._process: asyncio.subprocess.Process | None = None
        self._serves = False
        self._reloads = False
        self.has_served = False

    @property
    def number(self) -> int:
        return self._worker.number

    async def live(self) -> tuple[int, bool]:
        """From the beginning of a process to its end: its exit code, and whether it has served."""
        ours, theirs = socket.socketpair()
        worker = self._worker
        told = Worker(worker.number, worker.count, worker.folder, worker.secret, theirs.fileno())
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "lbclient",
                "serve",
                str(self._path),
                env={**os.environ, **told.environment()},
                pass_fds=(theirs.fileno(), *self._descriptors),
                start_new_session=True,  # a terminal's ^C is for the supervisor, which passes it on
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._process = process
        if self._asked.is_set():
            self.end()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            self._serves = bool(await reader.read(1))
            self.has_served = self.has_served or self._serves
            served = self._serves
            if self._reloads:
                self.reload()
            return await process.wait(), served
        finally:
            self._process, self._serves, self._reloads = None, False, False
            writer.close()

    def reload(self) -> None:
        """Have it read its configuration again; one that is about to serve does so when it serves."""
        self._reloads = not self._serves
        if self._serves:
            self._signal(signal.SIGHUP)

    def end(self) -> None:
        """Have it end; asked twice, at once."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
