"""What ties a client to a backend, what unties it, and what a client can not do about it."""

from __future__ import annotations

import copy
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbclient.core.affinity import (
    Affinity,
    AppCookieAffinity,
    CookieAffinity,
    KeyAffinity,
    Sessions,
)
from lbclient.core.facts import Facts, Header

A, B, C = "http://10.0.0.5:8080", "http://10.0.0.6:8080", "http://10.0.0.7:8080"
MEMBERS = {A: 1.0, B: 1.0, C: 1.0}
NOW = 1_800_000_000.0
SECRET, OTHER = "the first secret of all", "another secret, not the first"


def request(*cookies: str | bytes, scheme: str = "http", **options: object) -> Facts:
    """A request with these `Cookie` headers."""
    headers = [(b"Cookie", c if isinstance(c, bytes) else c.encode("latin-1")) for c in cookies]
    return Facts(headers=[(b"Host", b"orders"), *headers], options=options, scheme=scheme)


def cookie_of(header: Header | None) -> str:
    """The `NAME=value` that a client sends back after `Set-Cookie`."""
    assert header is not None
    assert header[0] == b"set-cookie"
    return header[1].decode("ascii").partition(";")[0]


def set_cookie(value: str) -> list[Header]:
    return [(b"Content-Type", b"text/plain"), (b"Set-Cookie", value.encode("latin-1"))]


ALL: list[Affinity] = [CookieAffinity(secret=SECRET), AppCookieAffinity(), KeyAffinity()]


@pytest.mark.parametrize("affinity", ALL, ids=lambda affinity: type(affinity).__name__)
def test_each_is_an_affinity_and_ties_nobody_it_does_not_know(affinity: Affinity) -> None:
    assert isinstance(affinity, Affinity)
    assert affinity.tie(Facts(), MEMBERS, NOW) is None
    assert affinity.tie(request("LBCLIENT=; JSESSIONID="), {}, NOW) is None


def test_what_is_sent_on_and_who_serves_while_draining() -> None:
    assert [affinity.strip for affinity in ALL] == ["LBCLIENT", None, None]
    assert [affinity.sticky_while_draining for affinity in ALL] == [True, True, False]


# CookieAffinity

ours = CookieAffinity(secret=SECRET)


def test_a_client_goes_back_to_who_answered_and_is_told_once() -> None:
    cookie = cookie_of(ours.answer(request(), B, [], NOW))
    for sent in (
        request(cookie),
        request(f"a=1; {cookie}; b=2"),
        request("a=1", cookie),
        request("x", f" {cookie} ;"),
    ):
        assert ours.tie(sent, MEMBERS, NOW) == B
        assert ours.answer(sent, B, [], NOW) is None


def test_a_quoted_value_is_the_same_value() -> None:
    name, _, value = cookie_of(ours.answer(request(), B, [], NOW)).partition("=")
    assert ours.tie(request(f'{name}="{value}"'), MEMBERS, NOW) == B


def test_the_cookie_names_no_address() -> None:
    cookie = cookie_of(ours.answer(request(), A, [], NOW))
    assert re.fullmatch("LBCLIENT=[A-Za-z0-9_-]{44}", cookie)


def test_a_cookie_for_one_that_may_not_serve_is_replaced_and_the_session_moves_once() -> None:
    before = request(cookie_of(ours.answer(request(), A, [], NOW)))
    left = {B: 1.0, C: 1.0}  # A was ejected, removed, is full
    assert ours.tie(before, left, NOW) is None
    after = request(cookie_of(ours.answer(before, B, [], NOW)))
    assert ours.tie(after, left, NOW) == B
    assert ours.answer(after, B, [], NOW) is None
    assert ours.tie(after, MEMBERS, NOW) == B  # and not back to A


def test_one_that_drains_keeps_its_clients() -> None:
    """Those who may serve tied clients are for the pool to say; weight 0 is no reason not to."""
    tied = request(cookie_of(ours.answer(request(), A, [], NOW)))
    assert ours.tie(tied, {A: 0.0, B: 1.0}, NOW) == A


def test_a_cookie_of_another_secret_or_past_its_age_is_replaced() -> None:
    theirs = request(cookie_of(CookieAffinity(secret=OTHER).answer(request(), A, [], NOW)))
    aged = CookieAffinity(secret=SECRET, max_age=60)
    old = request(cookie_of(aged.answer(request(), A, [], NOW - 61)))
    for facts in (theirs, old):
        assert aged.tie(facts, MEMBERS, NOW) is None
        assert aged.tie(request(cookie_of(aged.answer(facts, B, [], NOW))), MEMBERS, NOW) == B


