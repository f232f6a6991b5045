"""The HTTP/1.1 reader and writer: what is one message, what is none, and after what no other one may follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from httpcore import LocalProtocolError, RemoteProtocolError

from lbclient._async import http11
from lbclient._async.http11 import (
    MAX_CHUNK_LINE,
    MAX_FIELDS,
    MAX_HEAD,
    MAX_INTERIM,
    MAX_REMEMBERED_HEAD,
    Head,
    Lines,
    Outgoing,
    ResponseReader,
    State,
)
from lbclient._async.retarget import MOST_REMEMBERED, Target
from lbclient.core.backend import Backend

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TWO = b"Content-Length: 2\r\n\r\nok"


def cuts(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and in two at every place."""
    if len(data) > 2000:
        return [[data], [data[i : i + 1000] for i in range(0, len(data), 1000)]]
    return [
        [data],
        [data[i : i + 1] for i in range(len(data))],
        *([data[:i], data[i:]] for i in range(1, len(data))),
    ]


def feed_all(reader: ResponseReader, parts: list[bytes]) -> None:
    for part in parts:
        reader.feed(part)


def read(
    parts: list[bytes], *, method: bytes = b"GET", upgrade: bool = False, ends: bool = False
) -> tuple[Head | None, bytes, State, bool]:
    """What a reader makes of it: the head, the body, where it ends up, and whether another response may follow."""
    reader = ResponseReader()
    reader.start(method, upgrade)
    for part in parts:
        reader.feed(part)
    if ends:
        reader.end()
    return reader.head, b"".join(reader.parts), reader.state, reader.reusable


# What is read, and what may follow

