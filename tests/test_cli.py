"""The command line, and the demo as a person runs it."""

import io
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import pytest
from rich.console import Console

from lbclient import AsyncBalancedTransport, __version__, cli
from lbclient.algorithms import from_name
from lbclient.demo import processes, run, server, story
from lbclient.demo.plain import PlainView
from lbclient.demo.processes import DemoServer, ServerDied, started
from lbclient.demo.screen import ScreenView
from lbclient.demo.story import FAILED_OVER, ORDINARY, SENT_AGAIN, Event, Phase, Story, Tone, play
from lbclient.demo.summary import summary

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "lbclient"]


def running(ports: list[int]) -> list[int]:
    """The ports that still answer."""
    found = []
    for port in ports:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=1)
        except httpx.TransportError:
            continue
        found.append(port)
    return found


def ports_in(text: str) -> list[int]:
    return sorted({int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", text)})


# The demo, end to end


def test_the_demo_tells_who_died_and_loses_no_request() -> None:
    result = subprocess.run(
        [*COMMAND, "demo", "--seconds", "4"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    out = result.stdout
    assert "\x1b" not in out  # no terminal, no colours
    killed = re.search(r"(\w+) is killed \(SIGKILL\)", out)
    assert killed is not None
    assert f"{killed[1]} is started again" in out
    assert f"{killed[1]} answers again" in out
    assert f"{killed[1]} was noticed dead" in out
    assert re.search(r"^ +0 failed$", out, re.MULTILINE)
    assert re.search(r"^ +[1-9]\d* of them failed over", out, re.MULTILINE)
    assert f"{FAILED_OVER}, explained" in out
    assert "already tried" in out
    assert running(ports_in(out)) == []


def heed_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so would all that are started by it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_no_server_outlives_the_demo(blow: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo", "--plain", "--seconds", "60"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # no thread of ours holds a lock here
    ) as process:
        try:
            assert process.stdout is not None
            assert "servers are up" in process.stdout.readline()
            children = children_of(process.pid)
            assert len(children) == 3
            process.send_signal(blow)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    if blow is signal.SIGINT:
        assert process.returncode == 130
        assert errors == "interrupted; the servers are stopped\n"
    deadline = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, children))


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_screen_shows_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    views: list[ScreenView] = []

    class Captured(ScreenView):
        def __init__(self) -> None:
            super().__init__(
                Console(file=io.StringIO(), force_terminal=True, highlight=False, width=120, height=24)
            )
            views.append(self)

        def look(self, story: Story) -> None:
            super().look(story)
            picture = Console(file=io.StringIO(), width=self.console.width, height=24, highlight=False)
            with picture.capture() as capture:
                picture.print(self.draw(story))
            drawn.append(capture.get())

    monkeypatch.setattr("lbclient.demo.screen.ScreenView", Captured)
    assert run(seconds=3, plain=False, algorithm=None) == 0
    file = views[0].console.file
    assert isinstance(file, io.StringIO)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "0 failed" in text
    assert "Share of the requests" in text
    assert any("failing its probe" in picture or "ejected for" in picture for picture in drawn)
    assert any(re.search(r"alpha :\d+ ", picture) for picture in drawn)  # there is room for the port
    assert all(len(picture.splitlines()) <= 24 for picture in drawn)
    assert all(len(line) <= 120 for picture in drawn for line in picture.splitlines())


@pytest.mark.parametrize("height", [14, 18, 24, 60])
def test_a_long_explanation_is_cut_where_the_screen_ends(height: int) -> None:
    view = ScreenView(Console(file=io.StringIO(), width=120, height=height, highlight=False))
    tale = Story([DemoServer("alpha", 0.01), DemoServer("beta", 0.01)], 10, None)

    async def draw() -> str:
        tale.begin()
        for number in range(30):
            tale.tell(f"event {number}", Tone.BAD)
        tale.shown = (ORDINARY, "\n".join(f"line {number}" for number in range(30)))
        with view.console.capture() as capture:
            view.console.print(view.draw(tale))
        return capture.get()

    drawn = anyio.run(draw)
    assert len(drawn.splitlines()) == height
    assert "event 29" in drawn
    assert ("line 29" in drawn) == (height == 60)


def test_a_narrow_screen_keeps_every_column() -> None:
    view = ScreenView(Console(file=io.StringIO(), width=80, height=24))
    tale = Story([DemoServer("alpha", 0.01), DemoServer("beta", 0.01)], 10, None)

    async def draw() -> str:
        tale.begin()
        for number in range(30):
            tale.tell(f"event {number}", Tone.BAD)
        tale.shown = (ORDINARY, "pool demo: 1 attempt\n  1. " + "words " * 40)
        tale.failed.append("it did not work")
        with view.console.capture() as capture:
            view.console.print(view.draw(tale))
        return capture.get()

    lines = anyio.run(draw).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if line.startswith("backend"))
    assert head.split() == ["backend", "share", "now", "requests", "in", "flight", "latency", "state"]
    assert "event 29" in "\n".join(lines)
    assert "event 0\n" not in "\n".join(lines)


# What may go wrong in it


class SilentView(PlainView):
    every = 0.05

    def look(self, story: Story) -> None:
        story.status()


def balanced(handler: Callable[[httpx.Request], httpx.Response]) -> tuple[httpx.AsyncClient, Story]:
    tale = Story([DemoServer("alpha", 0.01)], 10, None)
    transport = AsyncBalancedTransport(
        [tale.servers[0].url], inner=lambda backend: httpx.MockTransport(handler)
    )
    return httpx.AsyncClient(transport=transport, base_url="http://demo"), tale


async def test_a_customer_without_an_answer_is_a_failure() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("cut")

    client, tale = balanced(handler)
    async with client:
        await story._ask(client, tale)
    assert (tale.failed, tale.total) == (["ReadError: cut"], 0)


@pytest.mark.parametrize(
    ("error", "counted", "kind"),
    [
        (httpx.RemoteProtocolError("cut"), (0, 1), SENT_AGAIN),
        (httpx.ConnectError("refused"), (1, 0), FAILED_OVER),
    ],
)
async def test_an_answer_after_a_failure_is_a_success(
    error: Exception, counted: tuple[int, int], kind: str
) -> None:
    errors = [error]

    def handler(request: httpx.Request) -> httpx.Response:
        if errors:
            raise errors.pop()
        return httpx.Response(200)

    client, tale = balanced(handler)
    async with client:
        await story._ask(client, tale)
    assert ((tale.failed_over, tale.sent_again), tale.failed, tale.total) == (counted, [], 1)
    assert tale.answered[Phase.ALL_UP] == {"alpha": 1}
    assert "200 after" in tale.examples[kind]


def test_a_failed_request_is_in_the_summary_and_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(tale: Story, view: PlainView) -> None:
        tale.failed.append("ReadTimeout: slow")

    monkeypatch.setattr("lbclient.demo.play", fails)
    assert run(seconds=2, plain=True, algorithm=None) == 1
    out = capsys.readouterr().out
    assert "    1 failed" in out
    assert "ReadTimeout: slow" in out


def test_a_server_that_does_not_come_up_ends_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def never(self: DemoServer) -> None:
        raise ServerDied(f"server {self.name} did not come up on port {self.port}")

    monkeypatch.setattr(DemoServer, "ready", never)
    assert run(seconds=2, plain=True, algorithm=None) == 1
    assert "server alpha did not come up" in capsys.readouterr().err


def test_a_server_that_does_not_come_up_again_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with started({"alpha": 0.001, "beta": 0.001}) as servers:
        tale = Story(servers, 2, None)

        def breaks(self: DemoServer) -> None:
            self._process = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE)

        monkeypatch.setattr(DemoServer, "start", breaks)
        anyio.run(play, tale, SilentView())
    assert len(tale.failed) == 1
    assert "did not come up" in tale.failed[0]
    assert tale.sent_again <= story.CUSTOMERS


