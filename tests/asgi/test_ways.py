"""Who is heard when several things happen at once: a client that leaves, a backend that fails, a bug."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import httpx
import pytest

from lbclient import AsyncBalancedTransport
from lbclient.asgi import ReverseProxy
from lbclient.asgi.types import Message, Scope
from lbclient.asgi.ways import Ways
from tests.asgi.test_protocol import Server, scope


async def fails(exc: Exception) -> None:
    raise exc


async def test_a_failure_beside_ends_the_main_way_and_is_no_group() -> None:
    failed = await Ways().run(anyio.sleep_forever, lambda: fails(KeyError("beside")))
    assert repr(failed) == "KeyError('beside')"


async def test_the_first_failure_counts() -> None:
    async def main() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("a consequence")

    assert isinstance(await Ways().run(main, lambda: fails(KeyError("first"))), KeyError)


async def test_the_end_of_the_main_way_ends_what_was_begun_later_too() -> None:
    ways = Ways()
    ended: list[str] = []

    async def beside() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("later")

    async def main() -> None:
        ways.begin(beside)
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        assert await ways.run(main) is None
    assert ended == ["later"]


async def test_a_cancellation_from_outside_passes() -> None:
    with anyio.move_on_after(0) as scope:
        await Ways().run(anyio.sleep_forever, anyio.sleep_forever)
    assert scope.cancelled_caught


class Leaving(Server):
    """A client that leaves as soon as the backend has been asked."""

    def __init__(self, first: Message, last: Message) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self._messages = [(False, first), (True, last)]

    async def receive(self) -> Message:
        late, message = self._messages.pop(0)
        if late:
            await self.asked.wait()
        return message


class Silent(AsyncBalancedTransport):
    """Nobody answers; cancelled, it fails on its way out."""

    def __init__(self, asked: anyio.Event, exc: Exception) -> None:
        super().__init__(["http://a"])
        self._asked = asked
        self._exc = exc

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise self._exc


def without_a_body() -> tuple[Leaving, Scope]:
    return Leaving({"type": "http.request"}, {"type": "http.disconnect"}), scope()


def with_a_body() -> tuple[Leaving, Scope]:
    request = {"type": "http.request", "body": b"abc"}
    headers = [(b"host", b"h"), (b"content-length", b"3")]
    return Leaving(request, {"type": "http.disconnect"}), scope("POST", headers=headers)


def websocket() -> tuple[Leaving, Scope]:
    client = Leaving({"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006})
    return client, scope(type="websocket")


@pytest.mark.parametrize("exchange", [without_a_body, with_a_body, websocket])
async def test_the_failure_of_a_client_that_has_left_is_nobodys_and_a_bug_is_a_bug(
    exchange: Callable[[], tuple[Leaving, Scope]],
) -> None:
    client, asked = exchange()
    with anyio.fail_after(10):
        await ReverseProxy(Silent(client.asked, httpx.ReadError("broken")))(
            asked, client.receive, client.send
        )
    assert client.sent == []
    client, asked = exchange()
    with anyio.fail_after(10), pytest.raises(ZeroDivisionError):
        await ReverseProxy(Silent(client.asked, ZeroDivisionError()))(asked, client.receive, client.send)
    assert client.sent == []


@pytest.mark.parametrize("exchange", [without_a_body, with_a_body, websocket])
async def test_a_server_that_cannot_be_listened_to_is_heard_of_as_it_is(
    exchange: Callable[[], tuple[Leaving, Scope]],
) -> None:
    client, asked = exchange()
    receive: Callable[[], Awaitable[Message]] = client.receive

    async def breaking() -> Message:
        if (await receive())["type"].endswith("disconnect"):
            raise ZeroDivisionError
        return {"type": asked["type"] + (".connect" if asked["type"] == "websocket" else ".request")}

    with anyio.fail_after(10), pytest.raises(ZeroDivisionError):
        await ReverseProxy(Silent(client.asked, httpx.ReadError("broken")))(asked, breaking, client.send)


async def test_who_takes_no_hints_ends_what_was_asked_for_them() -> None:
    class Hinting(AsyncBalancedTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["on_informational"](103, [(b"link", b"</a.css>")])
            await anyio.sleep_forever()
            raise AssertionError

    hinted = scope(extensions={"http.response.early_hint": {}})
    client = Server(gone_after=0)
    with anyio.fail_after(10):
        await ReverseProxy(Hinting(["http://a"]))(hinted, client.receive, client.send)
    assert client.sent == []


async def test_an_answer_whose_hints_cannot_be_sent_is_closed() -> None:
    closed: list[bool] = []

    class Body(httpx.AsyncByteStream):
        async def aclose(self) -> None:
            closed.append(True)

    class Hinting(AsyncBalancedTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["on_informational"](103, [(b"link", b"</a.css>")])
            return httpx.Response(200, stream=Body())

    hinted = scope(extensions={"http.response.early_hint": {}})
    client = Server(gone_after=0)
    with anyio.fail_after(10):
        await ReverseProxy(Hinting(["http://a"]))(hinted, client.receive, client.send)
    assert closed == [True]
