"""etcd as a source, against a real one; and what real ones rarely do, from a script."""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from lbclient import AsyncBalancedTransport, BalancedTransport
from lbclient.discovery import Etcd
from tests.conftest import MakeRawServer, SharedServers
from tests.discovery.sources import listening, until
from tests.servers import Connection, RawServer
from tests.servers.etcd import Etcd as Server
from tests.servers.etcd import etcd as etcd
from tests.servers.raw import respond

PREFIX = "/services/shop/"
A, B, C = "http://a.test:1", "http://b.test:1", "http://c.test:1"


@pytest.fixture
def anyio_backend() -> str:
    """Most here is about what is heard; `BOTH` are the tests that are about how."""
    return "asyncio"


BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


def of(server: Server, **options: Any) -> Etcd:
    return Etcd(PREFIX, endpoints=[server.url], **options)


@BOTH
async def test_keys_that_come_change_and_go_are_followed(etcd: Server) -> None:
    etcd.put(PREFIX + "a", A)
    etcd.put("/services/shopping/x", "http://not-ours.test:1")
    async with listening(of(etcd)) as heard:
        await until(lambda: heard.last == (A,))
        await anyio.sleep(0.2)
        took: list[float] = []
        changes: list[tuple[Callable[[], object], tuple[str, ...]]] = [
            (lambda: etcd.put(PREFIX + "b", B), (A, B)),
            (lambda: etcd.put(PREFIX + "a", C), (C, B)),
            (lambda: etcd.delete(PREFIX + "b"), (C,)),
        ]
        for change, expected in changes:
            change()
            began = time.monotonic()
            await until(lambda expected=expected: heard.last == expected)  # type: ignore[misc]
            took.append(time.monotonic() - began)
        print(f"seen after {', '.join(f'{1000 * each:.0f}' for each in took)} ms")


async def test_a_lease_that_ends_takes_its_key_with_it(etcd: Server) -> None:
    etcd.put(PREFIX + "a", A)
    etcd.put(PREFIX + "b", B, lease=etcd.lease(2))
    revoked = etcd.lease(600)
    etcd.put(PREFIX + "c", C, lease=revoked)
    async with listening(of(etcd)) as heard:
        await until(lambda: heard.last == (A, B, C))
        etcd.revoke(revoked)
        await until(lambda: C not in heard.last)
        await until(lambda: heard.last == (A,))