def test_a_server_that_is_up_and_gets_no_request_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "RETURN_WITHIN", 0.2)
    with started({"alpha": 0.001, "beta": 0.001}) as servers:
        tale = Story(servers, 2, None)
        restart = DemoServer.start

        def unseen(self: DemoServer) -> None:
            restart(self)
            tale.pool.disable(self.url)

        monkeypatch.setattr(DemoServer, "start", unseen)
        anyio.run(play, tale, SilentView())
    assert tale.victim is not None
    assert tale.failed == [f"{tale.victim.name} did not come back"]


def test_the_log_is_listened_to_only_during_the_story() -> None:
    logger = logging.getLogger("lbclient")
    before = (logger.level, list(logger.handlers))
    tale = Story([DemoServer("alpha", 0.01)], 10, None)
    seen: list[Event] = []

    class Notebook(PlainView):
        def happened(self, event: Event) -> None:
            seen.append(event)

    async def listen() -> None:
        with story._heard(tale, Notebook()):
            logger.info("demo: %s enabled", tale.servers[0].url)
            logger.warning("demo: %s ejected", tale.servers[0].url)

    anyio.run(listen)
    assert [(event.text, event.tone) for event in seen] == [
        ("alpha enabled", Tone.GOOD),
        ("alpha ejected", Tone.BAD),
    ]
    assert seen == tale.events
    assert (logger.level, list(logger.handlers)) == before


