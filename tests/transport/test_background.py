"""Coroutines in the background: who starts them, who stops them, and whom they never disturb."""

import asyncio
import contextvars
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from lbclient import AsyncBalancedTransport, HttpProbe
from lbclient._async.background import BackgroundTask, BackgroundThread, Wake
from tests.conftest import MakeRawServer
from tests.servers.raw import respond


class Work:
    """Runs until it is cancelled, and tells what happened to it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()
        self.began_here = anyio.Event()
        self.runs = 0

    async def __call__(self) -> None:
        self.runs += 1
        self.began.set()
        self.began_here.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)  # cleaning up takes a moment
            self.ended.set()


class ThreadWork(Work):
    """The same, begun where there is no event loop."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()
        self.runs = 0

    async def __call__(self) -> None:
        self.began_here = anyio.Event()
        await super().__call__()


# Wake


async def test_a_wake_from_another_thread_ends_the_wait() -> None:
    wake = Wake()
    threading.Timer(0.02, wake.wake).start()
    with anyio.fail_after(5):
        await wake.wait()


async def test_a_wake_before_the_wait_is_kept_and_many_count_as_one() -> None:
    wake = Wake()
    for _ in range(3):
        wake.wake()
    with anyio.fail_after(5):
        await wake.wait()
    with anyio.move_on_after(0.02) as scope:
        await wake.wait()
    assert scope.cancelled_caught


async def test_a_cancelled_wait_loses_no_wake() -> None:
    wake = Wake()
    with anyio.move_on_after(0.01):
        await wake.wait()
    wake.wake()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wake.wait()
    with anyio.fail_after(5):
        await wake.wait()


async def test_no_wake_is_lost_between_threads() -> None:
    wake, seen, wanted = Wake(), 0, 2000
    told = [0]

    def tell() -> None:
        for number in range(1, wanted + 1):
            told[0] = number
            wake.wake()

    thread = threading.Thread(target=tell)
    thread.start()
    with anyio.fail_after(10):
        while seen < wanted:
            await wake.wait()
            seen = told[0]
    thread.join()


async def test_the_repr_of_a_wake_tells_its_state() -> None:
    wake = Wake()
    assert repr(wake) == "<Wake quiet>"
    async with anyio.create_task_group() as group:
        group.start_soon(wake.wait)
        await anyio.wait_all_tasks_blocked()
        assert repr(wake) == "<Wake waited for>"
        wake.wake()
        assert repr(wake) == "<Wake raised>"


def test_a_wake_whose_loop_is_closed_or_which_has_none_is_harmless(anyio_backend_name: str) -> None:
    wake = Wake()

    async def be_interrupted() -> None:
        async def wait() -> None:
            await wake.wait()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            left_behind.append(wake._waiting)
            group.cancel_scope.cancel()

    left_behind: list[Any] = []
    anyio.run(be_interrupted, backend=anyio_backend_name)
    wake._waiting = left_behind[0]  # as if the loop had been closed under it
    wake.wake()
    assert repr(wake).startswith("<Wake raised")


# In the current event loop


async def test_a_task_may_be_started_in_one_task_and_stopped_in_another() -> None:
    work = Work()
    tasks: list[BackgroundTask] = []

    async def start() -> None:
        tasks.append(BackgroundTask(work, "work"))
        await work.began_here.wait()

    async def stop() -> None:
        await tasks[0].stop()

    for step in (start, stop):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
        assert work.ended.is_set() is (step is stop)


async def test_stopping_waits_until_it_has_ended_and_may_be_repeated() -> None:
    work = Work()
    task = BackgroundTask(work, "work")
    await work.began_here.wait()
    assert repr(task) == "<BackgroundTask 'work' running>"
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(task.stop)
    assert work.ended.is_set()
    assert repr(task) == "<BackgroundTask 'work' ended>"
    await task.stop()


async def test_stopping_before_the_first_step_waits_too() -> None:
    work = Work()
    task = BackgroundTask(work, "work")
    with anyio.fail_after(5):
        await task.stop()
    assert work.ended.is_set() or not work.runs


async def test_stopping_goes_on_to_the_end_when_the_caller_is_cancelled() -> None:
    work = Work()
    task = BackgroundTask(work, "work")
    await work.began_here.wait()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await task.stop()
    assert work.ended.is_set()


