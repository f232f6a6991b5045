import pytest

import lbclient.algorithms
from lbclient.algorithms import BY_NAME, RingHash, from_name
from lbclient.core.algorithms import picker


def test_every_algorithm_is_known_by_its_own_name() -> None:
    for name, kind in BY_NAME.items():
        assert isinstance(from_name(name), kind)
        assert isinstance(from_name(name), picker.Algorithm)
        assert kind.name == name or (name == "consistent_hash" and kind is RingHash)  # type: ignore[attr-defined]
        assert kind.because  # type: ignore[attr-defined]


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'robin'; write one of: round_robin, .*first") as caught:
        from_name("robin")
    assert all(name in str(caught.value) for name in BY_NAME)


def test_the_public_module_exports_what_the_core_does() -> None:
    from lbclient.core import algorithms

    assert set(lbclient.algorithms.__all__) == set(algorithms.__all__)


def test_algorithms_are_frozen_values() -> None:
    assert from_name("ring_hash") == RingHash()
    assert hash(RingHash()) == hash(RingHash())
    with pytest.raises(AttributeError):
        RingHash().points = 5  # type: ignore[misc]
