"""ClientHellos: whatever the segments, the same answer; whatever else comes, an error and never a crash."""

from __future__ import annotations

import ssl
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient.l4 import ClientHello, ClientHelloError, ClientHelloReader
from lbclient.l4.client_hello import MOST_BYTES
from tests.l4.peers import client_hello

HELLO = client_hello("a.lbclient.test", ("h2", "http/1.1"))
WANTED = ClientHello("a.lbclient.test", ("h2", "http/1.1"))


def read(data: bytes) -> ClientHello | None:
    return ClientHelloReader().feed(data)


def feed_in_steps(reader: ClientHelloReader, data: bytes, step: int) -> ClientHello | None:
    hello = None
    for at in range(0, len(data), step):
        hello = reader.feed(data[at : at + step])
    return hello


def outcome(data: bytes, step: int = 1 << 20) -> ClientHello | str | None:
    """What a reader makes of it: a hello, None for more to come, or its objection."""
    try:
        return feed_in_steps(ClientHelloReader(), data, step)
    except ClientHelloError as exc:
        return str(exc)


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, value)


def sni(name: bytes) -> bytes:
    return extension(0, vector(2, b"\0" + vector(2, name)))


def message(
    extensions: bytes | None = None,
    *,
    version: bytes = b"\x03\x03",
    session: bytes = b"",
    ciphers: bytes = b"\x13\x01",
    compression: bytes = b"\0",
    behind: bytes = b"",
) -> bytes:
    """A ClientHello as a handshake message."""
    body = version + b"r" * 32 + vector(1, session) + vector(2, ciphers) + vector(1, compression)
    if extensions is not None:
        body += vector(2, extensions)
    return b"\x01" + vector(3, body + behind)


def record(data: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes([kind]) + version + vector(2, data)


def records(data: bytes, size: int) -> bytes:
    return b"".join(record(data[at : at + size]) for at in range(0, len(data), size))


# What is a ClientHello


def test_openssl_s_hello_is_understood() -> None:
    assert read(HELLO) == WANTED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_version_is_laid_out_alike(version: ssl.TLSVersion) -> None:
    hello = client_hello("a.lbclient.test", minimum_version=version, maximum_version=version)
    assert read(hello) == ClientHello("a.lbclient.test")


def test_a_hello_may_have_neither_name_nor_protocols_nor_extensions() -> None:
    assert read(client_hello(None)) == ClientHello()
    assert read(record(message())) == ClientHello()
    assert read(record(message(b""))) == ClientHello()


def test_names_are_told_as_routes_write_them() -> None:
    assert read(record(message(sni(b"WWW.Example.COM.")))) == ClientHello("www.example.com")


@given(st.lists(st.integers(1, len(HELLO) - 1), max_size=30), st.booleans())
def test_segmentation_makes_no_difference(cuts: list[int], with_empty_ones: bool) -> None:
    reader = ClientHelloReader()
    edges = [0, *sorted(set(cuts)), len(HELLO)]
    for start, end in pairwise(edges):
        if with_empty_ones:
            assert reader.feed(b"") is None
        hello = reader.feed(HELLO[start:end])
        assert hello == (WANTED if end == len(HELLO) else None)
    assert bytes(reader.received) == HELLO


def test_one_byte_at_a_time() -> None:
    reader = ClientHelloReader()
    found = [reader.feed(HELLO[at : at + 1]) for at in range(len(HELLO))]
    assert found == [None] * (len(HELLO) - 1) + [WANTED]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 50])
def test_a_hello_may_be_spread_over_records(size: int) -> None:
    data = records(message(sni(b"a.example")), size)
    assert read(data) == ClientHello("a.example")
    assert feed_in_steps(ClientHelloReader(), data, 1) == ClientHello("a.example")


def test_what_follows_is_kept_and_not_looked_at() -> None:
    reader = ClientHelloReader()
    assert reader.feed(HELLO + b"early data") == WANTED
    assert reader.feed(b"!") == WANTED
    assert bytes(reader.received) == HELLO + b"early data!"


def test_the_reader_says_how_far_it_is() -> None:
    reader = ClientHelloReader()
    reader.feed(HELLO[:10])
    assert repr(reader) == "<ClientHelloReader reading, 10 bytes>"
    reader.feed(HELLO[10:])
    assert repr(reader) == f"<ClientHelloReader complete, {len(HELLO)} bytes>"


# What is none


