"""What lbclient offers to the tests of others."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import respx

from lbclient import AsyncBalancedTransport, Pool
from lbclient.testing import FakeBackends, FakeClock


async def test_requests_fail_over_and_every_backend_tells_what_it_was_asked() -> None:
    backends = FakeBackends(2)
    backends[0].down()
    transport = AsyncBalancedTransport(backends.urls, algorithm="first", inner=backends.inner)
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        response = await client.get("/42")
        assert response.extensions["lbclient"].backend == backends.urls[1]
        backends[0].up()
        backends[0].status, backends[0].content, backends[0].headers = 201, b"made", {"x-by": "zero"}
        response = await client.get("/43")
    assert (response.status_code, response.content, response.headers["x-by"]) == (201, b"made", "zero")
    assert [request.url.path for request in backends[0].requests] == ["/42", "/43"]
    assert backends.asked == {"http://backend-0": 2, "http://backend-1": 1}


async def test_mocks_of_respx_below_the_balancer_fail_over() -> None:
    router = respx.MockRouter()
    router.get("http://a/42").mock(side_effect=httpx.ConnectError)
    router.get("http://b/42").respond(text="ok")
    transport = AsyncBalancedTransport(
        ["http://a", "http://b"],
        algorithm="first",
        inner=lambda backend: httpx.MockTransport(router.async_handler),
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        response = await client.get("/42")
    assert (response.text, response.extensions["lbclient"].tried) == ("ok", 2)


async def test_mocks_of_respx_in_place_of_the_balancer_see_the_logical_url() -> None:
    with respx.mock(using="httpx") as router:
        router.get("http://orders/42").respond(text="ok")
        async with httpx.AsyncClient(transport=AsyncBalancedTransport(["http://a"])) as client:
            response = await client.get("http://orders/42")
    assert response.text == "ok"
    assert "lbclient" not in response.extensions


async def test_an_answer_takes_time_of_the_fake_clock() -> None:
    clock = FakeClock(0)
    backends = FakeBackends(["http://a/"], clock=clock)
    backends[0].latency = 2.5
    pool = Pool(backends.urls, clock=clock)
    async with httpx.AsyncClient(transport=AsyncBalancedTransport(pool, inner=backends.inner)) as client:
        await client.get("http://orders/")
    assert clock.now == 2.5
    assert pool.status().backends[0].latency == 2.5


async def test_a_failure_may_be_an_instance_and_a_handler_answers_for_itself() -> None:
    backends = FakeBackends(1)
    transport = AsyncBalancedTransport(backends.urls, inner=backends.inner, retry=None)
    async with httpx.AsyncClient(transport=transport) as client:
        backends[0].failure = httpx.ReadTimeout("too slow")
        assert "ReadTimeout" in repr(backends)
        with pytest.raises(httpx.ReadTimeout, match="too slow"):
            await client.get("http://orders/")
        backends[0].up()
        backends[0].handler = lambda request: httpx.Response(200, text=request.url.path)
        assert (await client.get("http://orders/echo")).text == "/echo"
    assert repr(backends[:1]) == "[<FakeBackend http://backend-0 200, 2 requests>]"
    assert len(backends) == 1


def test_bad_arguments_say_what_to_write() -> None:
    with pytest.raises(ValueError, match="backends is 0"):
        FakeBackends(0)
    with pytest.raises(ValueError, match="write how many"):
        FakeBackends([])


def test_the_fixtures_are_there_for_who_asks_for_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["lbclient.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(
        "from lbclient import Pool\n"
        "def test_it(fake_backends, fake_clock):\n"
        "    backends = fake_backends(2)\n"
        "    pool = Pool(backends.urls, clock=fake_clock)\n"
        "    fake_clock.advance(1)\n"
        "    assert pool.pick().backend.url in backends.urls\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
