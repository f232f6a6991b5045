"""A backend as it is declared: what is accepted, what is refused, what it is called."""

from __future__ import annotations

import dataclasses

import pytest

from lbclient import Backend
from lbclient.core.backend import BackendState
from lbclient.testing import FakeClock


@pytest.mark.parametrize(
    ("url", "known_as", "name", "authority", "path"),
    [
        ("http://10.0.0.5:8080", "http://10.0.0.5:8080", "10.0.0.5:8080", "10.0.0.5:8080", ""),
        ("http://10.0.0.5:8080/", "http://10.0.0.5:8080", "10.0.0.5:8080", "10.0.0.5:8080", ""),
        ("http://orders", "http://orders", "orders:80", "orders", ""),
        ("https://orders", "https://orders", "orders:443", "orders", ""),
        ("https://orders:8443/v2/", "https://orders:8443/v2", "orders:8443", "orders:8443", "/v2"),
        ("http://Orders:80/a/b", "http://Orders:80/a/b", "orders:80", "orders", "/a/b"),
        ("http://[::1]:8080", "http://[::1]:8080", "[::1]:8080", "[::1]:8080", ""),
        ("http://[::1]", "http://[::1]", "[::1]:80", "[::1]", ""),
        ("http://bücher:81", "http://bücher:81", "xn--bcher-kva:81", "xn--bcher-kva:81", ""),
        ("http://[fe80::1%25eth0]:81", "http://[fe80::1%25eth0]:81", "[fe80::1%eth0]:81", "[fe80::1]:81", ""),
        ("http://a_b.c-d.:81", "http://a_b.c-d.:81", "a_b.c-d.:81", "a_b.c-d.:81", ""),
        ("tcp://10.0.0.5:6379", "tcp://10.0.0.5:6379", "10.0.0.5:6379", "10.0.0.5:6379", ""),
        ("udp://10.0.0.5:53", "udp://10.0.0.5:53", "10.0.0.5:53", "10.0.0.5:53", ""),
    ],
)
def test_a_url_is_known_as_it_was_written(
    url: str, known_as: str, name: str, authority: str, path: str
) -> None:
    backend = Backend(url)
    assert (backend.url, backend.name, backend.authority, backend.path) == (known_as, name, authority, path)


def test_a_unix_socket_is_named_by_its_path() -> None:
    backend = Backend("http://localhost", uds="/run/orders.sock")
    assert backend.name == "/run/orders.sock"
    assert backend.authority == "localhost"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("10.0.0.5:8080", "has no scheme; write it like 'http://10.0.0.5:8080'"),
        ("", "has no scheme"),
        ("ftp://10.0.0.5", "has the scheme 'ftp'; allowed are http, https, tcp, udp"),
        ("http://", "has no host"),
        ("http://:80", "has no host"),
        ("http://a:port", "is not a URL"),
        ("http://a:99999", "is not a URL"),
        ("http://a:0", "has port 0; allowed are 1 to 65535"),
        ("http://[::1", "is not a URL"),
        ("http://::1:8080", "is not a URL; an IPv6 address stands in brackets, like"),
        ("http://user:secret@a", "no user, query or fragment"),
        ("http://a?b=c", "no user, query or fragment"),
        ("http://a#b", "no user, query or fragment"),
        ("http://a/b c", "white space or control characters"),
        ("http://a/é", "the path of backend 'http://a/é' is not percent-encoded"),
        ("http://" + "a" * 64, "cannot be looked up"),
        ("http://é..example", "cannot be looked up"),
        ("http://a..b", "cannot be looked up"),
        ("http://a,b", "has other characters than letters, digits"),
        ("http://*.example", "has other characters than letters, digits"),
        ("http://a\\b", "has other characters than letters, digits"),
        ("tcp://a", "needs a port; write it like 'tcp://10.0.0.5:6379'"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_with_what_to_write(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backend(url)


@pytest.mark.parametrize("weight", [-1, -0.5, float("nan"), float("inf"), 10**400])
def test_a_weight_is_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match="write a finite number >= 0"):
        Backend("http://a", weight=weight)


@pytest.mark.parametrize("weight", ["3", None, True])
def test_a_weight_is_a_number(weight: object) -> None:
    with pytest.raises(TypeError, match="write a finite number >= 0"):
        Backend("http://a", weight=weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("priority", [-1, 1.5, "high", True])
def test_a_priority_is_a_whole_number_from_zero(priority: object) -> None:
    with pytest.raises(ValueError, match="write an integer >= 0"):
        Backend("http://a", priority=priority)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "http://a", "a/b", "é", "[::1", "a:b"])
def test_a_host_header_is_a_host(host: str) -> None:
    with pytest.raises(ValueError, match=r"write a host, with a port if needed, like 'example.com:8080'"):
        Backend("http://a", host=host)


@pytest.mark.parametrize("host", ["example.com", "example.com:8080", "[::1]:8080", "10.0.0.5", "a_b"])
def test_a_host_may_have_a_port(host: str) -> None:
    assert Backend("http://a", host=host).host == host


@pytest.mark.parametrize("option", ["host", "uds", "zone"])
def test_names_are_strings(option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} of http://a is 3; write a string, or None"):
        Backend("http://a", **{option: 3})  # type: ignore[arg-type]


def test_a_unix_socket_has_a_path() -> None:
    with pytest.raises(ValueError, match="uds of http://a is ''; write the path of a Unix socket"):
        Backend("http://a", uds="")


def test_metadata_is_a_mapping() -> None:
    assert Backend("http://a", metadata=None).metadata == {}  # type: ignore[arg-type]  # as in the list of arguments
    with pytest.raises(TypeError, match="metadata of http://a is 3; write a mapping"):
        Backend("http://a", metadata=3)  # type: ignore[arg-type]


def test_a_url_is_a_string() -> None:
    with pytest.raises(TypeError, match="a backend's URL is a string"):
        Backend(8080)  # type: ignore[arg-type]


def test_a_backend_cannot_be_changed() -> None:
    metadata = {"rack": 7}
    backend = Backend("http://a", weight=0.5, zone="eu", metadata=metadata)
    metadata["rack"] = 8
    assert backend.metadata == {"rack": 7}
    with pytest.raises(dataclasses.FrozenInstanceError):
        backend.weight = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        backend.metadata["rack"] = 9  # type: ignore[index]
    assert dataclasses.replace(backend, weight=2).metadata == {"rack": 7}


def test_equal_declarations_are_equal() -> None:
    one = Backend("http://a/", metadata={"x": []})
    other = Backend("http://a", metadata={"x": []})
    assert one == other
    assert hash(one) == hash(other)
    assert one != Backend("http://a", weight=2)


def test_the_state_tells_itself_in_words() -> None:
    state = BackendState(Backend("http://a"), FakeClock())
    assert repr(state) == "<BackendState http://a available, 0 in flight>"