def test_the_summary_of_nothing_is_no_error() -> None:
    titles = [title for title, _ in summary(Story([DemoServer("alpha", 0.01)], 10, None))]
    assert titles == ["Requests", "Share of the requests", "What happened when"]


# Its servers


def test_a_server_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_WITHIN", 0.1)
    stubborn = DemoServer("stubborn", 0.01)
    assert repr(stubborn) == f"<DemoServer stubborn on {stubborn.port}, not running>"
    stubborn.wait()  # never started: nothing to wait for
    stubborn._process = process = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE)
    assert repr(stubborn) == f"<DemoServer stubborn on {stubborn.port}, running>"
    stubborn.ask_to_end()
    stubborn.wait()
    assert process.returncode == -signal.SIGKILL


def test_a_port_that_is_taken_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    first = processes._free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        drawn = iter([first, first + 1, first + 2])

        class Fixed(random.Random):
            def randrange(self, *_: object) -> int:
                return next(drawn)

        monkeypatch.setattr(random, "SystemRandom", Fixed)
        assert processes._free_port() > first


async def test_the_app_says_hello_and_its_health_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app = server.make_app("alpha", 0.01)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://alpha") as client:
        assert (await client.get("/health")).text == "hello from alpha\n"


# Arguments


def test_the_version() -> None:
    result = subprocess.run([*COMMAND, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"lbclient {__version__}\n")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["demo", "--seconds", "soon"], "'soon' is not a number from 2 to 3600"),
        (["demo", "--seconds", "1"], "'1' is not a number from 2 to 3600"),
        (["demo", "--seconds", "nan"], "'nan' is not a number from 2 to 3600"),
        (["demo", "--algorithm", "fastest"], "write one of: round_robin, "),
        (["demo", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_arguments_are_refused_in_words(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "missing", "words"),
    [
        (["demo"], ["rich", "uvicorn"], "needs rich and uvicorn; "),
        (["demo"], ["rich"], "needs rich; "),
        (["demo", "--plain"], ["rich", "uvicorn"], "needs uvicorn; "),
    ],
)
def test_a_missing_extra_is_named(
    argv: list[str],
    missing: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "pip install 'lbclient[demo]'" in error


def test_the_demo_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("lbclient.demo.run", lambda **options: asked.update(options) or 0)
    assert cli.main(["demo", "--seconds", "7.5", "--plain", "--algorithm", "round_robin"]) == 0
    assert asked == {"seconds": 7.5, "plain": True, "algorithm": from_name("round_robin")}
    assert Story([DemoServer("alpha", 0.01)], 10, from_name("first")).status().algorithm == "first"


def test_help_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules['rich'] = sys.modules['uvicorn'] = None; "
        "from lbclient.cli import main; main(['--help'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert result.returncode == 0
    assert "demo" in result.stdout