def test_a_cookie_of_an_old_secret_is_followed_and_not_replaced() -> None:
    sent = request(cookie_of(ours.answer(request(), A, [], NOW)))
    rotated = CookieAffinity(secret=[OTHER, SECRET])
    assert rotated.tie(sent, MEMBERS, NOW) == A
    assert rotated.answer(sent, A, [], NOW) is None


def test_without_a_secret_each_affinity_has_its_own() -> None:
    one, two = CookieAffinity(), CookieAffinity()
    sent = request(cookie_of(one.answer(request(), A, [], NOW)))
    assert (one.tie(sent, MEMBERS, NOW), two.tie(sent, MEMBERS, NOW)) == (A, None)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8")))
def test_junk_selects_nobody_and_raises_nothing(junk: bytes) -> None:
    for facts in (request(junk), request(b"LBCLIENT=" + junk), request(b"a=1; LBCLIENT=" + junk + b"; b=2")):
        assert ours.tie(facts, MEMBERS, NOW) is None
        assert ours.tie(request(cookie_of(ours.answer(facts, B, [], NOW))), MEMBERS, NOW) == B


@given(st.integers(0))
def test_eight_kibibytes_of_anything_select_nobody(seed: int) -> None:
    junk = random.Random(seed).randbytes(8192)
    for facts in (
        request(b"LBCLIENT=" + junk),
        request(b"LBCLIENT=" + b"A" * 8192),
        request(b'LBCLIENT="' * 820),
    ):
        assert ours.tie(facts, MEMBERS, NOW) is None
        assert ours.answer(facts, A, [], NOW) is not None


@given(st.integers(0, 43), st.characters(codec="latin-1", exclude_characters=";"))
def test_a_forged_or_truncated_cookie_selects_nobody(place: int, letter: str) -> None:
    name, _, value = cookie_of(ours.answer(request(), A, [], NOW)).partition("=")
    forged = value[:place] + letter + value[place + 1 :]
    assert ours.tie(request(f"{name}={forged}"), MEMBERS, NOW) == (A if forged == value else None)
    assert ours.tie(request(f"{name}={value[:place]}"), MEMBERS, NOW) is None


def test_a_cookie_that_somebody_else_put_first_does_not_hide_ours() -> None:
    cookie = cookie_of(ours.answer(request(), B, [], NOW))
    sent = request(f"LBCLIENT=tossed; {cookie}")
    assert ours.tie(sent, MEMBERS, NOW) == B
    assert ours.answer(sent, B, [], NOW) is None
    flood = request("LBCLIENT=x; " * 8 + cookie)
    assert ours.tie(flood, MEMBERS, NOW) is None


@pytest.mark.parametrize(
    ("options", "scheme", "attributes"),
    [
        ({}, "http", "; Path=/; HttpOnly; SameSite=Lax"),
        ({}, "https", "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": False}, "https", "; Path=/; HttpOnly; SameSite=Lax"),
        ({"secure": True}, "http", "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"samesite": "strict", "path": "/shop"}, "http", "; Path=/shop; HttpOnly; SameSite=Strict"),
        ({"samesite": "none"}, "https", "; Path=/; HttpOnly; SameSite=None; Secure"),
        ({"max_age": 3600}, "http", "; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"),
        (
            {"max_age": 0.5},
            "https",
            "; Path=/; HttpOnly; SameSite=Lax; Max-Age=1; Secure",
        ),  # 0 would delete it
    ],
)
def test_the_attributes_of_the_cookie(options: dict[str, object], scheme: str, attributes: str) -> None:
    affinity = CookieAffinity(name="lb", secret=SECRET, **options)  # type: ignore[arg-type]
    answer = affinity.answer(request(scheme=scheme), A, [], NOW)
    assert answer is not None
    assert answer[1].decode() == cookie_of(answer) + attributes
    assert answer[1].startswith(b"lb=")


