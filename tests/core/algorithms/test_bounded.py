import random
from collections import Counter
from typing import Any

import pytest

from lbclient.algorithms import IPHash, Maglev, Rendezvous, RingHash
from lbclient.core.algorithms.bounded import slots
from tests.core.algorithms.backends import end, start, states

HASHING = pytest.mark.parametrize("kind", [IPHash, Maglev, Rendezvous, RingHash])


@HASHING
def test_a_hot_key_does_not_overload_its_backend(kind: Any) -> None:
    backends = states(1, 1, 1, 1)
    picker: Any = kind(bounded_load=1.25).build(backends, random.Random(1))
    for number in range(1, 201):
        start(picker, picker.pick(b"hot"))
        assert max(state.in_flight for state in backends) <= slots(number - 1, 1.25, 0.25)
    assert max(state.in_flight for state in backends) == 63


@HASHING
def test_a_key_stays_where_it_is_while_there_is_room(kind: Any) -> None:
    backends = states(1, 1, 1, 1)
    bounded: Any = kind(bounded_load=2).build(backends, random.Random(1))
    plain = kind().build(backends, random.Random(1))
    for number in range(100):
        key = b"%d" % number
        state = start(bounded, bounded.pick(key))
        assert state is plain.pick(key)
        end(bounded, state)


@HASHING
def test_a_key_that_moves_on_goes_where_it_would_go_without_its_backend(kind: Any) -> None:
    backends = states(1, 1, 1)
    bounded: Any = kind(bounded_load=1.25).build(backends, random.Random(1))
    first = start(bounded, bounded.pick(b"key"))
    assert bounded.pick(b"key") is kind().build(backends, random.Random(1)).pick_other(b"key", {first})


def test_weights_divide_the_room() -> None:
    backends = states(3, 1)
    picker: Any = Rendezvous(bounded_load=1.1).build(backends, random.Random(1))
    for number in range(400):
        start(picker, picker.pick(b"%d" % (number % 3)))
    assert backends[0].in_flight <= 331
    assert backends[1].in_flight <= 111


def test_what_was_in_flight_when_the_picker_was_built_counts() -> None:
    backends = states(1, 1, in_flight=(5, 0))
    picker: Any = RingHash(bounded_load=1.25).build(backends, random.Random(1))
    assert Counter(picker.pick(b"%d" % number) for number in range(50)) == {backends[1]: 50}


def test_the_room_grows_with_what_was_in_flight_when_the_picker_was_built() -> None:
    backends = states(1, 1, in_flight=(5, 3))  # of 8, and the one that comes, each may have 6
    bounded: Any = RingHash(bounded_load=1.25).build(backends, random.Random(1))
    plain = RingHash().build(backends, random.Random(1))
    for number in range(50):
        assert bounded.pick(b"%d" % number) is plain.pick(b"%d" % number)


def test_tickets_on_backends_of_another_set_are_ignored() -> None:
    backends = states(1, 1)
    picker: Any = RingHash(bounded_load=1.25).build(backends, random.Random(1))
    stranger = states(1)[0]
    for _ in range(10):
        start(picker, stranger)
    assert picker._active == 0
    end(picker, stranger)
    assert picker._active == 0


def test_when_those_left_have_no_room_the_calmest_takes_it() -> None:
    backends = states(1, 1, 1, in_flight=(0, 9, 7))
    picker: Any = IPHash(bounded_load=1.25).build(backends, random.Random(1))
    for number in range(20):
        assert picker.pick_other(b"%d" % number, {backends[0]}) is backends[2]


@HASHING
@pytest.mark.parametrize("factor", [1, 0.5, 0, -2, float("inf"), float("nan")])
def test_a_bound_at_or_below_the_fair_share_is_refused(kind: Any, factor: float) -> None:
    with pytest.raises(ValueError, match=r"bounded_load is .*; write a number above 1"):
        kind(bounded_load=factor)


@HASHING
def test_a_key_or_bound_of_the_wrong_type_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="bounded_load is 'yes'"):
        kind(bounded_load="yes")
    with pytest.raises(TypeError, match="key is 7; write"):
        kind(key=7)
    with pytest.raises(ValueError, match="key is 'header:'; write"):
        kind(key="header:")
    kind(key="header:X-User")
    kind(key=lambda facts: facts.host)


def test_when_nobody_left_has_room_the_least_overloaded_is_taken_whatever_the_order() -> None:
    backends = states(1, 1, 1, 1, in_flight=(0, 9, 7, 8))
    for kind in (RingHash, IPHash):
        picker: Any = kind(bounded_load=1.01).build(backends, random.Random(1))
        assert {picker.pick_other(b"%d" % n, {backends[0]}) for n in range(40)} == {backends[2]}
