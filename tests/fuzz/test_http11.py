"""The HTTP/1.1 reader against h11, on responses that are almost right. A few seconds; more examples find more.

What h11 refuses is refused. What is accepted means what h11 takes it to mean. Where h11 would not let another response
follow, none follows. And however the bytes are cut, they mean the same.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
from httpcore import LocalProtocolError, RemoteProtocolError
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from lbclient._async.http11 import Lines, Outgoing, ResponseReader, State

thorough = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Meaning:
    """What a reader takes the bytes for."""

    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    complete: bool
    refused: bool
    may_follow: bool


def ours(parts: list[bytes], method: bytes, ends: bool = False, seen: bytes = b"") -> Meaning:
    reader = ResponseReader()
    reader._block = remembered(seen)
    reader.start(method, upgrade=False)
    refused = False
    try:
        for part in parts:
            reader.feed(part)
        if ends and reader.state is not State.DONE:
            reader.end()
    except RemoteProtocolError:
        refused = True
    head = reader.head
    return Meaning(
        head.status if head else None,
        tuple((name.lower(), value) for name, value in head.headers) if head else (),
        b"".join(reader.parts),
        not refused and reader.state in (State.DONE, State.SWITCHED),
        refused,
        reader.reusable and reader.state is State.DONE,
    )


def remembered(data: bytes) -> Any:
    """What a reader keeps in mind of a response."""
    reader = ResponseReader()
    reader.start(b"GET")
    with suppress(RemoteProtocolError):
        reader.feed(data)
    return reader._block


def theirs(data: bytes, method: bytes, ends: bool = False) -> Meaning:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body = b""
    complete = refused = may_follow = False
    if data:  # nothing would be the end
        connection.receive_data(data)
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA and ends:
                connection.receive_data(b"")
                ends = False
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, tuple(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                complete = True
                may_follow = (
                    connection.their_state is h11.DONE
                    and connection.our_state is h11.DONE
                    and not connection.trailing_data[0]
                )
                break
            elif event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                complete = event is h11.PAUSED  # a tunnel
                break
    except h11.RemoteProtocolError:
        refused = True
    return Meaning(status, headers, body, complete, refused, may_follow)


def without_framing(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    """h11 folds repeats of a length into one, writes codings in lower case, and keeps spaces before a fold."""
    return [
        (name, b" ".join(value.split()))
        for name, value in headers
        if name not in (b"content-length", b"transfer-encoding")
    ]


# Responses that are almost right: each piece is mostly legal, and sometimes one of those that made history.

space = st.sampled_from([b"", b" ", b" ", b" ", b"\t", b"  "])
line_end = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t", b""])
token = st.text("abcXYZ019-_!", min_size=1, max_size=6).map(str.encode)
words = st.one_of(token, st.binary(max_size=6))
number = st.sampled_from(
    [
        b"0",
        b"1",
        b"2",
        b"5",
        b"02",
        b"+2",
        b"-1",
        b"0x2",
        b"1_0",
        b"2 ",
        b"2, 2",
        b"2,3",
        b"2;a",
        "٢".encode(),
    ]
)
framing = st.one_of(
    st.tuples(st.sampled_from([b"Content-Length", b"content-length", b"Content-Length "]), number),
    st.tuples(
        st.sampled_from([b"Transfer-Encoding", b"TRANSFER-ENCODING"]),
        st.sampled_from(
            [b"chunked"] * 6 + [b"Chunked", b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity"]
        ),
    ),
    st.tuples(
        st.just(b"Connection"), st.sampled_from([b"close", b"keep-alive", b"x, Close", b"Keep-Alive, x"])
    ),
)
field = st.one_of(framing, framing, st.tuples(token, words), st.tuples(words, words))
status_line = st.one_of(
    st.sampled_from(
        [b"HTTP/1.1 200 OK"] * 6
        + [b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304 No", b"HTTP/1.1 404", b"HTTP/1.1 200 "]
    ),
    st.tuples(
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.2", b"http/1.1", b"ICY"]), space, words, space, words
    ).map(b"".join),
)
chunk_size = st.one_of(
    st.integers(0, 20).map(lambda n: b"%x" % n),
    st.sampled_from(
        [b"2;a=b", b"2 ", b" 2", b"+2", b"0x2", b"1_0", b"", b"2;\x01", b"2 ;a", b"2;a\rb", b"0" * 17]
    ),
)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    out = b""
    for _ in range(draw(st.integers(0, 4))):
        size = draw(chunk_size)
        try:
            length = int(size.partition(b";")[0], 16)
        except ValueError:
            length = 2
        out += size + draw(line_end) + b"x" * max(0, min(length, 30)) + draw(line_end)
    return out + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0\r\n", b""]))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    out = draw(st.sampled_from([b""] * 8 + [b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n"]))
    out += draw(status_line) + draw(line_end)
    for name, value in draw(st.lists(field, max_size=4)):
        out += name + b":" + draw(space) + value + draw(space) + draw(line_end)
    out += draw(line_end)
    return (
        out
        + draw(st.one_of(chunks(), st.binary(max_size=8), st.just(b"okokok")))
        + draw(st.sampled_from([b""] * 5 + [b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]))
    )


methods = st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"CONNECT"])


def agree(data: bytes, method: bytes, ends: bool) -> None:
    """What is accepted is what h11 accepts, and means what h11 takes it to mean."""
    mine, reference = ours([data], method, ends), theirs(data, method, ends)
    if mine.refused:
        return
    assert not reference.refused
    assert (mine.status, mine.complete) == (reference.status, reference.complete)
    assert without_framing(mine.headers) == without_framing(reference.headers)
    if not (method == b"CONNECT" and mine.status is not None and mine.status < 300):
        assert mine.body == reference.body
    if mine.may_follow and not data.startswith(b"HTTP/1.0"):  # h11 keeps no HTTP/1.0 alive
        assert reference.may_follow


def means_the_same(data: bytes, method: bytes, places: list[int]) -> None:
    """Cut at those places, in ascending order, and byte by byte; also when the head was there before."""
    whole = ours([data], method)
    parts = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert ours(parts, method) == whole
    assert ours([data[i : i + 1] for i in range(len(data))], method) == whole
    assert ours([data], method, seen=data) == ours(parts, method, seen=data) == whole


@thorough
@given(responses(), methods, st.booleans())
@example(b"HTTP/1.1 200 OK\r\nA: b \r\n  c\r\nContent-Length: 2\r\n\r\nok", b"GET", False)
def test_what_is_accepted_means_what_h11_takes_it_to_mean(data: bytes, method: bytes, ends: bool) -> None:
    agree(data, method, ends)


@thorough
@given(responses(), methods, st.data())
def test_however_it_is_cut_it_means_the_same(data: bytes, method: bytes, draws: st.DataObject) -> None:
    means_the_same(data, method, sorted(draws.draw(st.lists(st.integers(0, len(data)), max_size=6))))


legal_name = st.text("abcdefXYZ-", min_size=1, max_size=8).map(lambda name: b"X-" + name.encode())
legal_value = st.text(" abc,;=\"'é", max_size=12).map(lambda value: value.strip().encode("latin-1"))


@thorough
@given(
    st.lists(st.tuples(legal_name, legal_value), max_size=8),
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.sampled_from(["length", "chunks", "end"]),
)
def test_what_is_right_is_read_to_its_end_and_nothing_is_waited_for(
    fields: list[tuple[bytes, bytes]], body: list[bytes], kind: str
) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields)
    content = b"".join(body)
    if kind == "length":
        data = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
    elif kind == "chunks":
        data = head + b"Transfer-Encoding: chunked\r\n\r\n"
        data += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in body) + b"0\r\n\r\n"
    else:
        data = head + b"\r\n" + content
    read = ours([data], b"GET", ends=kind == "end")
    assert (read.body, read.complete, read.may_follow) == (content, True, kind != "end")
    again = ours([data[:-1]], b"GET")
    assert not again.complete or kind == "end"


@thorough
@given(st.sampled_from([b"GET", b"POST", b"HE AD"]), st.binary(max_size=6), st.lists(field, max_size=4))
def test_what_h11_would_not_send_is_not_sent(
    method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    headers = [(b"Host", b"a"), *fields]
    try:
        outgoing = Outgoing(method, b"/" + target, Lines(headers))
    except LocalProtocolError:
        return
    assume(not any(name.lower() == b"transfer-encoding" for name, _ in fields))  # h11 writes it in lower case
    assert outgoing.head == h11.Connection(h11.CLIENT).send(
        h11.Request(method=method, target=b"/" + target, headers=headers)
    )