@pytest.mark.parametrize(
    "url", ["http://orders/cart", "https://orders.example/cart", "http://10.1.1.1:8080/cart"]
)
def test_the_jar_of_httpx_keeps_it_and_brings_it_back(url: str) -> None:
    affinity = CookieAffinity(secret=SECRET, max_age=60)
    sent = httpx.Request("GET", url)
    header = affinity.answer(request(scheme=sent.url.scheme), B, [], NOW)
    assert header is not None
    jar = httpx.Cookies()
    jar.extract_cookies(httpx.Response(200, headers=[header], request=sent))
    again = httpx.Request("GET", url)
    jar.set_cookie_header(again)
    assert affinity.tie(Facts(headers=again.headers.raw), MEMBERS, NOW) == B


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "name is ''; write a cookie name"),
        ({"name": "a b"}, "write a cookie name"),
        ({"name": "a;b"}, "write a cookie name"),
        ({"name": "größe"}, "write a cookie name"),
        ({"max_age": 0}, "max_age is 0; write a number above 0"),
        ({"max_age": -1}, "above 0"),
        ({"max_age": float("nan")}, "above 0"),
        ({"path": "shop"}, "path is 'shop'; write a path that starts with '/'"),
        ({"path": "/a; Domain=x"}, "write a path"),
        ({"path": "/a\r\nb"}, "write a path"),
        ({"samesite": "Lax"}, "samesite is 'Lax'; write 'strict', 'lax' or 'none'"),
        ({"samesite": "none", "secure": False}, "samesite='none' needs secure cookies"),
        ({"secret": "short"}, "write at least 16 random bytes"),
    ],
)
def test_what_makes_no_cookie_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        CookieAffinity(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"name": b"lb"}, {"path": None}, {"secure": "yes"}, {"max_age": "60"}, {"secret": 7}]
)
def test_an_argument_of_another_type_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="; write"):
        CookieAffinity(**options)  # type: ignore[arg-type]


def test_configuration_is_compared_by_value_and_does_not_show_its_secret() -> None:
    assert CookieAffinity(secret=SECRET) == ours
    assert hash(CookieAffinity(secret=SECRET)) == hash(ours)
    assert CookieAffinity(secret=OTHER) != ours
    assert SECRET not in repr(ours)
    sent = request(cookie_of(copy.deepcopy(ours).answer(request(), A, [], NOW)))
    assert ours.tie(sent, MEMBERS, NOW) == A


# AppCookieAffinity


def test_a_session_is_on_the_backend_that_set_its_cookie() -> None:
    app = AppCookieAffinity()
    assert app.answer(request(), B, set_cookie("JSESSIONID=s1; Path=/; HttpOnly"), NOW) is None  # type: ignore[func-returns-value]
    assert app.tie(request("JSESSIONID=s1"), MEMBERS, NOW) == B
    assert app.tie(request('a=1; JSESSIONID="s1"'), MEMBERS, NOW) == B
    assert app.tie(request("JSESSIONID=s2"), MEMBERS, NOW) is None
    assert app.tie(request("jsessionid=s1; OTHER=s1"), MEMBERS, NOW) is None


def test_an_unknown_session_is_on_whoever_answers_it() -> None:
    app = AppCookieAffinity()
    known_elsewhere = request("JSESSIONID=s1")
    assert app.tie(known_elsewhere, MEMBERS, NOW) is None
    app.answer(known_elsewhere, C, [], NOW)
    assert app.tie(known_elsewhere, MEMBERS, NOW) == C


def test_a_session_whose_backend_may_not_serve_moves_once() -> None:
    app = AppCookieAffinity()
    facts = request("JSESSIONID=s1")
    app.answer(facts, A, [], NOW)
    assert app.tie(facts, {B: 1.0, C: 1.0}, NOW) is None
    app.answer(facts, B, [], NOW)
    assert app.tie(facts, MEMBERS, NOW) == B


def test_a_renewed_session_is_learned_and_the_old_value_stays_good() -> None:
    app = AppCookieAffinity()
    app.answer(request(), A, set_cookie("JSESSIONID=s1"), NOW)
    app.answer(request("JSESSIONID=s1"), A, set_cookie("JSESSIONID=s2"), NOW)
    for value in ("s1", "s2"):  # requests with the old one may be on their way
        assert app.tie(request(f"JSESSIONID={value}"), MEMBERS, NOW) == A


