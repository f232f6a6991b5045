"""One of several processes that serve the same configuration: what it knows of the others."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "LBCLIENT_WORKER"


@dataclass(frozen=True, slots=True)
class Worker:
    """One process.

    Attributes:
        number: From 1; the first one is where operators come in.
        count: How many there are.
        folder: Where each of them has a socket by which the first one reaches its admin.
        secret: What signs cookies for which the file has no secret, as any of them may see them.
        line: The descriptor of a socket to who keeps them: a byte says that it serves, and its end that it shall end.
    """

    number: int
    count: int
    folder: str
    secret: str
    line: int

    @classmethod
    def from_environment(cls) -> Worker | None:
        """This process, when it is one of several."""
        told = os.environ.pop(VARIABLE, None)
        return None if told is None else cls(**json.loads(told))

    def environment(self) -> dict[str, str]:
        """For `from_environment`."""
        return {VARIABLE: json.dumps(asdict(self))}

    @property
    def is_first(self) -> bool:
        """Whether operators come in here."""
        return self.number == 1

    def path_of(self, number: int) -> str:
        """The socket of a worker's admin."""
        return str(Path(self.folder, f"{number}.sock"))

    def serves(self, abandoned: Callable[[], None]) -> Line:
        """Say so; `abandoned` is called when nobody keeps this process any more."""
        return Line(self.line, abandoned)


class Line:
    """The worker's end of the line to who keeps it, in the running event loop."""

    def __init__(self, descriptor: int, abandoned: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._abandoned = abandoned
        self._socket.send(b".")
        self._loop.add_reader(self._socket, self._over)

    def _over(self) -> None:
        self.close()
        self._abandoned()

    def close(self) -> None:
        """Listen no more."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
