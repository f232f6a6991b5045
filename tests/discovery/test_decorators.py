"""What decorators make of the sets of the source inside, and that they let everything else through."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from lbclient import Backend
from lbclient.core.source import Source, Trouble
from lbclient.discovery import Debounce, Filter, MinimumSize, Static, Subset
from tests.discovery.sources import Scripted, listening, until, urls

A = Backend("http://a:1", zone="a", metadata={"env": "prod", "tier": 1})
B = Backend("http://b:1", zone="b", metadata={"env": "prod"})
C = Backend("http://c:1", zone="a")


def sift(source: Filter | MinimumSize | Subset, backends: list[Backend]) -> tuple[str, ...]:
    return urls(source.sift(tuple(backends)))


# What all have in common


@pytest.mark.parametrize(
    "make",
    [
        lambda source: Filter(source, zone="a"),
        lambda source: MinimumSize(source, 1),
        lambda source: Subset(source, 5),
        lambda source: Debounce(source, 0.01),
    ],
    ids=["filter", "minimum", "subset", "debounce"],
)
class TestEveryDecorator:
    async def test_goes_by_the_name_and_the_rules_of_the_source_inside(self, make: Any) -> None:
        inside = Scripted()
        inside.allow_empty = True
        source: Source = make(inside)
        assert str(source) == "Scripted"
        assert source.allow_empty
        assert source.longest_pause == inside.longest_pause

    async def test_lets_sets_and_trouble_through_and_ends_with_it(self, make: Any) -> None:
        inside = Scripted([A, "http://x:1"], Trouble("down"))
        async with listening(make(inside)) as heard:
            await until(lambda: heard.troubles == ["down"])
            assert heard.last[0] == A.url
            inside.end()
            await until(lambda: heard.over)
        assert inside.closed == 1

    async def test_raises_what_it_raises(self, make: Any) -> None:
        inside = Scripted([A], OSError("cut"))
        with pytest.raises(ExceptionGroup) as caught:
            async with listening(make(inside)):
                await anyio.sleep(10)
        assert caught.group_contains(OSError, match="cut")
        assert inside.closed == 1

    async def test_closes_it_when_it_is_left(self, make: Any) -> None:
        inside = Scripted([A])
        async with listening(make(inside)) as heard:
            await until(lambda: heard.last == (A.url,))
        assert inside.closed == 1

    async def test_wants_a_source(self, make: Any) -> None:
        with pytest.raises(TypeError, match="write a source, such as File"):
            make(["http://a"])


# Filter


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"zone": "a"}, (A.url, C.url)),
        ({"metadata": {"env": "prod"}}, (A.url, B.url)),
        ({"metadata": {"env": "prod", "tier": 1}}, (A.url,)),
        ({"metadata": {"env": None}}, ()),
        ({"where": lambda backend: backend.hostname == "b"}, (B.url,)),
        ({"zone": "a", "metadata": {"env": "prod"}, "where": lambda backend: True}, (A.url,)),
    ],
)
def test_filter_keeps_what_meets_everything(options: dict[str, Any], kept: tuple[str, ...]) -> None:
    assert sift(Filter(Static([A]), **options), [A, B, C]) == kept


def test_a_filter_that_keeps_everything_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="write zone=, metadata= or where="):
        Filter(Static([A]))


# MinimumSize


def test_a_set_that_is_too_small_is_trouble() -> None:
    source = MinimumSize(Static([A]), 2)
    assert sift(source, [A, B]) == (A.url, B.url)
    assert source.sift((A,)) == Trouble("its set has 1 backends, fewer than the minimum size of 2")


def test_those_that_drain_do_not_count() -> None:
    source = MinimumSize(Static([A]), 2)
    assert isinstance(source.sift((A, Backend("http://d", draining=True))), Trouble)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_minimum_and_subset_want_a_whole_number(size: Any) -> None:
    for decorator in (MinimumSize, Subset):
        with pytest.raises((ValueError, TypeError), match="size is"):
            decorator(Static([A]), size)


# Subset

FLEET = [Backend(f"http://10.0.0.{number}:8080") for number in range(100)]


def taken(backends: list[Backend], client: str | int, size: int = 20) -> frozenset[str]:
    return frozenset(sift(Subset(Static([A]), size, client=client), backends))


def test_a_client_takes_the_same_ones_every_time_and_others_take_others() -> None:
    assert taken(FLEET, "x") == taken(FLEET[::-1], "x")
    assert len(taken(FLEET, "x")) == 20
    assert taken(FLEET, "x") != taken(FLEET, "y")
    assert taken(FLEET, 1) != taken(FLEET, 2)


def test_numbered_clients_spread_evenly() -> None:
    counts = Counter(url for client in range(200) for url in taken(FLEET, client))
    shares = [counts[backend.url] / 40 for backend in FLEET]
    print(f"200 clients, 20 of 100 each: {min(shares):.2f} to {max(shares):.2f} of the fair share")
    assert min(shares) >= 0.7
    assert max(shares) <= 1.3


@pytest.mark.parametrize(
    "names", [range(200), [f"client-{number}" for number in range(200)]], ids=["numbers", "names"]
)
def test_a_changed_backend_disturbs_only_the_clients_that_had_it(names: Any) -> None:
    for client in names:
        before = taken(FLEET, client)
        without = taken(FLEET[1:], client)
        if FLEET[0].url in before:
            assert before - without == {FLEET[0].url}
            assert len(without - before) == 1
        else:
            assert without == before
        joined = taken([*FLEET[1:], Backend("http://10.0.1.1:8080")], client)
        assert joined - without <= {"http://10.0.1.1:8080"}
        assert len(without - joined) <= 1


def test_each_priority_gets_its_own_subset() -> None:
    spares = [Backend(f"http://10.1.0.{number}", priority=1) for number in range(30)]
    chosen = taken(FLEET + spares, "x", 5)
    assert len(chosen & {spare.url for spare in spares}) == 5
    assert len(chosen) == 10


def test_those_that_drain_come_on_top_where_they_were_taken_before() -> None:
    before = taken(FLEET, "x")
    leaving = {url for number, url in enumerate(sorted(before)) if number < 3}
    fleet = [Backend(b.url, draining=b.url in leaving or b.url == FLEET[50].url) for b in FLEET]
    after = taken(fleet, "x")
    assert leaving <= after
    assert len(after - leaving - {FLEET[50].url}) == 20
    assert before <= after


def test_a_fleet_smaller_than_the_subset_is_taken_whole() -> None:
    assert len(taken(FLEET[:5], "x")) == 5
    assert len(taken([*FLEET[:5], Backend("http://d", draining=True)], "x")) == 6


def test_a_client_is_the_host_and_the_process_unless_it_says_who_it_is() -> None:
    assert len(sift(Subset(Static([A]), 3), FLEET)) == 3
    for client in (-1, 1.5, True):
        with pytest.raises((ValueError, TypeError), match="client is"):
            Subset(Static([A]), 3, client=client)  # type: ignore[arg-type]


# Debounce


async def test_sets_that_follow_each_other_closely_are_taken_as_one() -> None:
    inside = Scripted([A])
    async with listening(Debounce(inside, 0.3, at_most=30)) as heard:
        await until(lambda: heard.last == (A.url,))
        inside.say([B], [B, C])
        await anyio.sleep(0.02)
        inside.say([C])
        await until(lambda: heard.last == (C.url,))
    assert heard.sets == [(A.url,), (C.url,)]


async def test_sets_that_never_stop_are_passed_on_all_the_same() -> None:
    inside = Scripted([A])
    async with listening(Debounce(inside, 0.2, at_most=0.2)) as heard, anyio.create_task_group() as group:

        async def talk() -> None:
            while True:
                inside.say([A], [B])
                await anyio.sleep(0.01)

        group.start_soon(talk)
        await until(lambda: len(heard.sets) >= 3)
        group.cancel_scope.cancel()


async def test_trouble_does_not_swallow_the_set_before_it() -> None:
    inside = Scripted([A])
    async with listening(Debounce(inside, 5, at_most=30)) as heard:
        await until(lambda: heard.last == (A.url,))
        inside.say([B])
        await anyio.sleep(0.05)
        inside.say(Trouble("down"))
        await until(lambda: heard.troubles == ["down"])
    assert heard.sets == [(A.url,), (B.url,)]
    assert isinstance(heard.everything[-1], Trouble)


@pytest.mark.parametrize("options", [{"quiet": 0}, {"quiet": 2, "at_most": 1}, {"quiet": "1"}])
def test_debounce_checks_its_times(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"quiet is|at_most is"):
        Debounce(Static([A]), **options)


# Static


@pytest.mark.parametrize("wrong", [[], ["nonsense"], "http://a:1", A])
def test_static_wants_a_list(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Static(wrong)