async def test_values_say_backends_in_several_ways(etcd: Server, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in {
        "1": A,
        "2": "10.0.0.6:8080",
        "3": json.dumps({"url": B, "weight": 2.5, "zone": "a", "draining": True, "metadata": {"x": 1}}),
        "4": json.dumps({"Op": 0, "Addr": "10.0.0.8:8080", "Metadata": {"shard": 7}}),
        "5": json.dumps({"Addr": "http://10.0.0.9:8080", "Metadata": None}),
        "6": "nonsense here",
        "7": '{"url": 3}',
        "8": "{",
        "9": A,
    }.items():
        etcd.put(PREFIX + name, value)
    async with listening(of(etcd, scheme="https")) as heard:
        await until(lambda: bool(heard.sets))
    assert heard.last == (A, "https://10.0.0.6:8080", B, "https://10.0.0.8:8080", "http://10.0.0.9:8080")
    b = heard.backends[B]
    assert (b.weight, b.zone, b.draining, b.metadata) == (2.5, "a", True, {"x": 1})
    assert heard.backends["https://10.0.0.8:8080"].metadata == {"shard": 7}
    assert caplog.text.count("is no backend") == 3


async def test_a_value_that_becomes_nonsense_is_no_backend(etcd: Server) -> None:
    etcd.put(PREFIX + "a", A)
    etcd.put(PREFIX + "b", B)
    async with listening(of(etcd)) as heard:
        await until(lambda: heard.last == (A, B))
        etcd.put(PREFIX + "b", "{")
        await until(lambda: heard.last == (A,))


async def test_the_later_of_two_keys_with_one_url_counts(etcd: Server) -> None:
    etcd.put(PREFIX + "new", json.dumps({"url": A, "weight": 1}))
    etcd.delete(PREFIX + "new")
    etcd.put(PREFIX + "old", json.dumps({"url": A, "weight": 2}))
    etcd.put(PREFIX + "new", json.dumps({"url": A, "weight": 3}))
    async with listening(of(etcd)) as heard:
        await until(lambda: heard.last == (A,))
        assert heard.backends[A].weight == 3


@BOTH
async def test_a_server_that_restarts_is_taken_up_again(etcd: Server) -> None:
    etcd.put(PREFIX + "a", A)
    async with AsyncBalancedTransport(of(etcd)) as transport:
        await transport.wait_until_ready()
        pool = transport.pools["default"]
        etcd.kill()
        await until(lambda: not _status(pool).well)
        assert [backend.url for backend in pool.declared] == [A]
        await anyio.to_thread.run_sync(etcd.start)
        etcd.put(PREFIX + "b", B)
        began = time.monotonic()
        await until(lambda: [backend.url for backend in pool.declared] == [A, B])
        print(f"{time.monotonic() - began:.2f} s after its return")
        assert _status(pool).well


def _status(pool: Any) -> Any:
    return pool.status().source


async def test_no_key_at_all_is_trouble_or_nobody(etcd: Server) -> None:
    etcd.put(PREFIX + "a", A)
    async with AsyncBalancedTransport(of(etcd)) as transport:
        await transport.wait_until_ready()
        etcd.delete(PREFIX + "a")
        await until(lambda: _status(transport.pools["default"]).last_error == "its set is empty")
        assert [backend.url for backend in transport.pools["default"].declared] == [A]
    async with AsyncBalancedTransport(of(etcd, allow_empty=True)) as transport:
        await transport.wait_until_ready()
        assert transport.pools["default"].declared == ()


async def test_with_authentication(etcd: Server) -> None:
    etcd.put(PREFIX + "a", A)
    etcd.ask("auth/user/add", {"name": "root", "password": "secret"})
    etcd.ask("auth/user/grant", {"user": "root", "role": "root"})
    etcd.ask("auth/enable", {})
    async with listening(of(etcd, username="root", password="secret")) as heard:
        await until(lambda: heard.last == (A,))
    async with AsyncBalancedTransport(of(etcd, username="root", password="wrong")) as transport:
        await until(lambda: "authentication failed" in _status(transport.pools["default"]).last_error)


async def test_when_one_endpoint_fails_the_next_is_asked(etcd: Server) -> None:
    etcd.put(PREFIX + "a", A)
    async with AsyncBalancedTransport(Etcd(PREFIX, endpoints=["http://127.0.0.1:1", etcd.url])) as transport:
        await transport.wait_until_ready()


def test_a_sync_client_follows_it_too(etcd: Server, servers: SharedServers) -> None:
    (server,) = servers("uvicorn", 1)
    etcd.put(PREFIX + "a", server.url)
    with httpx.Client(transport=BalancedTransport(of(etcd)), base_url="http://shop") as http:
        assert http.get("/whoami").text == server.name


# What etcd says, step by step


async def test_what_was_compacted_meanwhile_is_listed_anew(etcd: Server) -> None:
    """The watch asks for a revision that is gone: it is told so, and nothing else."""
    first = etcd.put(PREFIX + "a", A)
    source = of(etcd)
    async with source.connect() as client:
        view = await source.list(client)
        etcd.put(PREFIX + "b", B)
        etcd.compact(etcd.put(PREFIX + "c", C))
        view.revision = first
        assert await source.follow(client, view, lambda: None)


STEP = 17  # bytes between two cuts; tests/soak leaves none out
HEADER = {"cluster_id": "7", "revision": "20"}


def key(name: str) -> str:
    return b64encode((PREFIX + name).encode()).decode()


def put(name: str, url: str, revision: int) -> dict[str, Any]:
    value = b64encode(url.encode()).decode()
    return {"kv": {"key": key(name), "value": value, "mod_revision": str(revision), "create_revision": "1"}}


def lines(*messages: Any) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


LISTED = {"header": {**HEADER, "revision": "5"}, "kvs": [put("a", A, 5)["kv"]]}
CREATED = {"result": {"header": HEADER, "created": True}}
CAME = {"result": {"header": HEADER, "events": [put("b", B, 6)]}}
CANCELLED = {"result": {"header": HEADER, "canceled": True, "cancel_reason": "no permission"}}


class Script:
    """An etcd that answers a list, and watch after watch with what it was given; the last one stays open.

    Each is given as (revision that is asked for, or None for whichever, what is sent).
    """

    def __init__(self, *watches: tuple[int | None, bytes], listed: Any = LISTED) -> None:
        self.listed = json.dumps(listed).encode()
        self.watches = list(watches)
        self.lists = 0
        self.asked: list[int] = []

    def __call__(self, connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            head, _, body = request.partition(b"\r\n\r\n")
            if b"/v3/kv/range" in head:
                self.lists += 1
                connection.respond(body=self.listed)
                continue
            revision = int(json.loads(body)["create_request"]["start_revision"])
            self.asked.append(revision)
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
            if self.watches:
                expected, sent = self.watches.pop(0)
                assert expected is None or revision == expected, (revision, expected)
                connection.send(sent)
            if not self.watches:
                connection.wait_for_client_close(60)
            return


def scripted(server: RawServer) -> Etcd:
    return Etcd(PREFIX, endpoints=[server.url])


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbclient.discovery.list_watch.FIRST_PAUSE", 0.001)


async def test_a_watch_goes_on_where_it_was_cut(raw_server: MakeRawServer) -> None:
    script = Script(
        (6, lines(CREATED, CAME)),
        (7, lines(CREATED, {"result": {"header": {**HEADER, "revision": "9"}}})),  # progress
        (
            10,
            lines(CREATED, {"result": {"header": {**HEADER, "revision": "12"}, "events": [put("c", C, 11)]}}),
        ),
    )
    async with listening(scripted(raw_server(script))) as heard:
        await until(lambda: heard.last == (A, B, C))
    assert script.lists == 1


@pytest.mark.parametrize(
    "watch",
    [
        lines({"result": {"header": {"cluster_id": "7"}, "canceled": True, "compact_revision": "9"}}),
        lines({"result": {"header": {"cluster_id": "8", "revision": "6"}, "created": True}}),
        lines({"result": {"header": {"cluster_id": "7", "revision": "4"}, "created": True}}),
    ],
    ids=["compacted", "another cluster", "restored from before"],
)
@BOTH
async def test_a_view_that_cannot_go_on_is_listed_anew(raw_server: MakeRawServer, watch: bytes) -> None:
    script = Script((6, watch), (6, lines(CREATED, CAME)))
    async with listening(scripted(raw_server(script))) as heard:
        await until(lambda: heard.last == (A, B))
    assert script.lists == 2


BROKEN = lines({"error": {"grpc_code": 14, "http_code": 503, "message": "transport is closing"}})


async def test_an_error_and_a_clean_end_are_a_cut(raw_server: MakeRawServer) -> None:
    script = Script(
        (6, lines(CREATED) + BROKEN),
        (6, lines(CREATED, CAME)),
    )
    async with listening(scripted(raw_server(script))) as heard:
        await until(lambda: heard.last == (A, B))
    assert (script.lists, heard.troubles) == (1, [])


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize(
    ("watch", "words"),
    [
        (BROKEN, "the watch failed: .*transport is closing"),
        (lines(CREATED) + BROKEN, "the watch failed: .*transport is closing"),
        (
            lines({"result": {"header": HEADER, "canceled": True, "cancel_reason": "no permission"}}),
            "cancelled: no perm",
        ),
        (b"<html>\n", "no JSON, but b'<html>'"),
        (b"[1]\n", r"no JSON object, but b'\[1\]'"),
    ],
)
@BOTH
async def test_a_watch_that_breaks_at_once_again_and_again_is_trouble(
    raw_server: MakeRawServer, watch: bytes, words: str
) -> None:
    script = Script(*[(6, watch)] * 5)
    async with AsyncBalancedTransport(scripted(raw_server(script))) as transport:
        await until(lambda: not _status(transport.pools["default"]).well)
        assert re.search(words, _status(transport.pools["default"]).last_error)


async def test_a_status_that_is_no_success_is_trouble_with_etcd_s_words(raw_server: MakeRawServer) -> None:
    server = raw_server(respond(403, b'{"message": "permission denied"}'))
    async with AsyncBalancedTransport(scripted(server)) as transport:
        with pytest.raises(TimeoutError, match=r"403 .*permission denied"):
            await transport.wait_until_ready(0.5)


@pytest.mark.usefixtures("in_a_hurry")
async def test_a_watch_cut_at_every_byte_is_survived(raw_server: MakeRawServer) -> None:
    stream = lines(
        CREATED,
        CAME,
        {
            "result": {
                "header": HEADER,
                "events": [{"type": "DELETE", "kv": {"key": key("a"), "mod_revision": "7"}}],
            }
        },
    )
    whole = stream.split(b"\n", 2)
    ends = {at + more for at, byte in enumerate(stream) if byte == 10 for more in range(3)}
    for cut in sorted({*range(0, len(stream), STEP), *ends} - {len(stream) + 1, len(stream) + 2}):
        heard_of = 6 + max(0, stream[:cut].count(b"\n") - 1)
        rest = b"\n".join([whole[0], *stream.split(b"\n")[heard_of - 5 :]])
        script = Script((6, stream[:cut]), (heard_of, rest))
        async with listening(scripted(raw_server(script))) as heard:
            await until(lambda: heard.last == (B,))
            await until(lambda script=script: len(script.asked) == 2)  # type: ignore[misc]
        assert (script.lists, heard.troubles) == (1, []), cut


# Construction


@pytest.mark.parametrize(
    ("prefix", "options", "words"),
    [
        ("", {}, "prefix is ''; write the beginning of the keys"),
        ("/a/", {"endpoints": []}, "endpoints is"),
        ("/a/", {"endpoints": "http://127.0.0.1:2379"}, "write a list of URLs"),
        ("/a/", {"endpoints": ["127.0.0.1:2379"]}, "has no scheme"),
        ("/a/", {"username": "root"}, "username and password belong together"),
        ("/a/", {"timeout": 0}, "timeout is 0"),
        ("/a/", {"scheme": "ftp"}, "scheme 'ftp'"),
    ],
)
def test_bad_arguments_are_worded(prefix: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Etcd(prefix, **options)


def test_a_prefix_of_the_highest_bytes_has_an_end() -> None:
    for prefix, end in [("a", b"b"), ("/services/", b"/services0")]:
        assert b64decode(Etcd(prefix)._range()["range_end"]) == end