@pytest.mark.parametrize(
    "deletion",
    [
        "JSESSIONID=; Max-Age=0",
        "JSESSIONID=s1; max-age = -1; Path=/",
        "JSESSIONID=deleted; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "JSESSIONID=gone; expires=Thu, 01-Jan-1970 00:00:10 GMT; Max-Age=soon",
        "JSESSIONID=x; Expires=Thu, 01 Jan 1970 00:00:00 -0000",
        "JSESSIONID=x; Max-Age=60; Max-Age=0",
        'JSESSIONID=""',
        "JSESSIONID=",
    ],
)
def test_a_deleted_session_is_forgotten(deletion: str) -> None:
    app = AppCookieAffinity()
    app.answer(request(), A, set_cookie("JSESSIONID=s1"), NOW)
    app.answer(request("JSESSIONID=s1"), A, set_cookie(deletion), NOW)
    assert app.tie(request("JSESSIONID=s1"), MEMBERS, NOW) is None
    assert repr(app._sessions) == "<Sessions, 0 of at most 100000>"


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "; Max-Age=60",
        "; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "; Expires=Thu, 01 Jan 2099 00:00:00 GMT",
        "; Expires=never",
        "; Expires=Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        "; Expires",
        "; Max-Age=",
        "; Max-Age=" + "9" * 5000,
        "; HttpOnly; Secure; Path=/",
    ],
)
def test_a_session_that_lives_is_learned(attributes: str) -> None:
    app = AppCookieAffinity()
    app.answer(request(), A, set_cookie("JSESSIONID=s1" + attributes), NOW)
    assert app.tie(request("JSESSIONID=s1"), MEMBERS, NOW) == A


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process cannot be set here")
def test_a_date_is_utc_whatever_the_time_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    app = AppCookieAffinity()
    monkeypatch.setenv("TZ", "EST+5")
    time.tzset()
    try:
        app.answer(request(), A, set_cookie("JSESSIONID=s1; Expires=Fri, 15 Jan 2027 07:59:59 -0000"), NOW)
        app.answer(request(), A, set_cookie("JSESSIONID=s2; Expires=Fri, 15 Jan 2027 08:00:01 -0000"), NOW)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert app.tie(request("JSESSIONID=s1"), MEMBERS, NOW) is None
    assert app.tie(request("JSESSIONID=s2"), MEMBERS, NOW) == A


def test_deleting_one_and_setting_another_is_a_new_session() -> None:
    app = AppCookieAffinity()
    app.answer(request(), A, set_cookie("JSESSIONID=s1"), NOW)
    both = [
        *set_cookie("JSESSIONID=; Path=/old; Max-Age=0"),
        *set_cookie("JSESSIONID=s2"),
        *set_cookie("b=JSESSIONID"),
    ]
    app.answer(request("JSESSIONID=s1"), A, both, NOW)
    assert app.tie(request("JSESSIONID=s1"), MEMBERS, NOW) is None
    assert app.tie(request("JSESSIONID=s2"), MEMBERS, NOW) == A


def test_of_two_sessions_in_one_request_the_first_counts_and_the_other_stays() -> None:
    app = AppCookieAffinity()
    app.answer(request(), A, set_cookie("JSESSIONID=inner; Path=/shop"), NOW)
    app.answer(request(), B, set_cookie("JSESSIONID=outer; Path=/"), NOW)
    facts = request("JSESSIONID=inner; JSESSIONID=outer")
    assert app.tie(facts, MEMBERS, NOW) == A
    app.answer(facts, A, [], NOW)
    assert app.tie(request("JSESSIONID=outer"), MEMBERS, NOW) == B


def test_a_session_is_forgotten_some_time_after_its_last_use() -> None:
    app = AppCookieAffinity(ttl=60)
    facts = request("JSESSIONID=s1")
    app.answer(facts, A, [], NOW)
    assert app.tie(facts, MEMBERS, NOW + 60) == A  # a use
    assert app.tie(facts, MEMBERS, NOW + 120) == A
    assert app.tie(facts, MEMBERS, NOW + 180.1) is None
    assert app.tie(facts, MEMBERS, NOW) is None  # not even when the clock is set back


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_whatever_clients_and_applications_send_raises_nothing(sent: bytes, answered: bytes) -> None:
    app = AppCookieAffinity(size=3)
    facts = request(b"JSESSIONID=" + sent, sent)
    for header in (answered, b"JSESSIONID=" + answered, b"JSESSIONID=s; Expires=" + answered):
        app.answer(facts, A, [(b"set-cookie", header)], NOW)
        assert app.tie(facts, MEMBERS, NOW) in (A, None)


@given(st.text("0123456789 -:,+JanThuGMTam", max_size=40))
def test_any_date_is_read_or_not_but_raises_nothing(date: str) -> None:
    AppCookieAffinity().answer(request(), A, set_cookie(f"JSESSIONID=s; Expires={date}"), NOW)


def test_two_configurations_that_are_equal_share_no_sessions() -> None:
    one, two = AppCookieAffinity(), AppCookieAffinity()
    assert one == two
    one.answer(request("JSESSIONID=s1"), A, [], NOW)
    assert two.tie(request("JSESSIONID=s1"), MEMBERS, NOW) is None


