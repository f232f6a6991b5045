"""A TCP proxy that misbehaves between a client and a real server: delays, silence, cut connections, garbage, refusal.

Threads and the standard library only, like `tests.servers.raw`: it serves tests on asyncio and on trio alike, and what
passes through it may be TLS or HTTP/2, because it looks at nothing.

    with ChaosProxy(server.url, [Fault(cut=Cut("reset", at=20)), Fault()]) as proxy:  # the first connection, all others
        httpx.get(proxy.url)
        proxy.switch(Fault(latency=0.1))  # those from now on
        proxy.switch(Fault(stall=True), open_too=True)  # and those that are open
        proxy.refuse()
        proxy.black_hole()
        proxy.listen()
"""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias
from urllib.parse import urlsplit

from tests.servers.ports import free_port

Way: TypeAlias = Literal["request", "response"]

ENDED_WITHIN = 5.0
_TICK = 0.02
"""Seconds between two pieces under a bandwidth limit, and from the last byte to a RST, which would overtake it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What happens at one byte of one direction.

    Attributes:
        how: "reset": RST to both sides. "fin": an orderly close of both. "half-close": a FIN towards whom the bytes
            went, while the other direction goes on. "stall": nothing more passes this way. "garbage": bytes that
            nobody sent, once, and then the rest.
        at: How many bytes pass before. At 0 a request is cut when the connection is accepted, a response when its
            first byte has come.
        of: Which direction.
    """

    how: Literal["reset", "fin", "half-close", "stall", "garbage"]
    at: int = 0
    of: Way = "response"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with a connection; nothing when nothing is given.

    Attributes:
        latency: Seconds that every piece is held back, each way.
        jitter: Up to so many seconds more, from the proxy's seeded random numbers.
        bytes_per_second: At most, each way.
        stall: Connections are accepted and nothing passes. What is held back passes when the fault is lifted.
        cut: What happens in the middle.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bytes_per_second: float | None = None
    stall: bool = False
    cut: Cut | None = None


NONE = Fault()


class Passage:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        self.fault = fault
        self.passed: dict[Way, int] = {"request": 0, "response": 0}
        """Bytes handed on, by direction; garbage does not count."""
        self.closed = threading.Event()
        self._client = client
        self._server = server
        self._done = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed.is_set() else "open"
        return f"<Passage {state}, {self.passed['request']} bytes up, {self.passed['response']} down, {self.fault}>"

    def ends(self, way: Way) -> tuple[socket.socket, socket.socket]:
        """Where the bytes of a direction come from, and where they go."""
        return (self._client, self._server) if way == "request" else (self._server, self._client)

    def one_way_done(self, lock: threading.Condition) -> None:
        """A direction has seen its end; after both the connection is closed."""
        with lock:
            self._done += 1
            last = self._done == 2
        if last:
            self.close()

    def close(self, *, reset: bool = False) -> None:
        """Close both sides; the threads that read from them wake up, and know that it was not an end to pass on."""
        self.closed.set()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)  # wakes recv(); close() alone would wait for it to return
                else:
                    end.shutdown(socket.SHUT_RDWR)
                    end.setblocking(False)
                    while end.recv(65536):  # with bytes unread the kernel would send a RST after all
                        pass
            with contextlib.suppress(OSError):
                end.close()


