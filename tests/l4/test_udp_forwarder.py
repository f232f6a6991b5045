"""`UDPForwarder`: a session to each source address, with a backend that it keeps."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import pytest
from anyio.to_thread import run_sync

from lbclient import Backend, Connect, PassiveHealth, Pool
from lbclient.l4 import UDPForwarder, connections
from lbclient.l4.fleet import fleet_of
from lbclient.l4.forwarder import Forwarder
from tests.l4.peers import naming, udp_client, udp_servers
from tests.servers import free_port


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


def in_flight(pool: Pool) -> int:
    return sum(backend.in_flight for backend in pool.status().backends)


def ask(client: socket.socket, data: bytes = b"q") -> bytes:
    client.send(data)
    return client.recv(65535)


async def test_a_source_keeps_its_backend_and_gets_its_answers() -> None:
    with udp_servers(naming(b"a"), naming(b"b"), naming(b"c")) as servers:
        pool = Pool([server.url for server in servers], algorithm="round_robin")
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> list[set[bytes]]:
                names: list[set[bytes]] = []
                for number in range(6):
                    with udp_client(forwarder.port) as client:
                        answers = [ask(client, b"%d-%d" % (number, turn)) for turn in range(5)]
                        assert [a.partition(b":")[2] for a in answers] == [
                            b"%d-%d" % (number, turn) for turn in range(5)
                        ]
                        names.append({answer.partition(b":")[0] for answer in answers})
                return names

            names = await run_sync(talk)
            assert all(len(each) == 1 for each in names)
            assert set.union(*names) == {b"a", b"b", b"c"}
            assert in_flight(pool) == forwarder.stats.open == 6
            assert sum(connections(pool).values()) == 6
            assert repr(forwarder) == f"<UDPForwarder on 127.0.0.1:{forwarder.port}, 6 open>"
    assert in_flight(pool) == 0
    assert connections(pool) == {}
    assert forwarder.stats.bytes_up == 6 * 5 * 3
    assert forwarder.stats.bytes_down == 6 * 5 * 5


async def test_source_addresses_are_hashed() -> None:
    with udp_servers(naming(b"a"), naming(b"b"), naming(b"c")) as servers:
        pool = Pool([server.url for server in servers], algorithm="ip_hash")
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def name_for(address: str) -> bytes:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.settimeout(10)
                    client.bind((address, 0))
                    client.connect(("127.0.0.1", forwarder.port))
                    return ask(client)[:1]

            chosen: dict[str, set[bytes]] = {}
            for number in [*range(1, 13)] * 2:
                address = f"127.0.0.{number}"
                chosen.setdefault(address, set()).add(await run_sync(name_for, address))
    assert all(len(names) == 1 for names in chosen.values())
    assert len(set.union(*chosen.values())) > 1


async def test_a_session_ends_when_nothing_has_passed_for_a_while() -> None:
    with udp_servers(naming(b"a")) as [server]:
        pool = Pool([server.url])
        async with UDPForwarder(pool, "127.0.0.1", 0, idle_timeout=0.2) as forwarder:

            def talk() -> None:
                with udp_client(forwarder.port) as client:
                    for _ in range(5):
                        ask(client)
                        threading.Event().wait(0.06)

            await run_sync(talk)
            assert forwarder.stats.accepted == 1
            await until(lambda: forwarder.stats.open == 0)
            assert forwarder.stats.timed_out == 1
            assert in_flight(pool) == 0
            assert pool.status().backends[0].successes == 1


async def test_a_session_ends_with_its_last_answer() -> None:
    with udp_servers(naming(b"a")) as [server]:
        pool = Pool([server.url])
        async with UDPForwarder(pool, "127.0.0.1", 0, responses=1) as forwarder:

            def talk() -> None:
                with udp_client(forwarder.port) as client:
                    for _ in range(3):
                        assert ask(client) == b"a:q"

            await run_sync(talk)
            assert (forwarder.stats.accepted, forwarder.stats.open, in_flight(pool)) == (3, 0, 0)


async def test_a_backend_at_which_nobody_listens_is_passed_over_with_the_datagram() -> None:
    """ICMP says so; no client has to ask a second time."""
    with udp_servers(naming(b"alive")) as [server]:
        dead = f"udp://127.0.0.1:{free_port()}"
        pool = Pool([dead, server.url], algorithm="first", passive=PassiveHealth(consecutive_failures=2))
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                for _ in range(4):
                    with udp_client(forwarder.port) as client:
                        assert ask(client) == b"alive:q"

            await run_sync(talk)
            assert forwarder.stats.accepted == 4
        status = pool.status().backends
        assert (status[0].failures, status[0].ejected, status[1].failures) == (2, True, 0)
    assert in_flight(pool) == 0


async def test_a_backend_that_goes_away_costs_its_sessions_their_backend_only() -> None:
    with udp_servers(naming(b"a"), naming(b"b")) as [first, second]:
        pool = Pool([first.url, second.url], algorithm="first", passive=PassiveHealth(consecutive_failures=1))
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> None:
                with udp_client(forwarder.port) as client:
                    assert ask(client) == b"a:q"
                    first.stop()
                    client.settimeout(0.2)
                    for _ in range(50):  # as clients of UDP do when an answer is lost
                        client.send(b"q")
                        try:
                            assert client.recv(100) == b"b:q"
                        except TimeoutError:
                            continue
                        return
                    pytest.fail("no answer")

            await run_sync(talk)
    assert pool.status().backends[0].failures == 1
    assert in_flight(pool) == 0


async def test_when_nobody_listens_anywhere_the_session_ends() -> None:
    pool = Pool([f"udp://127.0.0.1:{free_port()}", f"udp://127.0.0.1:{free_port()}"])
    async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
        with udp_client(forwarder.port) as client:
            client.send(b"q")
            await until(lambda: forwarder.stats.failed == 1 and not forwarder.stats.open)
            for backend in pool.declared:
                pool.disable(backend.url)
            client.send(b"q")
            await until(lambda: forwarder.stats.failed == 2 and not forwarder.stats.open)
            assert forwarder.stats.dropped == 1
    assert in_flight(pool) == 0


async def test_no_answer_at_all_counts_where_there_has_to_be_one() -> None:
    with udp_servers(lambda data: None) as [server]:
        for responses, failures in ((None, 0), (1, 1)):
            pool = Pool([server.url])
            async with UDPForwarder(pool, "127.0.0.1", 0, idle_timeout=0.1, responses=responses) as forwarder:
                with udp_client(forwarder.port) as client:
                    client.send(b"q")
                    await until(lambda: forwarder.stats.timed_out == 1)  # awaited here
            assert pool.status().backends[0].failures == failures


async def test_the_table_is_bounded() -> None:
    with udp_servers(naming(b"a")) as [server]:
        pool = Pool([server.url])
        async with UDPForwarder(pool, "127.0.0.1", 0, max_sessions=2) as forwarder:
            with udp_client(forwarder.port) as one, udp_client(forwarder.port) as two:
                assert await run_sync(ask, one) == await run_sync(ask, two) == b"a:q"
                with udp_client(forwarder.port) as three:
                    three.send(b"q")
                    await until(lambda: forwarder.stats.refused == 1)
                assert await run_sync(ask, one) == b"a:q"
                assert (forwarder.stats.open, forwarder.stats.dropped) == (2, 1)


async def test_names_are_looked_up_and_what_comes_meanwhile_is_kept() -> None:
    with udp_servers(naming(b"a")) as [server]:
        pool = Pool([f"udp://localhost:{server.port}"])
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:

            def talk() -> set[bytes]:
                with udp_client(forwarder.port) as client:
                    for number in range(40):
                        client.send(b"%d" % number)
                    client.settimeout(0.3)
                    answers: set[bytes] = set()
                    try:
                        while True:
                            answers.add(client.recv(100))
                    except TimeoutError:
                        return answers

            answers = await run_sync(talk)
            assert {b"a:%d" % number for number in range(16)} <= answers
            assert len(answers) + forwarder.stats.dropped == 40


async def test_a_name_nobody_knows_ends_the_session() -> None:
    pool = Pool(["udp://nowhere.invalid:53"])
    async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
        with udp_client(forwarder.port) as client:
            client.send(b"q")
            await until(lambda: forwarder.stats.failed == 1 and not forwarder.stats.open)
    assert pool.status().backends[0].failures == 1
    assert in_flight(pool) == 0


async def test_a_drain_moves_new_sessions_at_once_and_cuts_old_ones_in_the_end() -> None:
    with udp_servers(naming(b"a"), naming(b"b")) as [first, second]:
        pool = Pool([first.url, second.url], algorithm="first")
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
            reports = []
            with udp_client(forwarder.port) as old, udp_client(forwarder.port) as new:
                assert await run_sync(ask, old) == b"a:q"

                async def drain() -> None:
                    reports.append(await forwarder.drain(first.url, grace=0.3))

                async with anyio.create_task_group() as group:
                    group.start_soon(drain)
                    await until(lambda: pool.status().backends[0].admin == "draining")
                    assert await run_sync(ask, new) == b"b:q"
                    assert await run_sync(ask, old) == b"a:q"
                await until(lambda: forwarder.stats.cut == 1)
                assert await run_sync(ask, old) == b"b:q"
            [report] = reports
            assert (report.drained, report.closed, report.in_flight_at_start) == (False, 1, 1)
    assert pool.status().backends[0].failures == 0


async def test_stop_takes_no_new_sessions_and_lets_the_others_end() -> None:
    with udp_servers(naming(b"a")) as [server]:
        pool = Pool([server.url])
        forwarder = UDPForwarder(pool, "127.0.0.1", 0, idle_timeout=0.3)
        ended: list[int] = []
        async with anyio.create_task_group() as group:
            _, port = await group.start(forwarder.serve)
            with udp_client(port) as old, udp_client(port) as new:
                assert await run_sync(ask, old) == b"a:q"

                async def stop() -> None:
                    ended.append(await forwarder.stop(grace=60))

                group.start_soon(stop)
                await anyio.wait_all_tasks_blocked()
                new.send(b"q")
                await until(lambda: forwarder.stats.refused == 1)
                assert await run_sync(ask, old) == b"a:q"
        assert ended == [0]
    assert in_flight(pool) == 0


async def test_large_datagrams_pass_whole() -> None:
    with udp_servers(lambda data: data) as [server]:
        async with UDPForwarder(Pool([server.url]), "127.0.0.1", 0) as forwarder:
            with udp_client(forwarder.port) as client:
                for size in (0, 1, 1472, 60_000):
                    assert await run_sync(ask, client, b"x" * size) == b"x" * size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_sessions": 0}, "max_sessions"),
        ({"responses": 0}, "responses"),
        ({"idle_timeout": 0}, "idle_timeout"),
        ({"pool": Pool(["tcp://127.0.0.1:1"])}, "TCPForwarder"),
        ({"pool": Pool([Backend("udp://here:1", uds="/run/s")])}, "uds"),
    ],
)
def test_wrong_arguments_say_what_to_write(options: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {
        "pool": Pool(["udp://127.0.0.1:1"]),
        "host": "127.0.0.1",
        "port": 0,
    } | options
    with pytest.raises(ValueError, match=words):
        UDPForwarder(**arguments)


async def test_datagrams_without_a_byte_keep_a_session_alive() -> None:
    with udp_servers(lambda data: None) as [server]:
        async with UDPForwarder(Pool([server.url]), "127.0.0.1", 0, idle_timeout=0.2) as forwarder:
            with udp_client(forwarder.port) as client:
                for _ in range(8):
                    client.send(b"")
                    await anyio.sleep(0.06)
                assert (forwarder.stats.open, forwarder.stats.accepted) == (1, 1)


class Reluctant(socket.socket):
    """Fails as it is told to, and then does what it should."""

    sends: ClassVar[list[OSError]] = []
    receives: ClassVar[list[OSError]] = []

    def send(self, *args: Any) -> int:
        if self.sends:
            raise self.sends.pop(0)
        return super().send(*args)

    def recv(self, *args: Any) -> bytes:
        if self.receives:
            raise self.receives.pop(0)
        return super().recv(*args)

    def recvfrom(self, *args: Any) -> tuple[bytes, Any]:
        if self.receives:
            raise self.receives.pop(0)
        return super().recvfrom(*args)

    def sendto(self, *args: Any) -> int:
        if self.sends:
            raise self.sends.pop(0)
        return super().sendto(*args)


def unreachable() -> OSError:
    return OSError(errno.EHOSTUNREACH, "No route to host")


async def test_what_cannot_be_passed_on_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def reluctant(family: int, kind: socket.SocketKind, connect: Connect) -> socket.socket:
        made = Reluctant(family, kind)
        made.setblocking(False)
        return made

    monkeypatch.setattr("lbclient.l4.udp.new_socket", reluctant)
    with udp_servers(naming(b"a")) as [server]:
        pool = Pool([server.url])
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
            with udp_client(forwarder.port) as client:
                Reluctant.sends[:] = [BlockingIOError(), unreachable()]
                client.send(b"1")
                client.send(b"2")
                await until(lambda: forwarder.stats.dropped == 2)
                Reluctant.receives[:] = [unreachable()]
                assert await run_sync(ask, client) == b"a:q"
                assert not Reluctant.receives
    assert pool.status().backends[0].failures == 0


async def test_a_refusal_may_be_told_when_the_next_datagram_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def reluctant(family: int, kind: socket.SocketKind, connect: Connect) -> socket.socket:
        made = Reluctant(family, kind)
        made.setblocking(False)
        return made

    monkeypatch.setattr("lbclient.l4.udp.new_socket", reluctant)
    with udp_servers(naming(b"a"), naming(b"b")) as servers:
        pool = Pool([server.url for server in servers], algorithm="first")
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
            with udp_client(forwarder.port) as client:
                Reluctant.sends[:] = [ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")]
                assert await run_sync(ask, client) == b"b:q"


async def test_trouble_with_the_listener_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = Forwarder._bind

    async def reluctant(self: Forwarder) -> socket.socket:
        usual = await bind(self)
        return Reluctant(usual.family, usual.type, usual.proto, usual.detach())

    monkeypatch.setattr(Forwarder, "_bind", reluctant)
    with udp_servers(naming(b"a")) as [server]:
        async with UDPForwarder(Pool([server.url]), "127.0.0.1", 0) as forwarder:
            with udp_client(forwarder.port) as client:
                Reluctant.receives[:] = [unreachable()]
                Reluctant.sends[:] = [BlockingIOError()]
                client.send(b"1")
                await until(lambda: forwarder.stats.dropped == 1)
                assert await run_sync(ask, client) == b"a:q"


async def test_without_descriptors_a_session_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(family: int, kind: socket.SocketKind, connect: Connect) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("lbclient.l4.udp.new_socket", none_left)
    pool = Pool(["udp://127.0.0.1:1"])
    async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
        with udp_client(forwarder.port) as client:
            client.send(b"1")
            await until(lambda: forwarder.stats.failed == 1 and not forwarder.stats.open)
    assert (in_flight(pool), pool.status().backends[0].failures) == (0, 0)


async def test_an_address_that_cannot_be_reached_fails_the_session() -> None:
    pool = Pool(["udp://[ff02::1]:9"])  # link-local, without saying on which link
    async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
        with udp_client(forwarder.port) as client:
            client.send(b"1")
            await until(lambda: forwarder.stats.failed == 1 and not forwarder.stats.open)
    assert in_flight(pool) == 0


async def test_a_session_that_begins_while_a_drain_ends_is_cut_as_well() -> None:
    with udp_servers(naming(b"a")) as [server]:
        pool = Pool([server.url])
        async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
            fleet = fleet_of(pool)
            fleet.cuts = lambda url: -1  # type: ignore[method-assign]
            with udp_client(forwarder.port) as client:
                client.send(b"1")
                await until(lambda: forwarder.stats.cut == 1)
            del fleet.cuts
    assert in_flight(pool) == 0


async def test_stopped_while_a_name_is_looked_up_it_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(backend: Backend, kind: socket.SocketKind) -> list[Any]:
        looking.set()
        await anyio.sleep_forever()
        return []

    looking = anyio.Event()
    monkeypatch.setattr("lbclient.l4.udp.addresses_of", never)
    pool = Pool(["udp://localhost:1"])
    async with UDPForwarder(pool, "127.0.0.1", 0) as forwarder:
        with udp_client(forwarder.port) as client:
            client.send(b"1")
            await looking.wait()
            [session] = forwarder._sessions.values()
            assert repr(session).endswith("with udp://localhost:1, open>")
            assert await forwarder.stop(grace=0) == 1
            assert repr(session).endswith("cut>")
    assert in_flight(pool) == 0
