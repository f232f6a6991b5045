"""PROXY headers of both versions: what is written is read, whatever the segments; what is none is refused."""

from __future__ import annotations

import ipaddress
import socket
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient.l4 import Endpoint, ProxyHeader, ProxyHeaderError, ProxyHeaderReader
from lbclient.l4.proxy_protocol import MOST_BYTES, SIGNATURE, Version, header_of

V4 = ProxyHeader(Endpoint.of("192.0.2.1", 56324), Endpoint.of("198.51.100.7", 443))
V6 = ProxyHeader(Endpoint.of("2001:db8::1", 1), Endpoint.of("2001:db8::2", 65535))

ports = st.integers(0, 65535)
ends4 = st.builds(Endpoint, st.ip_addresses(v=4), ports)
ends6 = st.builds(Endpoint, st.ip_addresses(v=6), ports)
headers = st.one_of(
    st.builds(ProxyHeader, ends4, ends4), st.builds(ProxyHeader, ends6, ends6), st.just(ProxyHeader())
)
tlvs = st.dictionaries(st.integers(0, 255), st.binary(max_size=60), max_size=5)


def read(data: bytes) -> ProxyHeader | None:
    return ProxyHeaderReader().feed(data)


def v2(
    command: int = 0x21, family: int = 0x11, body: bytes = b"\x01" * 12, length: int | None = None
) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


# The specification's own examples (sections 2.1 and 2.2)


def test_version_1_as_the_specification_writes_it() -> None:
    source, destination = Endpoint.of("255.255.255.255", 65535), Endpoint.of("255.255.255.255", 65535)
    line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"
    assert read(line) == ProxyHeader(source, destination)
    assert ProxyHeader(source, destination).encode("v1") == line
    longest = b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2 + [b"65535"] * 2) + b"\r\n"
    assert len(longest) == 107
    assert read(longest) == ProxyHeader()
    assert read(b"PROXY UNKNOWN\r\n") == ProxyHeader()


def test_version_2_byte_by_byte() -> None:
    wanted = (
        b"\r\n\r\n\x00\r\nQUIT\n" b"\x21\x11\x00\x0c"
        b"\xc0\x00\x02\x01" b"\xc6\x33\x64\x07" b"\xdc\x04" b"\x01\xbb"
    )  # fmt: skip
    assert V4.encode("v2") == wanted
    assert read(wanted) == V4
    assert V6.encode("v2")[12:16] == b"\x21\x21\x00\x24"
    assert ProxyHeader().encode("v2") == SIGNATURE + b"\x20\x00\x00\x00"


def test_local_and_unspecified_say_nothing_whatever_follows() -> None:
    assert read(v2(command=0x20)) == ProxyHeader()
    assert read(v2(family=0x00)) == ProxyHeader()
    assert read(v2(command=0x20, family=0x11, body=b"")) == ProxyHeader()


def test_datagrams_have_addresses_too_and_unix_sockets_none_that_help() -> None:
    assert read(v2(family=0x12)) == read(v2())
    header = read(v2(family=0x31, body=b"/tmp/a".ljust(216, b"\0") + b"\x01\x00\x02h2"))
    assert header == ProxyHeader(tlvs={1: b"h2"})


def test_mixed_families_become_ipv6() -> None:
    mixed = ProxyHeader(V4.source, V6.destination)
    back = read(mixed.encode("v2"))
    assert back is not None
    assert back.source == Endpoint(ipaddress.ip_address("::ffff:192.0.2.1"), 56324)
    assert read(mixed.encode("v1")) == back
    assert read(ProxyHeader(V6.source, V4.destination).encode("v1")) is not None


def test_a_header_has_both_ends_or_none() -> None:
    with pytest.raises(ValueError, match="together"):
        ProxyHeader(V4.source, None)


def test_versions_are_these() -> None:
    with pytest.raises(ValueError, match="'v1' or 'v2'"):
        V4.encode("v3")  # type: ignore[arg-type]


def test_an_endpoint_reads_like_an_address() -> None:
    assert str(Endpoint.of("127.0.0.1", 80)) == "127.0.0.1:80"
    assert str(Endpoint.of("fe80::1%eth0", 80)) == "[fe80::1]:80"


# There and back, in any segments


@given(headers, tlvs, st.sampled_from(["v1", "v2"]), st.binary(max_size=30), st.data())
def test_what_is_written_is_read_whatever_the_segments(
    header: ProxyHeader, tlvs: dict[int, bytes], version: Version, behind: bytes, data: st.DataObject
) -> None:
    if version == "v2" and header.source is not None:
        header = ProxyHeader(header.source, header.destination, tlvs)
    head = header.encode(version)
    wire = head + behind
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=10))
    reader = ProxyHeaderReader()
    edges = [0, *sorted(cuts), len(wire)]
    found = None
    for start, end in pairwise(edges):
        found = reader.feed(wire[start:end])
        assert found == (header if end >= len(head) else None)
    assert reader.rest == behind
    assert found is not None
    assert found.tlvs == header.tlvs


