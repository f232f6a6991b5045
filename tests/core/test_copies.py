"""Copies: configuration can be pickled, copied and dumped; what lives in one process says so."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from lbclient import (
    AppCookieAffinity,
    AsyncBalancedTransport,
    Backend,
    BalancedTransport,
    Connect,
    CookieAffinity,
    Guard,
    Hedge,
    HttpProbe,
    KeyAffinity,
    PassiveHealth,
    Pool,
    RetryBudget,
    Route,
    Router,
    Split,
    TcpProbe,
)
from lbclient.algorithms import Adaptive, RingHash
from lbclient.core.facts import Facts
from lbclient.core.frozen import FrozenMapping

CONFIGURATION = [
    Backend("http://a/v1", weight=0.5, host="api.example:81", metadata={"rack": {"row": 7}}),
    HttpProbe("/health", headers={"X-Probe": "1"}, expect={200, 204}),
    HttpProbe("/health", headers=[("X-Probe", "1")]),
    TcpProbe(port=81),
    PassiveHealth(failure_statuses={500}),
    RetryBudget(),
    Hedge(),
    CookieAffinity(secret="s" * 32),
    AppCookieAffinity("SESSION"),
    KeyAffinity("header:X-Tenant"),
    Guard(),
    Connect(socket_options=((1, 9, 1),)),
    RingHash(key="path"),
    Adaptive(),
]

WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("thing", CONFIGURATION, ids=lambda thing: type(thing).__name__)
def test_a_copy_of_configuration_is_equal_to_it(thing: object, way: str) -> None:
    assert WAYS[way](thing) == thing


@pytest.mark.parametrize("thing", CONFIGURATION, ids=lambda thing: type(thing).__name__)
def test_configuration_can_be_dumped(thing: Any) -> None:
    assert dataclasses.asdict(thing)


def test_a_pools_status_is_ready_for_json() -> None:
    status = dataclasses.asdict(Pool(["http://a"]).status())
    assert json.loads(json.dumps(status))["backends"][0]["url"] == "http://a"


def test_a_copied_affinity_ties_as_the_first_does() -> None:
    facts = Facts(headers=[(b"X-Tenant", b"7")])
    members = {f"http://{name}": 1.0 for name in "abcdef"}
    first = KeyAffinity("header:X-Tenant")
    assert pickle.loads(pickle.dumps(first)).tie(facts, members, 0.0) == first.tie(facts, members, 0.0)


def test_sessions_that_were_learned_stay_where_they_are() -> None:
    facts = Facts(headers=[(b"Cookie", b"SESSION=1")])
    first = AppCookieAffinity("SESSION")
    first.answer(facts, "http://a", [], 0.0)
    assert first.tie(facts, {"http://a": 1.0}, 0.0) == "http://a"
    assert copy.deepcopy(first).tie(facts, {"http://a": 1.0}, 0.0) is None


def test_a_frozen_mapping_is_a_mapping_that_stays_as_it_is() -> None:
    items = {"a": 1}
    frozen = FrozenMapping(items)
    items["b"] = 2
    assert (dict(frozen), len(frozen), frozen["a"], repr(frozen)) == ({"a": 1}, 1, 1, "{'a': 1}")
    assert frozen == {"a": 1}
    assert frozen == {"a": 1}
    with pytest.raises(TypeError):
        frozen["a"] = 3  # type: ignore[index]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (Pool(["http://a"], name="orders"), "pool 'orders' has locks and live numbers"),
        (Split({Pool(["http://a"]): 1}), "a split has turns to keep"),
        (AsyncBalancedTransport(["http://a"]), "a transport has connections"),
        (BalancedTransport(["http://a"]), "a transport has connections"),
    ],
    ids=["pool", "split", "async", "sync"],
)
def test_what_lives_in_one_process_refuses_to_be_copied(thing: object, message: str, way: str) -> None:
    with pytest.raises(TypeError, match=f"{message}.*; make one where it is used"):
        WAYS[way](thing)


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
@pytest.mark.parametrize(
    "holder", [lambda pool: Router([], default=pool), lambda pool: Route(to=pool)], ids=["router", "route"]
)
def test_so_does_what_holds_a_pool(holder: Callable[[Pool], object], way: str) -> None:
    with pytest.raises(TypeError, match="pool 'default' has locks"):
        WAYS[way](holder(Pool(["http://a"])))
