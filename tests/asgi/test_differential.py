"""The same bytes to NGINX, HAProxy and the reverse proxy: on both of uvicorn's parsers, and on the sidecar's server.

What reaches a backend through the reverse proxy has one meaning for every reader, is nothing that both others refuse,
and never shifts the answers of a connection.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httptools
import pytest

from lbclient.asgi import ReverseProxy
from tests.asgi.corpus import CORPUS, request
from tests.asgi.hosting import Host
from tests.servers import Connection, RawServer

ANSWER_WITHIN = 2.0  # seconds; who does not answer waits for more, and has not refused
AT_ONCE = 32

KNOWN: dict[str, set[str]] = {
    "h11": {
        "chunk: extension with cr"
    },  # h11 reads over it; what is passed on is framed anew, without extensions
    "httptools": set(),
    "sidecar": set(),
}

HEAD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/1\.[01]\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class Ambiguous(Exception):
    """Bytes that two readers could read in two ways."""


class Parsed(NamedTuple):
    target: bytes
    raw: bytes


def parse(data: bytes) -> Parsed | None:
    """The first request of `data`, read strictly; None when it is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    match = HEAD.match(data)
    if match is None:
        raise Ambiguous(data[: end + 4])
    fields = [line.partition(b":") for line in match[3].split(b"\r\n")[:-1]]
    named = [(name.lower(), value.strip(b" \t")) for name, _, value in fields]
    hosts, lengths, codings = (
        [value for name, value in named if name == wanted]
        for wanted in (b"host", b"content-length", b"transfer-encoding")
    )
    if len(hosts) != 1 or len(lengths) + len(codings) > 1:
        raise Ambiguous(match[0])
    position = match.end()
    if codings:
        if codings[0] != b"chunked":
            raise Ambiguous(match[0])
        return _chunks(data, position, match[2])
    if lengths:
        if not lengths[0].isdigit():
            raise Ambiguous(match[0])
        position += int(lengths[0])
    return Parsed(match[2], data[:position]) if len(data) >= position else None


def _chunks(data: bytes, position: int, target: bytes) -> Parsed | None:
    while True:
        chunk = CHUNK.match(data, position)
        if chunk is None:
            if b"\r\n" in data[position:]:
                raise Ambiguous(data)
            return None
        size = int(chunk[1], 16)
        position = chunk.end() + size + 2
        if len(data) < position:
            return None
        if data[position - 2 : position] != b"\r\n":
            raise Ambiguous(data)
        if not size:
            return Parsed(target, data[:position])


class Backend:
    """Answers each request with its target, and remembers what it got."""

    def __init__(self) -> None:
        self.requests: list[Parsed] = []
        self.ambiguous: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, connection: Connection) -> None:
        held = b""
        while data := connection.read():
            held += data
            try:
                while (parsed := parse(held)) is not None:
                    held = held[len(parsed.raw) :]
                    with self._lock:
                        self.requests.append(parsed)
                    connection.respond(body=parsed.target)
            except Ambiguous as exc:
                self.ambiguous.append(exc.args[0])
                return

    def got(self, case: str) -> bool:
        wanted = case.encode()
        return any(
            wanted in parsed.raw and not parsed.target.startswith(b"/canary") for parsed in self.requests
        )


class Seen(NamedTuple):
    """What a client saw of one case."""

    refused: bool
    canary: bytes | None
    """What came for the request behind it; None when nothing did."""


class Answer:
    """The callbacks of httptools."""

    def __init__(self) -> None:
        self.body = b""
        self._done = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self._done = True

    def is_whole(self) -> bool:
        return self._done


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes] | None:
    """The next response; None when there is none."""
    answer = Answer()
    parser = httptools.HttpResponseParser(answer)
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            while not answer.is_whole():
                data = await reader.read(1 if not answer.body and not parser.get_status_code() else 65536)
                if not data:
                    return (parser.get_status_code(), answer.body) if parser.get_status_code() else None
                parser.feed_data(data)
                if answer.is_whole() and parser.get_status_code() < 200:
                    answer = Answer()
                    parser = httptools.HttpResponseParser(answer)
    except (httptools.HttpParserError, ConnectionError):
        return None
    return parser.get_status_code(), answer.body


async def look(port: int, case: str, data: bytes) -> Seen:
    """Send a case, and a canary behind it when the connection is still there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        try:
            answer = await answer_of(reader)
        except TimeoutError:
            return Seen(False, None)
        if answer is None:
            return Seen(True, None)
        canary = None
        try:
            writer.write(f"GET /canary-{case} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            behind = await answer_of(reader)
            canary = None if behind is None or behind[0] != 200 else behind[1]
        except (TimeoutError, ConnectionError):
            pass
        return Seen(answer[0] >= 400, canary)
    finally:
        writer.transport.abort()


def look_at_all(port: int, cases: dict[str, str]) -> dict[str, Seen]:
    async def every() -> dict[str, Seen]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> Seen:
            async with room:
                return await look(port, cases[name], request(name, cases[name]))

        return dict(zip(cases, await asyncio.gather(*map(one, cases)), strict=True))

    return asyncio.run(every())


@contextmanager
def backend() -> Iterator[tuple[Backend, str]]:
    handler = Backend()
    with RawServer(handler) as server:
        yield handler, server.url


@pytest.fixture(scope="module")
def cases() -> dict[str, str]:
    return {name: f"case{number}x" for number, name in enumerate(CORPUS)}


@pytest.fixture(scope="module")
def refused_by_both(cases: dict[str, str]) -> set[str]:
    """What neither NGINX nor HAProxy passes on."""
    from tests.servers import available, start

    refused = set(cases)
    for kind in ("nginx", "haproxy"):
        if not available(kind):
            pytest.skip(f"{kind} is not installed")
        with backend() as (handler, url), start(kind, upstream=url) as front:
            seen = look_at_all(front.port, cases)
        refused &= {name for name in cases if seen[name].refused and not handler.got(cases[name])}
    return refused


def test_the_corpus_is_large_and_most_of_it_is_refused(
    cases: dict[str, str], refused_by_both: set[str]
) -> None:
    assert len(cases) >= 200
    assert len(refused_by_both) >= 60


@pytest.mark.parametrize("parser", ["h11", "httptools", "sidecar"])
def test_nothing_is_passed_on_that_both_refuse_and_nothing_shifts(
    cases: dict[str, str], refused_by_both: set[str], parser: str
) -> None:
    with backend() as (handler, url), Host(ReverseProxy([url], retry=None), http=parser) as host:
        seen = look_at_all(host.port, cases)
    assert handler.ambiguous == []
    passed_on = {name for name in cases if handler.got(cases[name])}
    assert passed_on & refused_by_both == KNOWN[parser]
    assert len(passed_on) >= 50, "and not by refusing everything"
    assert not [parsed for parsed in handler.requests if parsed.target == b"/smuggled"]
    shifted = {
        name: canary
        for name, (_, canary) in seen.items()
        if canary not in (None, f"/canary-{cases[name]}".encode())
    }
    assert shifted == {}