GET, HEAD, CONNECT = b"GET", b"HEAD", b"CONNECT"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n"
READ: dict[str, tuple[bytes, bytes, bytes, State, bool]] = {
    "a length": (GET, OK + TWO, b"ok", State.DONE, True),
    "a length of nothing": (GET, OK + b"Content-Length: 0\r\n\r\n", b"", State.DONE, True),
    "the same length twice": (GET, OK + b"Content-Length: 2\r\n" + TWO, b"ok", State.DONE, True),
    "the same length in a list": (GET, OK + b"Content-Length: 2, 2\r\n\r\nok", b"ok", State.DONE, True),
    "leading zeros": (GET, OK + b"Content-Length: 002\r\n\r\nok", b"ok", State.DONE, True),
    "chunks": (GET, CHUNKED + b"2\r\nok\r\n1\r\n!\r\n0\r\n\r\n", b"ok!", State.DONE, True),
    "Chunked in another case": (
        GET,
        OK + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"ok",
        State.DONE,
        True,
    ),
    "a chunk extension": (GET, CHUNKED + b"2;a=b\r\nok\r\n0;c\r\n\r\n", b"ok", State.DONE, True),
    "padding behind a chunk size": (GET, CHUNKED + b"2 \t\r\nok\r\n0\r\n\r\n", b"ok", State.DONE, True),
    "sixteen hexadecimal digits": (
        GET,
        CHUNKED + b"000000000000000A\r\n0123456789\r\n0\r\n\r\n",
        b"0123456789",
        State.DONE,
        True,
    ),
    "trailers": (GET, CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n\r\n", b"ok", State.DONE, True),
    "until the end": (GET, OK + b"\r\nok", b"ok", State.ENDLESS, False),
    "HEAD": (HEAD, OK + b"Content-Length: 2\r\n\r\n", b"", State.DONE, True),
    "HEAD, chunked": (HEAD, CHUNKED, b"", State.DONE, True),
    "204": (GET, NO_CONTENT + b"\r\n", b"", State.DONE, True),
    "204 with a length": (GET, NO_CONTENT + b"Content-Length: 2\r\n\r\n", b"", State.DONE, False),
    "204 in chunks": (GET, NO_CONTENT + b"Transfer-Encoding: chunked\r\n\r\n", b"", State.DONE, False),
    "304 with a length": (
        GET,
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        b"",
        State.DONE,
        True,
    ),
    "a length and chunks": (
        GET,
        OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"ok",
        State.DONE,
        False,
    ),
    "chunks and a length": (
        GET,
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"ok",
        State.DONE,
        False,
    ),
    "interim responses": (
        GET,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + TWO,
        b"ok",
        State.DONE,
        True,
    ),
    "an interim response with a length": (
        GET,
        b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n" + OK + TWO,
        b"ok",
        State.DONE,
        False,
    ),
    "close": (GET, OK + b"Connection: x, Close\r\n" + TWO, b"ok", State.DONE, False),
    "HTTP/1.0": (GET, b"HTTP/1.0 200 OK\r\n" + TWO, b"ok", State.DONE, False),
    "HTTP/1.0, kept alive": (
        GET,
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + TWO,
        b"ok",
        State.DONE,
        True,
    ),
    "HTTP/1.0, both": (
        GET,
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n" + TWO,
        b"ok",
        State.DONE,
        False,
    ),
    "HTTP/1.0 in chunks": (
        GET,
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"ok",
        State.DONE,
        False,
    ),
    "CONNECT": (CONNECT, OK + b"\r\nraw", b"raw", State.SWITCHED, False),
    "CONNECT, refused": (
        CONNECT,
        b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
        b"no",
        State.DONE,
        True,
    ),
    "no reason": (GET, b"HTTP/1.1 200\r\n" + TWO, b"ok", State.DONE, True),
    "an empty reason": (GET, b"HTTP/1.1 200 \r\n" + TWO, b"ok", State.DONE, True),
    "999": (GET, b"HTTP/1.1 999 Odd\r\n" + TWO, b"ok", State.DONE, True),
    "a second response behind the first": (GET, OK + TWO + OK + TWO, b"ok", State.DONE, False),
    "an empty line behind the body": (GET, OK + TWO + b"\r\n", b"ok", State.DONE, False),
    "bytes behind the last chunk": (GET, CHUNKED + b"2\r\nok\r\n0\r\n\r\nx", b"ok", State.DONE, False),
    "bytes behind a head without a body": (HEAD, OK + TWO, b"", State.DONE, False),
    "Latin-1, UTF-8 and folds in values": (
        GET,
        OK + b"A: \xe9\r\nB: x\r\n\ty\r\n" + TWO,
        b"ok",
        State.DONE,
        True,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_message_means_the_same_however_it_is_cut(name: str) -> None:
    method, data, body, state, reusable = READ[name]
    for parts in cuts(data):
        _, got, ended, may_follow = read(parts, method=method)
        assert (got, ended, may_follow) == (body, state, reusable), parts


def test_101_hands_over_what_comes_behind_it() -> None:
    data = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nHTTP/1.1 no longer"
    for parts in cuts(data):
        head, body, state, reusable = read(parts, upgrade=True)
        assert head is not None
        assert (head.status, body, state, reusable) == (101, b"HTTP/1.1 no longer", State.SWITCHED, False)


def test_a_head_is_told_as_it_came() -> None:
    head, *_ = read([b"HTTP/1.0 200 All  fine \r\nX-a:  b \r\nSET-cookie: 1\r\nset-Cookie: 2\r\nE:\r\n\r\n"])
    assert head == Head(
        b"HTTP/1.0",
        200,
        b"All  fine ",
        [(b"X-a", b"b"), (b"SET-cookie", b"1"), (b"set-Cookie", b"2"), (b"E", b"")],
    )


def test_a_folded_line_is_joined_by_a_space() -> None:
    head, *_ = read([OK + b"A: b\r\n  \t c \r\n d\r\n\r\n"])
    assert head is not None
    assert head.headers == [(b"A", b"b c d")]


def test_trailers_are_told() -> None:
    reader = ResponseReader()
    reader.start(b"GET")
    reader.feed(CHUNKED + b"0\r\nX: y\r\n\r\n")
    assert reader.trailers == [(b"X", b"y")]
    reader.start(b"GET")
    assert reader.trailers == []


def test_a_connection_reads_one_response_after_the_other() -> None:
    reader = ResponseReader()
    for body in (b"one", b"three"):
        reader.start(b"GET")
        assert reader.head is None
        reader.feed(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert reader.parts == [body]
        assert reader.reusable
    assert repr(reader) == "<ResponseReader DONE, 1 parts>"
    reader.feed(b"x")
    assert repr(reader) == "<ResponseReader DONE, 1 parts, not to be reused>"


def test_a_head_that_was_there_before_means_what_it_means_to_this_request() -> None:
    head = OK + b"Content-Length: 2\r\nX: y\r\n\r\n"
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    for parts in cuts(interim + head + b"ok"):
        reader = ResponseReader()
        reader.start(b"HEAD")
        reader.feed(head)
        assert reader.state is State.DONE
        reader.start(b"GET")
        feed_all(reader, parts)
        assert (reader.state, b"".join(reader.parts), reader.reusable) == (State.DONE, b"ok", True)
        reader.start(b"CONNECT")
        feed_all(reader, parts)
        assert (reader.state, b"".join(reader.parts), reader.reusable) == (State.SWITCHED, b"ok", False)


def test_what_is_done_to_the_headers_of_a_response_is_not_done_to_the_next() -> None:
    reader = ResponseReader()
    for _ in range(3):
        reader.start(b"HEAD")
        reader.feed(OK + TWO[:-2])
        assert reader.head is not None
        assert reader.head.headers == [(b"Content-Length", b"2")]
        reader.head.headers.clear()


@pytest.mark.parametrize(("pad", "kept"), [(0, True), (MAX_REMEMBERED_HEAD, False)])
def test_long_heads_are_not_kept_with_an_idle_connection(pad: int, kept: bool) -> None:
    reader = ResponseReader()
    reader.start(b"HEAD")
    reader.feed(OK + b"X: %b\r\n\r\n" % (b"x" * pad))
    assert (reader._block is not None) is kept


def test_tiny_chunks_that_come_together_are_one_part() -> None:
    reader = ResponseReader()
    reader.start(b"GET")
    reader.feed(CHUNKED + b"1\r\nx\r\n" * 1000)
    assert reader.parts == [b"x" * 1000]


# What is refused

H, C = OK, CHUNKED
REFUSED: dict[str, bytes] = {
    "conflicting lengths": H + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "conflicting lengths in a list": H + b"Content-Length: 2, 3\r\n\r\nokk",
    "a length that is none beside chunks": H + b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    "another coding": H + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunked and another coding": H + b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "another coding and chunked": H + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "identity": H + b"Transfer-Encoding: identity\r\n" + TWO,
    "chunked twice": H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked behind a vertical tab": H + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "another coding of 204": NO_CONTENT + b"Transfer-Encoding: gzip\r\n\r\n",
    "whitespace before a colon": H + b"Content-Length : 2\r\n\r\nok",
    "whitespace before the colon of a coding": H + b"Transfer-Encoding : chunked\r\n\r\n",
    "bare LF everywhere": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "bare LF in one line": H + b"A: b\n" + TWO,
    "bare LF at the end of the head": H + b"Content-Length: 2\r\n\nok",
    "bare LF behind the status line": b"HTTP/1.1 200 OK\n" + TWO,
    "bare CR": H + b"A: b\rContent-Length: 9\r\n" + TWO,
    "CR CR LF": H + b"A: b\r\r\n" + TWO,
    "NUL in a value": H + b"A: b\0c\r\n" + TWO,
    "NUL in a name": H + b"A\0: b\r\n" + TWO,
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\n" + TWO,
    "a control in a value": H + b"A: b\x01c\r\n" + TWO,
    "DEL in a value": H + b"A: b\x7fc\r\n" + TWO,
    "an empty name": H + b": b\r\n" + TWO,
    "a name with a space": H + b"A B: c\r\n" + TWO,
    "a name with a parenthesis": H + b"A(: b\r\n" + TWO,
    "a name that is not ASCII": H + "Ä: b\r\n".encode() + TWO,
    "a line without a colon": H + b"Broken\r\n" + TWO,
    "a known name without a colon": H + b"A: b\r\nA\r\n" + TWO,
    "a folded length": H + b"Content-Length:\r\n 2\r\n\r\nok",
    "a length that goes on": H + b"Content-Length: 2\r\n 0\r\n\r\nok",
    "a folded coding": H + b"Transfer-Encoding:\r\n chunked\r\n\r\n",
    "a folded Connection": H + b"Connection: x\r\n ,close\r\n" + TWO,
    "a first line that is folded": H + b" A: b\r\n" + TWO,
    "length -1": H + b"Content-Length: -1\r\n\r\nok",
    "length +2": H + b"Content-Length: +2\r\n\r\nok",
    "length 0x2": H + b"Content-Length: 0x2\r\n\r\nok",
    "length 2.0": H + b"Content-Length: 2.0\r\n\r\nok",
    "length 1_0": H + b"Content-Length: 1_0\r\n\r\n0123456789",
    "length 2 2": H + b"Content-Length: 2 2\r\n\r\nok",
    "an empty length": H + b"Content-Length: \r\n\r\nok",
    "a list with an empty length": H + b"Content-Length: 2,\r\n\r\nok",
    "a length of 20 digits": H + b"Content-Length: 18446744073709551618\r\n\r\nok",
    "a length in other digits": H + "Content-Length: ٢\r\n\r\nok".encode(),
    "a chunk size of 17 digits": C + b"10000000000000002\r\nok\r\n0\r\n\r\n",
    "chunk size +2": C + b"+2\r\nok\r\n0\r\n\r\n",
    "chunk size -2": C + b"-2\r\nok\r\n0\r\n\r\n",
    "chunk size 0x2": C + b"0x2\r\nok\r\n0\r\n\r\n",
    "chunk size 1_0": C + b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "a space before a chunk size": C + b" 2\r\nok\r\n0\r\n\r\n",
    "a space before an extension": C + b"2 ;a\r\nok\r\n0\r\n\r\n",
    "a chunk size in other digits": C + "٢\r\nok\r\n0\r\n\r\n".encode(),
    "no chunk size": C + b"\r\nok\r\n0\r\n\r\n",
    "only an extension": C + b";a\r\nok\r\n0\r\n\r\n",
    "LF in an extension": C + b"2;a\nb\r\nok\r\n0\r\n\r\n",
    "CR in an extension": C + b"2;a\rb\r\nok\r\n0\r\n\r\n",
    "NUL in an extension": C + b"2;a\0b\r\nok\r\n0\r\n\r\n",
    "chunks with bare LF": C + b"2\nok\n0\n\n",
    "a chunk without its CRLF": C + b"2\r\nokXX0\r\n\r\n",
    "a chunk with LF behind it": C + b"2\r\nok\n0\r\n\r\n",
    "a chunk with CR behind it": C + b"2\r\nok\rX0\r\n\r\n",
    "a length in trailers": C + b"0\r\nContent-Length: 5\r\n\r\n",
    "a coding in trailers": C + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "bare LF in trailers": C + b"0\r\nA: b\nC: d\r\n\r\n",
    "bare LF at the end of trailers": C + b"0\r\nA: b\r\n\n",
    "a trailer without a colon": C + b"0\r\nBroken\r\n\r\n",
    "status 99": b"HTTP/1.1 99 X\r\n" + TWO,
    "status 099": b"HTTP/1.1 099 X\r\n" + TWO,
    "status 0200": b"HTTP/1.1 0200 OK\r\n" + TWO,
    "status +20": b"HTTP/1.1 +20 OK\r\n" + TWO,
    "a status in other digits": "HTTP/1.1 ٢٠٠ OK\r\n".encode() + TWO,
    "no status": b"HTTP/1.1\r\n" + TWO,
    "two spaces": b"HTTP/1.1  200 OK\r\n" + TWO,
    "a tab": b"HTTP/1.1\t200 OK\r\n" + TWO,
    "a tab before the reason": b"HTTP/1.1 200\tOK\r\n" + TWO,
    "http/1.1": b"http/1.1 200 OK\r\n" + TWO,
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n" + TWO,
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + TWO,
    "HTTP/11.1": b"HTTP/11.1 200 OK\r\n" + TWO,
    "ICY": b"ICY 200 OK\r\n" + TWO,
    "HTTP/0.9": b"<html>ok</html>",
    "a leading empty line": b"\r\n" + H + TWO,
    "leading garbage": b"xx" + H + TWO,
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "a head that is too long": H + b"A: " + b"x" * MAX_HEAD,
    "too many headers": H + b"A: b\r\n" * (MAX_FIELDS + 1) + TWO,
    "too many interim responses": b"HTTP/1.1 102 Wait\r\n\r\n" * (MAX_INTERIM + 1),
    "an extension that is too long": C + b"2;" + b"a" * MAX_CHUNK_LINE + b"\r\nok\r\n",
    "trailers that are too long": C + b"0\r\nA: " + b"x" * MAX_HEAD,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_message_is_refused_at_once_however_it_is_cut(name: str) -> None:
    """Refused, and not waited for: no end of the connection is needed."""
    data = REFUSED[name]
    for parts in cuts(data):
        reader = ResponseReader()
        reader.start(b"GET")
        with pytest.raises(RemoteProtocolError):
            feed_all(reader, parts)
        assert reader.state is State.FAILED
        assert not reader.reusable


def test_after_a_failure_nothing_is_read() -> None:
    reader = ResponseReader()
    reader.start(b"GET")
    for data in (b"nonsense", OK + TWO):
        with pytest.raises(RemoteProtocolError):
            reader.feed(data)
    assert reader.head is None


def test_informational_responses_are_told_of() -> None:
    reader, told = ResponseReader(), list[tuple[int, list[tuple[bytes, bytes]]]]()
    reader.on_informational = lambda status, headers: told.append((status, headers))
    reader.start(b"GET", upgrade=True)
    reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 103 Early Hints\r\nLi")
    reader.feed(b"nk: <a>\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert told == [(102, []), (103, [(b"Link", b"<a>")])]


@pytest.mark.parametrize("just", ["head", "fields", "line", "interim"])
def test_the_limits_are_where_they_are_said_to_be(just: str) -> None:
    data = {
        "head": OK + b"A: " + b"x" * (MAX_HEAD - len(OK) - 7) + b"\r\n\r\n",
        "fields": OK + b"A: b\r\n" * MAX_FIELDS + b"\r\n",
        "line": CHUNKED + b"0;" + b"x" * (MAX_CHUNK_LINE - 4) + b"\r\n\r\n",
        "interim": b"HTTP/1.1 102 Wait\r\n\r\n" * MAX_INTERIM + OK + TWO,
    }[just]
    for parts in cuts(data):
        assert read(parts)[0] is not None


def test_names_that_a_server_invents_are_not_remembered_for_ever() -> None:
    for start in range(0, 3 * http11._MOST_REMEMBERED, 500):
        many = b"".join(b"X-%d: y\r\n" % n for n in range(start, start + 500))
        read([b"HTTP/1.1 200 reason %d\r\n" % start + many + TWO])
        assert len(http11._kind_of) <= http11._MOST_REMEMBERED
    for n in range(http11._MOST_REMEMBERED + 10):
        read([b"HTTP/1.1 200 number %d\r\n" % n + TWO])
    assert len(http11._status_of) <= http11._MOST_REMEMBERED
    long = b"x" * 100
    read([b"HTTP/1.1 200 " + long + b"\r\n" + long + b": y\r\n" + TWO])
    assert long not in http11._kind_of


# The end of a connection


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Server disconnected without sending a response"),
        (OK + b"A: b", "Server disconnected without sending a response"),
        (OK + b"Content-Length: 9\r\n\r\nok", r"message body \(received 2 bytes, expected 9\)"),
        (CHUNKED, "incomplete chunked read"),
        (CHUNKED + b"2\r\nok\r\n", "incomplete chunked read"),
        (CHUNKED + b"0\r\n", "incomplete chunked read"),
    ],
)
def test_an_end_in_the_middle_is_an_error(data: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        read([data], ends=True)


def test_an_end_is_the_end_of_a_body_without_a_length() -> None:
    assert read([OK + b"\r\no", b"k"], ends=True)[1:] == (b"ok", State.DONE, False)


@pytest.mark.parametrize("data", [OK + TWO, b"HTTP/1.1 101 X\r\n\r\nraw"])
def test_an_end_elsewhere_is_no_error_and_nothing_follows(data: bytes) -> None:
    *_, reusable = read([data], upgrade=True, ends=True)
    assert not reusable


# What other proxies refuse, or read in one way


def test_what_other_proxies_make_of_framing(vectors: Callable[[str], Any]) -> None:
    """The cases about responses. NGINX refuses identical repeats and chunks next to a length; RFC 9112 does not."""
    cases = {case["id"]: case for case in vectors("http_framing_upgrade")["cases"]}
    for name in ("res-te-haproxy-chunked-chunked", "res-te-haproxy-gzip"):
        coding = cases[name]["input"]["response_transfer_encoding"].encode()
        assert cases[name]["expect"] == {"client_status": 502}
        with pytest.raises(RemoteProtocolError):
            read([OK + b"Transfer-Encoding: %b\r\n\r\n" % coding])
    both = cases["res-te-and-cl-haproxy"]
    headers = "".join(f"{key}: {value}\r\n" for key, value in both["input"]["response"].items()).encode()
    _, body, state, reusable = read([OK + headers + b"\r\n0\r\n\r\n"])
    assert (len(body), state, reusable) == (both["expect"]["body_length"], State.DONE, False)


# Requests

HOST = (b"Host", b"a")


def test_a_request_is_written_as_it_is_with_host_in_front() -> None:
    headers = [(b"Accept", b"*/*"), HOST, (b"X-Empty", b""), (b"X-Spaced", b"a:  b")]
    outgoing = Outgoing(b"GET", b"/a?b", Lines(headers))
    assert (
        outgoing.head
        == b"GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nX-Empty: \r\nX-Spaced: a:  b\r\n\r\n"
    )
    assert not outgoing.lines.close
    assert outgoing.end() == b""


def test_a_length_is_kept() -> None:
    outgoing = Outgoing(b"POST", b"/", Lines([HOST, (b"Content-Length", b"3"), (b"Content-Length", b"3")]))
    assert outgoing.head.count(b"Content-Length") == 1
    assert outgoing.part(b"ab") == b"ab"
    with pytest.raises(LocalProtocolError, match="Too little data for declared Content-Length"):
        outgoing.end()
    with pytest.raises(LocalProtocolError, match="Too much data for declared Content-Length"):
        outgoing.part(b"cd")


def test_without_framing_there_is_no_body() -> None:
    outgoing = Outgoing(b"GET", b"/", Lines([HOST]))
    assert outgoing.part(b"") == b""
    with pytest.raises(LocalProtocolError, match="Too much data"):
        outgoing.part(b"x")


def test_chunks_are_written_and_an_empty_part_is_not_the_end() -> None:
    outgoing = Outgoing(b"POST", b"/", Lines([HOST, (b"Transfer-Encoding", b"chunked")]))
    assert [outgoing.part(b"x" * 17), outgoing.part(b""), outgoing.end()] == [
        b"11\r\n" + b"x" * 17 + b"\r\n",
        b"",
        b"0\r\n\r\n",
    ]


def test_what_a_request_says_about_its_connection_is_noticed() -> None:
    outgoing = Outgoing(b"GET", b"/", Lines([HOST, (b"connection", b"Upgrade, Close"), (b"upgrade", b"x")]))
    assert outgoing.lines.close
    assert outgoing.lines.upgrade


@pytest.mark.parametrize(
    ("method", "target", "headers", "words"),
    [
        (b"", b"/", [HOST], "Illegal method"),
        (b"GE T", b"/", [HOST], "Illegal method"),
        (b"GET", b"", [HOST], "Illegal target"),
        (b"GET", b"/a b", [HOST], "Illegal target"),
        (b"GET", b"/\r\nX: y", [HOST], "Illegal target"),
        (b"GET", b"/", [], "Missing mandatory Host"),
        (b"GET", b"/", [HOST, HOST], "Found multiple Host"),
        (b"GET", b"/", [HOST, (b"", b"x")], "Illegal header name"),
        (b"GET", b"/", [HOST, (b"a b", b"x")], "Illegal header name"),
        (b"GET", b"/", [HOST, (b"a\r\nb", b"x")], "Illegal header name"),
        (b"GET", b"/", [HOST, (b"a", b"x\r\nb: c")], "Illegal header value"),
        (b"GET", b"/", [HOST, (b"a", b"x\n")], "Illegal header value"),
        (b"GET", b"/", [HOST, (b"a", b"x\r")], "Illegal header value"),
        (b"GET", b"/", [HOST, (b"a", b"x\0")], "Illegal header value"),
        (b"GET", b"/", [HOST, (b"a", b"x\x0b")], "Illegal header value"),
        (b"GET", b"/", [HOST, (b"a", b" x")], "Illegal header value"),
        (b"GET", b"/", [HOST, (b"a", b"x\t")], "Illegal header value"),
        (b"GET", b"/", [(b"Host", b"a\r\nb: c")], "Illegal header value"),
        (b"GET", b"/", [HOST, (b"Content-Length", b"+2")], "bad Content-Length"),
        (b"GET", b"/", [HOST, (b"Content-Length", b"2"), (b"Content-Length", b"3")], "conflicting"),
        (b"GET", b"/", [HOST, (b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked")], "exclude"),
        (b"GET", b"/", [HOST, (b"Transfer-Encoding", b"gzip")], "Only Transfer-Encoding: chunked"),
        (b"GET", b"/", [HOST, *[(b"Transfer-Encoding", b"chunked")] * 2], "Only Transfer-Encoding: chunked"),
    ],
)
def test_what_could_be_read_in_two_ways_is_not_sent(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], words: str
) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        Outgoing(method, target, Lines(headers))


def test_lines_are_written_once_for_requests_that_have_the_same_headers() -> None:
    target = Target(Backend("http://10.0.0.5:8080"), preserve_host=False)
    headers = [(b"Host", b"service"), (b"Accept", b"*/*")]
    first = target.lines(headers)
    assert first.written == b"\r\nHost: 10.0.0.5:8080\r\nAccept: */*\r\n\r\n"
    assert target.lines(list(headers)) is first
    headers[1] = (b"Accept", b"text/html")  # the caller's list, and what was remembered is another
    assert target.lines(headers).written == b"\r\nHost: 10.0.0.5:8080\r\nAccept: text/html\r\n\r\n"
    large = [(b"Host", b"service"), (b"Cookie", b"x" * MOST_REMEMBERED)]
    assert target.lines(large) is not target.lines(large), "large ones are not kept"
    with pytest.raises(LocalProtocolError, match="Illegal header value"):
        target.lines([(b"Host", b"service"), (b"a", b"x\n")])
    assert target.lines(headers).written.endswith(b"Accept: text/html\r\n\r\n")
