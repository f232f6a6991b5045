import random
import sys
from collections import Counter
from typing import Any

import pytest

from lbclient.algorithms import IPHash, RingHash
from lbclient.core.algorithms.points import Ring, Rings
from lbclient.core.algorithms.ring import ketama_ring, point_counts, stable_ring
from lbclient.core.backend import Backend, BackendState
from lbclient.core.hashing import crc32
from tests.core.algorithms.backends import states


def test_a_weight_is_as_many_points() -> None:
    assert point_counts([1, 2, 0.5], 160) == [160, 320, 80]
    weighted = ketama_ring(("a:1", "b:1"), (1.0, 3.0))
    assert Counter(owner for _, owner in weighted.points()) == {0: 160, 1: 480}


def test_weights_below_one_are_shares_of_each_other() -> None:
    assert point_counts([0.001, 0.002], 160) == point_counts([0.512, 1.024], 160)


def test_a_huge_ring_is_halved_until_it_fits_in_memory() -> None:
    for weights in ([1000.0] * 100, [1.0] * 30_000):
        counts = point_counts(weights, 160)
        assert 2**20 <= sum(counts) <= 2**21
        assert len(set(counts)) == 1
    assert point_counts([1] * 10_000, 160) == [160] * 10_000, (
        "ten thousand backends are NGINX's, point by point"
    )


@pytest.mark.parametrize("weights", [(1e12, 1.0), (1e12, 1e12, 1.0), (1e6, 1.0), (1.0, 1e-12), (1e100, 1e88)])
@pytest.mark.parametrize("layout", ["ketama", "envoy", "ip_hash"])
def test_no_weights_however_far_apart_make_a_ring_that_takes_seconds(
    weights: tuple[float, ...], layout: Any
) -> None:
    if layout == "envoy":
        pytest.importorskip("xxhash")
    algorithm = IPHash() if layout == "ip_hash" else RingHash(layout=layout)
    table = algorithm.build(states(*weights), random.Random(1))._table
    assert isinstance(table, Ring)
    assert len(table) <= 2**18 * weights.count(max(weights)) + 1


def test_two_of_very_different_weights_have_their_shares() -> None:
    heavy, light = point_counts([1e6, 1000], 160)
    assert heavy / light == pytest.approx(1000, rel=0.01)
    assert 2**17 < heavy <= 2**18
    assert point_counts([1638, 1], 160) == [1638 * 160, 160], "as NGINX has them"


@pytest.mark.parametrize("unit", [5e-324, 1e-310, 1e-300, 2.0**60, 1e30, 8e307])
def test_points_are_of_relative_weights_whatever_their_size(unit: float) -> None:
    one, two = point_counts([unit, 2 * unit], 160)
    assert two == pytest.approx(2 * one, abs=1)
    assert 80 <= one <= 2**17


def test_a_slow_start_moves_only_the_arcs_of_the_one_that_starts() -> None:
    names = tuple(f"10.0.0.{number}:80" for number in range(5))
    before = stable_ring(names, (1.0, 1.0, 1.0, 1.0, 0.1))
    after = stable_ring(names, (1.0, 1.0, 1.0, 1.0, 0.9))
    rng = random.Random(1)
    for hashed in (rng.getrandbits(64) for _ in range(5000)):
        if before.find(hashed) != after.find(hashed):
            assert after.find(hashed) == 4


def test_a_ring_is_computed_once_for_a_set_that_comes_back() -> None:
    backends = states(1, 1, 1)
    pickers = [RingHash().build(some, random.Random(1)) for some in (backends, backends[1:], backends)]
    assert pickers[0]._table is pickers[2]._table
    assert pickers[0]._table is not pickers[1]._table


def test_a_pick_computes_no_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    picker = RingHash().build(states(1, 1, 1), random.Random(1))
    monkeypatch.setattr(Rings, "ring", None)
    for number in range(50):
        picker.pick(b"%d" % number)
        picker.pick_other(b"%d" % number, ())


def hashes(name: str) -> list[int]:
    return [hashed for hashed, _ in ketama_ring((name,), (1.0,)).points()]


def test_a_unix_socket_is_hashed_by_its_path() -> None:
    one = hashes("/run/app.sock")
    assert crc32(b"\0\0\0\0", crc32(b"/run/app.sock\0")) in one
    backend = BackendState(Backend("http://app", uds="/run/app:1.sock"), lambda: 0.0)
    assert RingHash().build([backend], random.Random(1)).pick(b"key") is backend


def test_ipv6_and_names_without_a_port_are_hashed_whole() -> None:
    assert crc32(b"\0\0\0\0", crc32(b"[::1]\08080")) in hashes("[::1]:8080")
    assert crc32(b"\0\0\0\0", crc32(b"localhost\0")) in hashes("localhost")


def test_the_envoy_layout_is_picked_from() -> None:
    pytest.importorskip("xxhash")
    backends = states(1, 2)
    picker = RingHash(layout="envoy", min_ring_size=3000).build(backends, random.Random(1))
    picked = Counter(picker.pick(b"%d" % number) for number in range(6000))
    assert picked[backends[1]] == pytest.approx(4000, rel=0.1)


def test_a_backend_too_light_for_a_point_is_still_there_when_all_others_are_avoided() -> None:
    pytest.importorskip("xxhash")
    backends = states(1000, 1, 1, 1)
    picker = RingHash(layout="envoy", min_ring_size=10, max_ring_size=10).build(backends, random.Random(1))
    for state in backends:
        assert picker.pick_other(b"key", set(backends) - {state}) is state


def test_without_the_extra_the_envoy_layout_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(
        ImportError, match=r"layout='envoy' hashes with xxHash64.*pip install lbclient\[xxhash\]"
    ):
        RingHash(layout="envoy")
    RingHash()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"points": 0}, "points is 0; write a whole number from 1 to 65536"),
        ({"points": 70_000}, "points is 70000"),
        ({"layout": "nginx"}, "layout is 'nginx'; allowed are 'ketama'"),
        ({"min_ring_size": 0}, "min_ring_size is 0"),
        (
            {"min_ring_size": 2000, "max_ring_size": 1000},
            "max_ring_size is 1000; write a whole number from 2000",
        ),
        ({"key": "ip"}, "key is 'ip'; write 'client_ip'"),
        ({"bounded_load": 1.0}, "bounded_load is 1.0; write a number above 1"),
    ],
)
def test_arguments_out_of_their_range_are_refused_in_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        RingHash(**arguments)


def test_an_address_hash_is_evener_than_a_ring_hash() -> None:
    backends = states(*[1] * 10)

    def unevenness(algorithm: Any) -> float:
        picker = algorithm.build(backends, random.Random(1))
        picked = Counter(picker.pick(b"10.1.%d.%d" % divmod(number, 256)) for number in range(40_000))
        return max(picked.values()) / 4000

    assert unevenness(IPHash()) < 1.12
