"""A network of its own behind a virtual cable: hosts that vanish, packets that are dropped, routers that say no.

Needs Linux, root and the `ip` tool; `Network.make()` raises `Unavailable` with the reason where one of them is missing.
"""

import ctypes
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


class Unavailable(RuntimeError):
    """This machine cannot have one; the message says why."""


class Network:
    """A network namespace with one host in it, connected to ours. A context manager.

    The addresses are of 198.18.0.0/15, which is set aside for tests of networks (RFC 2544).
    """

    def __init__(self, number: int) -> None:
        self.name = f"lbclient-{os.getpid()}-{number}"
        self.here = f"198.18.{number}.1"
        """Our end of the cable."""
        self.there = f"198.18.{number}.2"
        """The host at the other end."""
        self.nobody = f"198.18.{number}.9"
        """An address on the cable that no host has: nobody says where it is."""
        self.dropped = f"198.19.{number}.1"
        """An address behind the host there, which forwards nothing and says nothing: packets are dropped."""
        self.without_route = f"198.19.{number}.2"
        """An address that we cannot reach, and our own kernel says so at once."""
        self.forbidden = f"198.19.{number}.3"
        """An address that our own kernel forbids."""
        self._ours = f"lbv{number}"
        self._added = False

    @classmethod
    def make(cls) -> Self:
        """A network, connected.

        Raises:
            Unavailable: This machine cannot.
        """
        if shutil.which("ip") is None:
            raise Unavailable("the tool `ip` is not installed")
        if os.geteuid() != 0:
            raise Unavailable("making a network namespace needs root")
        network = cls(random.SystemRandom().randrange(1, 255))
        try:
            network._connect()
        except subprocess.CalledProcessError as exc:
            network.close()
            raise Unavailable(f"{' '.join(exc.cmd)}: {exc.stderr.strip()}") from exc
        return network

    def _connect(self) -> None:
        _ip("netns", "add", self.name)
        self._added = True
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", "cable", "netns", self.name)
        _ip("address", "add", f"{self.here}/28", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self.name, "address", "add", f"{self.there}/28", "dev", "cable")
        _ip("-n", self.name, "link", "set", "cable", "up")
        _ip("route", "add", f"{self.dropped}/32", "via", self.there)
        _ip("route", "add", "unreachable", f"{self.without_route}/32")
        _ip("route", "add", "prohibit", f"{self.forbidden}/32")

    def vanish(self) -> None:
        """The host there is no longer there: connections to it stay open, and nothing comes back."""
        _ip("-n", self.name, "link", "set", "cable", "down")

    def inside(self, make: Callable[[], T]) -> T:
        """What `make` returns when it is called over there; sockets keep to the network they were made in."""
        made: list[T] = []
        failed: list[BaseException] = []

        def enter_and_make() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with Path(f"/run/netns/{self.name}").open("rb") as namespace:
                    if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(make())
            except BaseException as exc:  # noqa: BLE001  # raised below, in the caller's thread
                failed.append(exc)

        thread = threading.Thread(target=enter_and_make)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return made[0]

    def close(self) -> None:
        """Take it all away again; routes go with the cable they lead over."""
        for route in (self.without_route, self.forbidden):
            _ip("route", "del", f"{route}/32", check=False)
        _ip("link", "del", self._ours, check=False)
        if self._added:
            _ip("netns", "del", self.name, check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True, text=True)