@pytest.mark.parametrize("options", [{"name": "a=b"}, {"ttl": 0}, {"size": 0}])
def test_what_remembers_nothing_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="; write"):
        AppCookieAffinity(**options)  # type: ignore[arg-type]


# Sessions


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("rlf"), st.sampled_from("abcdefgh"), st.integers(0, 4))),
)
def test_the_sessions_used_last_are_remembered_and_no_more(
    size: int, steps: list[tuple[str, str, int]]
) -> None:
    sessions, model, now = Sessions(10, size), dict[str, tuple[str, float]](), NOW
    for step, session, pause in steps:
        now += pause
        model = {key: kept for key, kept in model.items() if now - kept[1] <= 10}
        if step == "l":
            model.pop(session, None)
            model[session] = (f"http://{now}", now)
            model = dict(list(model.items())[-size:])
            sessions.learn(session, f"http://{now}", now)
        elif step == "f":
            model.pop(session, None)
            sessions.forget(session)
        else:
            url = model.pop(session, (None, 0.0))[0]
            if url is not None:
                model[session] = (url, now)
            assert sessions.recall(session, now) == url
        assert len(model) <= len(sessions._by_use) <= size
    assert all(sessions.recall(session, now) == url for session, (url, _) in list(model.items()))


def test_idle_sessions_give_their_memory_back() -> None:
    sessions = Sessions(ttl=60, size=1000)
    for number in range(500):
        sessions.learn(f"old {number}", A, NOW)
    sessions.learn("new", A, NOW + 61)
    assert repr(sessions) == "<Sessions, 1 of at most 1000>"


def test_threads_share_the_memory() -> None:
    sessions = Sessions(60, 50)
    barrier = threading.Barrier(4)

    def use(seed: int) -> None:
        rng = random.Random(seed)
        barrier.wait()
        for _ in range(2000):
            session = str(rng.randrange(80))
            sessions.learn(session, A, NOW)
            assert sessions.recall(session, NOW) in (A, None)
            if rng.random() < 0.3:
                sessions.forget(session)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sessions._by_use) <= 50


# KeyAffinity

CLIENTS = [f"10.1.{i >> 8}.{i & 255}" for i in range(3000)]


def places(affinity: KeyAffinity, members: Mapping[str, float]) -> dict[str, str | None]:
    return {client: affinity.tie(request(client_ip=client), members, NOW) for client in CLIENTS}


def test_a_key_stays_and_only_the_keys_of_one_that_leaves_move() -> None:
    by_ip = KeyAffinity()
    before, after = places(by_ip, MEMBERS), places(by_ip, {A: 1.0, C: 1.0})
    assert before == places(KeyAffinity(), dict(reversed(MEMBERS.items())))  # in any process, in any order
    assert {after[client] for client in CLIENTS if before[client] == B} == {A, C}
    assert all(after[client] == before[client] for client in CLIENTS if before[client] != B)
    assert places(by_ip, MEMBERS) == before  # and they return with it
    assert all(900 < count < 1100 for count in Counter(before.values()).values())


def test_keys_are_spread_by_weight() -> None:
    shares = Counter(places(KeyAffinity(), {A: 3, B: 1}).values())
    assert 2100 < shares[A] < 2400


def test_one_that_takes_no_new_clients_has_no_keys() -> None:
    before, after = places(KeyAffinity(), MEMBERS), places(KeyAffinity(), {A: 0.0, B: 1.0, C: 1.0})
    assert set(after.values()) == {B, C}
    assert all(after[client] == before[client] for client in CLIENTS if before[client] != A)
    assert set(places(KeyAffinity(), {A: 0.0}).values()) == {None}


def test_without_the_key_nobody_is_tied_and_there_is_never_a_cookie() -> None:
    by_user = KeyAffinity("header:x-user")
    assert by_user.tie(request(client_ip="10.1.2.3"), MEMBERS, NOW) is None
    tied = Facts(headers=[(b"X-User", b"7")])
    assert by_user.tie(tied, MEMBERS, NOW) in MEMBERS
    assert by_user.answer(tied, A, [], NOW) is None  # type: ignore[func-returns-value]


def test_a_key_may_be_a_function_of_the_request() -> None:
    by_method = KeyAffinity(lambda facts: facts.method)
    assert by_method.tie(Facts("GET"), MEMBERS, NOW) == by_method.tie(Facts("GET", "other"), MEMBERS, NOW)


@pytest.mark.parametrize(("key", "error"), [("ip", ValueError), (7, TypeError)])
def test_a_key_of_another_form_is_refused(key: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="write 'client_ip'"):
        KeyAffinity(key)