@pytest.mark.parametrize("in_a_group", [False, True])
async def test_a_failure_is_logged_and_cancels_nobody(
    in_a_group: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("a bug")

    async def fail_in_a_group() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            group.start_soon(anyio.sleep_forever)

    task = BackgroundTask(fail_in_a_group if in_a_group else fail, "work")
    with anyio.fail_after(5):
        while "running" in repr(task):
            await anyio.sleep(0.001)
    await task.stop()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lbclient", logging.ERROR)
    assert record.getMessage() == "work failed, and does not run any more"
    assert "a bug" in caplog.text


def test_a_loop_that_ends_takes_its_task_along_quietly(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    async def forget_to_stop() -> None:
        work = Work()
        seen.extend([work, BackgroundTask(work, "work")])
        await work.began_here.wait()

    async def stop_from_another_loop() -> None:
        with anyio.fail_after(5):
            await seen[1].stop()

    anyio.run(forget_to_stop, backend=anyio_backend_name)
    assert seen[0].ended.is_set()
    assert not seen[1].running
    for backend in ("asyncio", "trio"):
        anyio.run(stop_from_another_loop, backend=backend)
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_task_whose_loop_was_closed_over_it_does_not_run() -> None:
    loop = asyncio.new_event_loop()

    async def start() -> BackgroundTask:
        return BackgroundTask(ThreadWork(), "work")

    task = loop.run_until_complete(start())
    task._task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be
    assert repr(task) == "<BackgroundTask 'work' running>"
    loop.close()
    assert not task.running
    assert repr(task) == "<BackgroundTask 'work' ended>"


def test_a_failure_while_the_loop_ends_is_only_logged(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_when_cancelled() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("a bug in the cleanup")

    async def forget_to_stop() -> None:
        BackgroundTask(fail_when_cancelled, "work")
        await anyio.wait_all_tasks_blocked()

    anyio.run(forget_to_stop, backend=anyio_backend_name)
    assert "a bug in the cleanup" in caplog.text


async def test_it_carries_no_context_of_whoever_started_it() -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
    seen: list[str] = []

    async def look() -> None:
        seen.append(request_id.get())

    request_id.set("42")
    task = BackgroundTask(look, "work")
    await anyio.sleep(0.01)
    await task.stop()
    assert seen == ["none"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_asyncio_it_can_be_told_by_its_name() -> None:
    work = Work()
    task = BackgroundTask(work, "lbclient-probes")
    assert "lbclient-probes" in {known.get_name() for known in asyncio.all_tasks()}
    await task.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_cancelled_by_somebody_else_before_its_first_step_has_ended() -> None:
    work = Work()
    task = BackgroundTask(work, "work")
    task._task.cancel()
    with anyio.fail_after(5):
        await task.stop()
    assert not work.runs


# In a thread


@pytest.fixture
def threads() -> Iterator[Callable[[], list[str]]]:
    """Names of the background threads that live; none may be left when the test ends."""

    def alive() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "lbclient-test"]

    yield alive
    for thread in threading.enumerate():
        if thread.name == "lbclient-test":
            thread.join(5)
    assert alive() == []


def test_a_thread_runs_it_until_it_is_stopped(threads: Callable[[], list[str]]) -> None:
    work = ThreadWork()
    thread = BackgroundThread(work, "lbclient-test")
    assert repr(thread) == "<BackgroundThread 'lbclient-test' not running>"
    thread.start()
    assert work.began.wait(5)
    assert thread.running
    assert repr(thread) == "<BackgroundThread 'lbclient-test' running>"
    thread.stop()
    assert work.ended.is_set()
    assert threads() == []
    assert repr(thread) == "<BackgroundThread 'lbclient-test' not running>"


def test_starting_and_stopping_again_are_harmless(threads: Callable[[], list[str]]) -> None:
    work = ThreadWork()
    thread = BackgroundThread(work, "lbclient-test")
    thread.stop()
    for _ in range(2):
        thread.start()
        thread.start()
        assert work.began.wait(5)
        assert len(threads()) == 1
        thread.stop()
        thread.stop()
        thread.stop_soon()
    assert work.runs == 2


def test_many_threads_start_one(threads: Callable[[], list[str]]) -> None:
    thread = BackgroundThread(ThreadWork(), "lbclient-test")
    starters = [threading.Thread(target=thread.start) for _ in range(20)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len(threads()) == 1
    stoppers = [threading.Thread(target=thread.stop) for _ in range(20)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join()


def test_stopping_right_after_starting_ends_it(threads: Callable[[], list[str]]) -> None:
    thread = BackgroundThread(ThreadWork(), "lbclient-test")
    thread.start()
    thread.stop()
    assert threads() == []


def test_stop_soon_does_not_wait(threads: Callable[[], list[str]]) -> None:
    work = ThreadWork()
    thread = BackgroundThread(work, "lbclient-test")
    thread.start()
    assert work.began.wait(5)
    thread.stop_soon()
    assert not work.ended.is_set()
    assert work.ended.wait(5)


def test_stopping_waits_no_longer_than_its_bound(threads: Callable[[], list[str]]) -> None:
    go_on = threading.Event()

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            go_on.wait(5)

    thread = BackgroundThread(stubborn, "lbclient-test")
    thread.start()
    time.sleep(0.05)
    started = time.monotonic()
    thread.stop(within=0.05)
    assert time.monotonic() - started < 2
    go_on.set()


async def test_stopping_from_an_event_loop_does_not_block_it(threads: Callable[[], list[str]]) -> None:
    work = ThreadWork()
    thread = BackgroundThread(work, "lbclient-test")
    await thread.astop()
    thread.start()
    assert work.began.wait(5)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await thread.astop()
    assert work.ended.is_set()
    assert threads() == []


def test_stopping_while_it_starts_is_not_lost(
    threads: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    start = threading.Thread.start

    def start_slowly(self: threading.Thread) -> None:
        start(self)
        if self.name == "lbclient-test":
            start(stopper)
            asked.wait(5)
            time.sleep(0.02)

    def stop() -> None:
        asked.set()
        thread.stop()

    stopper = threading.Thread(target=stop)
    thread = BackgroundThread(ThreadWork(), "lbclient-test")
    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    thread.start()
    stopper.join(5)
    assert threads() == []


def test_it_may_stop_itself(threads: Callable[[], list[str]]) -> None:
    stopped = threading.Event()

    async def stop_both_ways() -> None:
        thread.stop()
        stopped.set()
        await anyio.sleep_forever()

    thread = BackgroundThread(stop_both_ways, "lbclient-test")
    thread.start()
    assert stopped.wait(5)


def test_it_may_stop_itself_asynchronously(threads: Callable[[], list[str]]) -> None:
    stopped = threading.Event()

    async def stop() -> None:
        await thread.astop()
        stopped.set()

    thread = BackgroundThread(stop, "lbclient-test")
    thread.start()
    assert stopped.wait(5)


def test_a_failure_in_a_thread_is_logged(
    threads: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ValueError("a bug")

    thread = BackgroundThread(fail, "lbclient-test")
    thread.start()
    deadline = time.monotonic() + 5
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.001)
    thread.stop()
    assert "lbclient-test failed" in caplog.text
    assert "a bug" in caplog.text


def test_a_system_without_threads_goes_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    thread = BackgroundThread(ThreadWork(), "lbclient-test")
    thread.start()
    assert not thread.running
    assert caplog.messages == ["lbclient-test does not run: can't start new thread"]


def test_an_object_that_was_dropped_takes_its_thread_along(threads: Callable[[], list[str]]) -> None:
    work = ThreadWork()
    thread = BackgroundThread(work, "lbclient-test")
    thread.start()
    assert work.began.wait(5)
    dropped = weakref.ref(thread)
    # no gc.collect(): what other tests have left behind would be found here, and held against this one
    del thread
    assert dropped() is None
    assert work.ended.wait(5)


def exit_code_of(child: int, within: float = 10.0) -> int | None:
    """None when it hangs, which ends it."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads, that is the point
def test_after_a_fork_the_child_may_start_its_own(threads: Callable[[], list[str]]) -> None:
    work = ThreadWork()
    thread = BackgroundThread(work, "lbclient-test")
    thread.start()
    assert work.began.wait(5)
    wake = Wake()
    wake._lock.acquire()  # as another thread might at that moment
    thread._lock.acquire()
    child = os.fork()
    if child == 0:
        verdict = 1
        with suppress(BaseException):
            wake.wake()
            thread.stop()
            not_there = not thread.running and not work.ended.is_set()
            work.began.clear()
            thread.start()
            began = work.began.wait(5)
            thread.stop()
            verdict = 0 if not_there and began and work.ended.is_set() else 2
        os._exit(verdict)
    thread._lock.release()
    assert exit_code_of(child) == 0
    assert thread.running
    assert not work.ended.is_set()
    thread.stop()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_interpreter_that_exits_neither_waits_nor_complains(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    program = f"""
        import asyncio, logging, threading, anyio
        from lbclient._async.background import BackgroundThread
        logging.basicConfig(level=logging.DEBUG)
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # less its word on a slow machine
        if {loop!r} == "uvloop":
            import uvloop
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        began = threading.Event()
        async def busy():
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(tick)
        async def tick():
            while True:
                began.set()
                await anyio.sleep(0.0005)
        thread = BackgroundThread(busy, "lbclient-test")
        thread.start()
        assert began.wait(5)
    """
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, re.sub(r"\s", "", done.stderr)) == (0, "", "")
    assert time.monotonic() - started < 10


async def test_an_entered_client_needs_no_thread_for_its_probes(raw_server: MakeRawServer) -> None:
    server = raw_server(respond())
    transport = AsyncBalancedTransport([server.url], probe=HttpProbe("/health"))
    async with httpx.AsyncClient(transport=transport):
        await transport.wait_until_ready()
        threads = [thread.name for thread in threading.enumerate()]
        assert "lbclient: probes of pool 'default'" not in threads