def test_one_byte_at_a_time() -> None:
    for version in ("v1", "v2"):
        reader = ProxyHeaderReader()
        wire = V6.encode(version)
        found = [reader.feed(wire[at : at + 1]) for at in range(len(wire))]
        assert found == [None] * (len(wire) - 1) + [V6]


# What is none

BAD = {
    "another protocol": (b"GET / HTTP/1.1\r\n", "neither"),
    "TLS": (b"\x16\x03\x01", "neither"),
    "version 1 in lower case": (b"proxy TCP4", "neither"),
    "no line": (b"PROXY TCP4 " + b"1" * 97, "107"),
    "no word": (b"PROXY \r\n", "four more words"),
    "an unknown family": (b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n", "four more words"),
    "a word too few": (b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n", "four more words"),
    "a word too many": (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n", "four more words"),
    "two blanks": (b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n", "four more words"),
    "a port too high": (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", "port"),
    "a port with a sign": (b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n", "port"),
    "a port with a zero before it": (b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n", "port"),
    "a port of no digits": (b"PROXY TCP4 1.1.1.1 1.1.1.1 x 1\r\n", "port"),
    "an address that is none": (b"PROXY TCP4 1.1.1 1.1.1.1 1 1\r\n", "address"),
    "an address with a zero before it": (b"PROXY TCP4 1.1.1.01 1.1.1.1 1 1\r\n", "address"),
    "an address of the other family": (b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n", "none of TCP6"),
    "an address with a zone": (b"PROXY TCP6 fe80::1%1 ::1 1 1\r\n", "none of TCP6"),
    "bytes that are not ASCII": (b"PROXY TCP4 \xff.1.1.1 1.1.1.1 1 1\r\n", "ASCII"),
    "a bare line feed": (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\nGET / HTTP/1.1\r\n", "port|four more"),
    "another version of 2": (v2(command=0x31), "version 3"),
    "another command": (v2(command=0x22), "command 2"),
    "another family": (v2(family=0x41), "family 4"),
    "another transport": (v2(family=0x13), "transport 3"),
    "addresses that are cut short": (v2(body=b"\x01" * 11), "11 bytes"),
    "half a TLV": (v2(body=b"\x01" * 12 + b"\x01\x00"), "takes 3"),
    "a TLV that is too long": (v2(body=b"\x01" * 12 + b"\x01\x00\x05abcd"), "4 are left"),
    "a header that is too long": (v2(length=MOST_BYTES), str(MOST_BYTES)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_header_is_refused_at_once_and_for_good(name: str) -> None:
    data, words = BAD[name]
    reader = ProxyHeaderReader()
    with pytest.raises(ProxyHeaderError, match=words):
        reader.feed(data)
    with pytest.raises(ProxyHeaderError, match=words):
        reader.feed(V4.encode("v1"))
    assert "failed" in repr(reader)


def test_the_first_wrong_byte_is_enough() -> None:
    for data in (b"P", b"PROX", b"\r\n\r\n", b"\r"):
        assert read(data) is None
    for data in (b"Q", b"PROXX", b"\r\n\r\n\x01", b"\n"):
        with pytest.raises(ProxyHeaderError):
            read(data)


def test_the_reader_says_how_far_it_is() -> None:
    reader = ProxyHeaderReader()
    reader.feed(b"PROXY ")
    assert repr(reader) == "<ProxyHeaderReader reading, 6 bytes>"
    reader.feed(b"UNKNOWN\r\n")
    assert repr(reader) == "<ProxyHeaderReader complete, 15 bytes>"


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=120).map(lambda data: b"PROXY " + data),
        st.binary(max_size=300).map(lambda data: SIGNATURE + data),
        st.builds(v2, st.sampled_from([0x20, 0x21]), st.integers(0, 255), st.binary(max_size=300)),
        st.text("PROXYTCP46UNKW 0123456789.:f\r\n", max_size=120).map(
            lambda text: b"PROXY TCP4 " + text.encode()
        ),
    ),
    st.integers(1, 40),
)
def test_anything_else_never_does_more_than_raise(data: bytes, step: int) -> None:
    whole = error = ""
    try:
        whole = str(read(data))
    except ProxyHeaderError as exc:
        error = str(exc)
        assert error
    reader = ProxyHeaderReader()
    split: ProxyHeader | None = None
    try:
        for at in range(0, max(1, len(data)), step):
            split = reader.feed(data[at : at + step])
    except ProxyHeaderError:
        assert error
    else:
        assert str(split) == whole


def test_a_connection_tells_its_own_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, peer = listener.accept()
            with accepted:
                header = header_of(accepted)
        assert header.source == Endpoint.of(*peer)
        assert header.destination == Endpoint.of(*listener.getsockname())
    one, two = socket.socketpair()
    with one, two:
        assert header_of(one) == ProxyHeader()
