"""`Relay`, without an event loop: what is waited for, and what is left alone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from lbclient import Pool
from lbclient.l4.fleet import fleet_of
from lbclient.l4.relay import CHUNK_BYTES, Relay


class Told:
    """A readiness that calls when the test says so."""

    def __init__(self) -> None:
        self.readers: dict[socket.socket, Callable[[], None]] = {}
        self.writers: dict[socket.socket, Callable[[], None]] = {}

    def on_readable(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        self.readers[sock] = callback

    def off_readable(self, sock: socket.socket) -> None:
        del self.readers[sock]

    def on_writable(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        self.writers[sock] = callback

    def off_writable(self, sock: socket.socket) -> None:
        del self.writers[sock]

    def here(self, callback: Callable[[], None]) -> None:
        callback()


class Owner:
    def __init__(self) -> None:
        self.ended: list[Relay] = []

    def over(self, relay: Relay) -> None:
        self.ended.append(relay)

    def elsewhere(self, relay: Relay, exc: OSError, unsent: bytes) -> bool:
        return False


class Scene:
    """A relay between two pairs of sockets."""

    def __init__(self) -> None:
        self.client, self.client_end = socket.socketpair()
        self.backend, self.backend_end = socket.socketpair()
        for end in (self.client, self.client_end, self.backend, self.backend_end):
            end.setblocking(False)
        self.pool = Pool(["tcp://127.0.0.1:1"])
        self.told = Told()
        self.owner = Owner()
        self.ticket = self.pool.pick()
        self.ticket.answered(0.1)
        fleet = fleet_of(self.pool)
        self.relay = Relay(self.client_end, self.backend_end, self.ticket, fleet, self.owner)
        fleet.enter(self.ticket, self.relay, 0)

    def start(self, first: bytes = b"", own: int = 0) -> None:
        self.relay.start(self.told, memoryview(bytearray(CHUNK_BYTES)), first, own)

    @property
    def waits_for(self) -> tuple[set[str], set[str]]:
        """Who is read from, and who is written to."""
        names = {self.client_end: "client", self.backend_end: "backend"}
        return {names[sock] for sock in self.told.readers}, {names[sock] for sock in self.told.writers}

    @property
    def in_flight(self) -> int:
        return self.pool.status().backends[0].in_flight


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    for end in (made.client, made.client_end, made.backend, made.backend_end):
        end.close()


def test_a_way_is_read_from_or_written_to_and_never_both(scene: Scene) -> None:
    scene.start()
    assert scene.waits_for == ({"client", "backend"}, set())
    scene.client.send(b"hello")
    scene.told.readers[scene.client_end]()
    assert scene.backend.recv(100) == b"hello"
    while True:  # until nothing more goes in
        try:
            scene.backend_end.send(b"x" * CHUNK_BYTES)
        except BlockingIOError:
            break
    scene.client.send(b"more")
    scene.told.readers[scene.client_end]()
    assert scene.waits_for == ({"backend"}, {"backend"})
    scene.told.writers[scene.backend_end]()  # a false alarm
    assert scene.waits_for == ({"backend"}, {"backend"})
    assert (scene.relay.up, scene.relay.down) == (5, 0)
    while True:
        try:
            scene.backend.recv(1 << 20)
        except BlockingIOError:
            break
    scene.told.writers[scene.backend_end]()
    assert scene.waits_for == ({"client", "backend"}, set())
    assert scene.backend.recv(100) == b"more"
    assert repr(scene.relay) == "<Relay to tcp://127.0.0.1:1, open, 9 bytes up, 0 down>"


def test_a_false_alarm_reads_nothing(scene: Scene) -> None:
    scene.start()
    scene.told.readers[scene.client_end]()
    assert scene.waits_for == ({"client", "backend"}, set())


def test_what_was_read_before_goes_first(scene: Scene) -> None:
    scene.start(b"header and hello", own=7)
    assert scene.waits_for == ({"backend"}, {"backend"})
    scene.told.writers[scene.backend_end]()
    assert scene.backend.recv(100) == b"header and hello"
    assert scene.relay.up == 9


def test_a_backend_that_is_gone_when_something_is_written(scene: Scene) -> None:
    scene.start(b"hello")
    scene.backend.close()
    scene.told.writers[scene.backend_end]()
    assert scene.waits_for == (set(), set())
    assert scene.owner.ended == [scene.relay]
    assert scene.pool.status().backends[0].failures == 1
    assert scene.in_flight == 0


def test_cut_before_it_was_started_it_never_passes_a_byte(scene: Scene) -> None:
    scene.relay.cut("a drain")
    scene.start(b"hello")
    assert scene.waits_for == (set(), set())
    assert scene.owner.ended == [scene.relay]
    assert scene.backend.recv(100) == b""
    assert (scene.in_flight, scene.pool.status().backends[0].failures) == (0, 0)
    assert "cut" in repr(scene.relay)
    scene.relay.abort()
    assert len(scene.owner.ended) == 1


def test_idle_is_since_the_last_byte(scene: Scene) -> None:
    scene.start()
    assert not scene.relay.look(100.0, 10, None)
    assert not scene.relay.look(109.0, 10, None)
    scene.client.send(b"x")
    scene.told.readers[scene.client_end]()
    assert not scene.relay.look(110.0, 10, None)
    assert not scene.relay.look(119.9, 10, None)
    assert scene.relay.look(120.0, 10, None)


def test_an_answer_is_waited_for_since_the_client_s_first_byte(scene: Scene) -> None:
    scene.start()
    assert not scene.relay.look(100.0, 1000, 5)
    assert not scene.relay.look(200.0, 1000, 5)
    scene.client.send(b"x")
    scene.told.readers[scene.client_end]()
    assert not scene.relay.look(201.0, 1000, 5)
    assert not scene.relay.look(205.9, 1000, 5)
    assert scene.relay.look(206.0, 1000, 5)
    scene.backend.send(b"y")
    scene.told.readers[scene.backend_end]()
    assert not scene.relay.look(300.0, 1000, 5)
    scene.relay.time_out()
    assert scene.pool.status().backends[0].failures == 0