BAD = {
    "another protocol": (b"GET / HTTP/1.1\r\n", "type 71"),
    "SSLv2": (b"\x80\x2e\x01\x00\x02", "type 128"),
    "another record": (record(b"\x02\x28", kind=21), "type 21"),
    "another major version": (record(message(), version=b"\x04\x00"), "version 4"),
    "another message": (record(b"\x02" + message()[1:]), "message of type 2"),
    "an empty record": (record(b""), "0 bytes"),
    "a record that is too long": (b"\x16\x03\x01\x40\x01", "16385 bytes"),
    "a message that is too long": (record(b"\x01\xff\xff\xff"), "16777215 bytes"),
    "another record in between": (record(message()[:20]) + record(b"\x02\x28", kind=21), "type 21"),
    "a version before 3": (record(message(version=b"\x02\x00")), "begin with 3"),
    "a long session id": (record(message(session=b"s" * 33)), "session id"),
    "no ciphers": (record(message(ciphers=b"")), "cipher"),
    "half a cipher": (record(message(ciphers=b"\x13\x01\x02")), "cipher"),
    "no compression": (record(message(compression=b"")), "compression"),
    "bytes behind the extensions": (record(message(b"", behind=b"x")), "behind"),
    "half an extension": (record(message(b"\0\0\0")), "are left"),
    "an extension twice": (record(message(sni(b"a.example") + sni(b"b.example"))), "more than once"),
    "a name of another kind": (record(message(extension(0, vector(2, b"\1" + vector(2, b"x"))))), "no host"),
    "two names": (
        record(message(extension(0, vector(2, b"\0" + vector(2, b"a") + b"\0" + vector(2, b"b"))))),
        "more than one",
    ),
    "bytes behind the names": (
        record(message(extension(0, vector(2, b"\0" + vector(2, b"a")) + b"x"))),
        "more than one",
    ),
    "an empty name": (record(message(sni(b""))), "no DNS name"),
    "a name with a NUL": (record(message(sni(b"a.example\0.evil"))), "no DNS name"),
    "a name with a blank": (record(message(sni(b"a b"))), "no DNS name"),
    "a name with an empty label": (record(message(sni(b"a..example"))), "no DNS name"),
    "a name that is not ASCII": (record(message(sni("ä.example".encode()))), "ASCII"),
    "a name that is too long": (record(message(sni(b"a." * 130 + b"a"))), "no DNS name"),
    "no protocols": (record(message(extension(16, vector(2, b"")))), "ALPN"),
    "a protocol without a name": (record(message(extension(16, vector(2, b"\0")))), "without a name"),
    "bytes behind the protocols": (record(message(extension(16, vector(2, b"\x02h2") + b"x"))), "ALPN"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_hello_is_refused_at_once_and_for_good(name: str) -> None:
    data, words = BAD[name]
    reader = ClientHelloReader()
    with pytest.raises(ClientHelloError, match=words):
        reader.feed(data)
    with pytest.raises(ClientHelloError, match=words):
        reader.feed(HELLO)
    assert "failed" in repr(reader)


def test_another_protocol_is_known_by_its_first_byte() -> None:
    with pytest.raises(ClientHelloError):
        read(b"G")


def test_another_message_is_known_before_its_record_is_complete() -> None:
    with pytest.raises(ClientHelloError):
        read(record(b"\x02" * 1000)[:6])


def test_a_hello_longer_than_the_limit_is_refused_before_it_has_all_come() -> None:
    data = records(message(extension(99, b"x" * MOST_BYTES)), 16_000)
    reader = ClientHelloReader()
    with pytest.raises(ClientHelloError, match="bytes"):
        feed_in_steps(reader, data, 100)
    assert len(reader.received) <= MOST_BYTES + 100


def test_the_limit_counts_record_headers() -> None:
    """One byte to a record: six bytes to be kept for each."""
    data = records(message(extension(99, b"x" * 8000)), 1)
    with pytest.raises(ClientHelloError, match="more than"):
        read(data)


@given(st.binary(max_size=600), st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_damage_never_does_more_than_raise(garbage: bytes, at: int, byte: int) -> None:
    """Random bytes; a hello with one byte changed; a hello that goes on with something else."""
    damaged = HELLO[:at] + bytes([byte]) + HELLO[at + 1 :]
    for data in (garbage, damaged, HELLO[:at] + garbage, record(b"\x01" + vector(3, garbage))):
        assert outcome(data) != ""


@given(st.lists(st.tuples(st.sampled_from([0, 16, 10, 43, 65281]), st.binary(max_size=40)), max_size=6))
def test_extensions_of_any_kind_never_do_more_than_raise(extensions: list[tuple[int, bytes]]) -> None:
    data = record(message(b"".join(extension(kind, value) for kind, value in extensions)))
    assert outcome(data, 1) == outcome(data)