class ChaosProxy:
    """Stands on a loopback port before a server.

    Args:
        upstream: The server's URL; only its port matters, and the proxy's own `url` looks like it.
        faults: For every connection, or a sequence: one for each connection in turn, the last one for all that follow.
        seed: For jitter and garbage.
    """

    def __init__(self, upstream: str, faults: Fault | Sequence[Fault] = NONE, *, seed: int = 0) -> None:
        parts = urlsplit(upstream)
        if parts.port is None:
            raise ValueError(f"upstream is {upstream!r}; write a URL with a port")
        self.upstream_port = parts.port
        self.port = free_port()
        self.url = f"{parts.scheme}://{parts.hostname}:{self.port}"
        self.passages: list[Passage] = []
        """Every accepted connection, in order."""
        self._faults = [faults] if isinstance(faults, Fault) else list(faults)
        self._rng = random.Random(seed)
        self._news = threading.Condition()
        """Guards `_faults`, `_rng` and the passages' counts; notified when a fault changes and when the proxy stops."""
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._fillers: list[socket.socket] = []
        self.listen()

    def __repr__(self) -> str:
        state = "up" if self._acceptor else "a black hole" if self._listener else "down"
        return f"<ChaosProxy {self.port} before {self.upstream_port}, {state}, {self.accepted} accepted>"

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far."""
        return len(self.passages)

    @property
    def open(self) -> int:
        """How many of them are open."""
        return sum(not passage.closed.is_set() for passage in self.passages)

    def switch(self, faults: Fault | Sequence[Fault], *, open_too: bool = False) -> None:
        """Change what happens to connections from now on; with `open_too`, also to those that are open."""
        with self._news:
            self._faults = [faults] if isinstance(faults, Fault) else list(faults)
            if open_too:
                for passage in self.passages:
                    passage.fault = self._faults[0]
            self._news.notify_all()

    def reset_open(self) -> None:
        """RST every open connection, as when the server's machine restarts."""
        for passage in self.passages:
            if not passage.closed.is_set():
                passage.close(reset=True)

    def refuse(self) -> None:
        """Close the listener: connecting is refused from now on, open connections go on."""
        listener, self._listener = self._listener, None
        acceptor, self._acceptor = self._acceptor, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            if acceptor is not None:
                acceptor.join(ENDED_WITHIN)
            listener.close()
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    def black_hole(self) -> None:
        """Fill the backlog, so that connecting times out from now on; open connections go on."""
        self.refuse()
        self._listener = self._bind(backlog=0)
        for _ in range(8):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._fillers.append(filler)
            filler.settimeout(0.1)
            try:
                filler.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return
        raise RuntimeError("this kernel keeps accepting connections beyond the backlog")

    def listen(self) -> None:
        """Accept connections (again)."""
        self.refuse()
        self._listener = listener = self._bind(backlog=128)
        self._acceptor = threading.Thread(target=self._accept_all, args=(listener,), daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Refuse, close what is open, end all threads."""
        self.refuse()
        with self._news:
            self._stopped.set()
            self._news.notify_all()
        for passage in self.passages:
            if not passage.closed.is_set():
                passage.close()
        for thread in self._threads:
            thread.join(ENDED_WITHIN)
        self._threads.clear()

    close = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _bind(self, backlog: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.port))
            listener.listen(backlog)
        except OSError:
            listener.close()
            raise
        return listener

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            with self._news:
                fault = self._faults[min(len(self.passages), len(self._faults) - 1)]
                passage = Passage(client, server, fault)
                self.passages.append(passage)
            try:
                server.connect(("127.0.0.1", self.upstream_port))
            except OSError:
                passage.close(reset=True)
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways: tuple[Way, Way] = ("request", "response")
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            for way in ways:
                thread = threading.Thread(target=self._carry, args=(passage, way), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, passage: Passage, way: Way) -> None:
        """Carry the bytes of one direction, until it ends or is cut."""
        try:
            if self._carried_to_its_end(passage, way) and not passage.closed.is_set():
                passage.ends(way)[1].shutdown(socket.SHUT_WR)
        except OSError:  # one side has closed, or a thread of ours has
            passage.close(reset=True)
        passage.one_way_done(self._news)

    def _carried_to_its_end(self, passage: Passage, way: Way) -> bool:
        source, sink = passage.ends(way)
        injected = False
        cut = passage.fault.cut
        if way == "request" and cut is not None and cut.of == way and cut.at == 0 and cut.how != "garbage":
            return self._cut(passage, way, cut)
        while data := source.recv(65536):
            with self._news:
                self._news.wait_for(lambda: not passage.fault.stall or self._gone(passage))
                fault = passage.fault
                late = fault.latency + self._rng.random() * fault.jitter
            if late and self._stopped.wait(late):
                return False
            cut = fault.cut if fault.cut is not None and fault.cut.of == way else None
            left = len(data) if cut is None or injected else max(0, cut.at - passage.passed[way])
            self._send(passage, way, sink, data[:left], fault.bytes_per_second)
            if cut is None or left >= len(data):
                continue
            if cut.how != "garbage":
                return self._cut(passage, way, cut)
            injected = True
            sink.sendall(self._rng.randbytes(40))
            self._send(passage, way, sink, data[left:], fault.bytes_per_second)
        return True

    def _send(self, passage: Passage, way: Way, sink: socket.socket, data: bytes, rate: float | None) -> None:
        piece = len(data) if rate is None else max(1, int(rate * _TICK))
        for start in range(0, len(data), piece or 1):
            part = data[start : start + piece]
            sink.sendall(part)
            passage.passed[way] += len(part)
            if rate is not None and self._stopped.wait(len(part) / rate):
                return

    def _cut(self, passage: Passage, way: Way, cut: Cut) -> bool:
        """Do it; True when the direction ends with a FIN of its own."""
        if cut.how == "half-close":
            return True
        if cut.how == "stall":
            with self._news:
                self._news.wait_for(lambda: self._gone(passage))
            return False
        if passage.passed[way]:
            time.sleep(_TICK)
        passage.close(reset=cut.how == "reset")
        return False

    def _gone(self, passage: Passage) -> bool:
        return self._stopped.is_set() or passage.closed.is_set()
