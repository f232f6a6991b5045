"""anyio's names for code that blocks its thread: scopes with deadlines, task groups, events, and `Wake`.

What is generated from `_async` keeps its structure because of this: `with move_on_after(...)` around a blocking read
ends that read. There are no tasks to cancel here. Instead, every call that blocks goes through `block`, which knows the
scopes that its thread is in. It waits no longer than the nearest deadline, and a scope that is cancelled by another
thread has the call interrupted: a socket is shut down, a wait is woken. Either raises `Cancelled`, which that scope
catches.

A task group runs its tasks in threads, one at a time: whoever runs holds the group's *baton*, and lets go of it only
while it blocks. So what holds between two awaits holds between two blocking calls: nobody comes in between. Code that
several clients' threads share has locks of its own; who is in no task group has no baton and pays for none of this.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar

current_time = time.monotonic

_T = TypeVar("_T")
_EARLY = 0.001  # seconds; a wait may end that much before its deadline


class _Here(threading.local):
    """What this thread is in."""

    def __init__(self) -> None:
        self.scopes: tuple[CancelScope, ...] = ()  # the innermost last
        self.baton: threading.Lock | None = None


_here = _Here()


class Cancelled(BaseException):
    """The end of a blocking call, and of everything up to `scope`."""

    def __init__(self, scope: CancelScope) -> None:
        super().__init__(scope)
        self.scope = scope


class CancelScope:
    """See `anyio.CancelScope`. `cancel` may be called from any thread.

    Args:
        deadline: On `current_time`.
        shield: What is around it does not reach inside.
    """

    def __init__(self, *, deadline: float = math.inf, shield: bool = False) -> None:
        self.deadline = deadline
        self.shield = shield
        self.cancel_called = False
        self.cancelled_caught = False
        self._interrupts: set[Callable[[], object]] = set()
        self._around: tuple[CancelScope, ...] = ()

    def cancel(self) -> None:
        """End what blocks inside, now and from now on."""
        self.cancel_called = True
        for interrupt in list(self._interrupts):
            interrupt()

    def __enter__(self) -> CancelScope:
        self._around = _here.scopes
        _here.scopes = (*self._around, self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        _here.scopes = self._around
        if isinstance(exc, Cancelled) and exc.scope is self:
            self.cancelled_caught = True
            return True
        return False


def block(wait: Callable[[float | None], _T], timeout: float | None, interrupt: Callable[[], object]) -> _T:
    """Carry out a call that blocks.

    Args:
        wait: The call; it gets the seconds (> 0) that it may take, or None, and raises when they are over.
        timeout: Seconds that the caller allows; None for no limit.
        interrupt: Ends the call early. From any thread; also when it has just ended.

    Raises:
        Cancelled: A scope around it was cancelled, or has expired.
    """
    here = _here
    if not here.scopes and here.baton is None:
        return wait(timeout)
    scopes = _within_reach(here.scopes)
    _check(scopes)
    deadline = min((scope.deadline for scope in scopes), default=math.inf)
    if deadline < math.inf:
        left = max(_EARLY, deadline - current_time())
        timeout = left if timeout is None else min(timeout, left)
    for scope in scopes:
        scope._interrupts.add(interrupt)
    try:
        _check(scopes)  # again: from here on a cancellation finds the interrupt
        with _without(here.baton):
            result = wait(timeout)
    except Exception:
        _check(scopes, _EARLY)
        raise
    finally:
        for scope in scopes:
            scope._interrupts.discard(interrupt)
    _check(scope for scope in scopes if scope.cancel_called)
    return result


def _within_reach(scopes: tuple[CancelScope, ...]) -> list[CancelScope]:
    """Those whose end is felt here, from the outermost: up to the nearest shield."""
    reach: list[CancelScope] = []
    for scope in reversed(scopes):
        reach.append(scope)
        if scope.shield:
            break
    return reach[::-1]


def _check(scopes: Iterable[CancelScope], early: float = 0.0) -> None:
    for scope in scopes:
        if scope.cancel_called or (scope.deadline < math.inf and current_time() >= scope.deadline - early):
            scope.cancel_called = True
            raise Cancelled(scope)


@contextmanager
def _without(baton: threading.Lock | None) -> Generator[None, None, None]:
    if baton is None:
        yield
        return
    baton.release()
    try:
        yield
    finally:
        baton.acquire()


# Deadlines


def move_on_after(delay: float | None, shield: bool = False) -> CancelScope:
    """A scope that ends after so many seconds; None for never."""
    return CancelScope(deadline=math.inf if delay is None else current_time() + delay, shield=shield)


def move_on_at(deadline: float) -> CancelScope:
    """A scope that ends at that moment."""
    return CancelScope(deadline=deadline)


@contextmanager
def fail_after(delay: float | None) -> Generator[CancelScope, None, None]:
    """A scope that raises `TimeoutError` when it ends after so many seconds; None for never."""
    with move_on_after(delay) as scope:
        yield scope
    if scope.cancelled_caught and current_time() >= scope.deadline - _EARLY:
        raise TimeoutError


# Waiting

# A gate is a lock that is held until somebody opens it. Opening takes no lock, so it may be done anywhere, even in a
# finalizer that runs in the middle of another opening.


def _closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


def _open(gate: threading.Lock) -> None:
    with suppress(RuntimeError):  # it is open
        gate.release()


def _pass(gate: threading.Lock) -> None:
    def wait(timeout: float | None) -> None:
        if not gate.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise TimeoutError

    block(wait, None, lambda: _open(gate))


def sleep(delay: float) -> None:
    """Do nothing for so many seconds."""
    until = current_time() + delay
    with move_on_at(until):
        _pass(_closed_gate())


class Event:
    """See `anyio.Event`."""

    def __init__(self) -> None:
        self._set = False
        self._gates: list[threading.Lock] = []

    def set(self) -> None:
        """From any thread."""
        self._set = True
        for gate in list(self._gates):
            _open(gate)

    def is_set(self) -> bool:
        """Whether it has been."""
        return self._set

    def wait(self) -> None:
        """Return when it is set."""
        gate = _closed_gate()
        self._gates.append(gate)
        try:
            if self._set:
                _check(_within_reach(_here.scopes))
            else:
                _pass(gate)
        finally:
            self._gates.remove(gate)


class Wake:
    """One thread waits; any other may wake it. See `lbclient._async.background.Wake`."""

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        self._gate = _closed_gate()

    def __repr__(self) -> str:
        return f"<Wake {'quiet' if self._gate.locked() else 'raised'}>"

    def wake(self) -> None:
        """From any thread, at any time."""
        _open(self._gate)

    def wait(self) -> None:
        """Return when somebody has called `wake()` since the last time."""
        _pass(self._gate)


# Task groups


class TaskGroup:
    """See `anyio.abc.TaskGroup`; each task is a thread, and only one of them and of who entered runs at a time."""

    def __init__(self) -> None:
        self.cancel_scope = CancelScope()
        self._baton: threading.Lock | None = None
        self._is_first = False
        self._scopes: tuple[CancelScope, ...] = ()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start_soon(self, function: Callable[..., object], *args: Any, name: str | None = None) -> None:
        """Have it called in a thread of its own, from when this one blocks."""
        words = name or f"lbclient: {getattr(function, '__qualname__', function)}"
        thread = threading.Thread(target=self._run, args=(function, *args), name=words, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, function: Callable[..., object], *args: Any) -> None:
        _here.scopes, _here.baton = self._scopes, self._baton
        assert self._baton is not None
        with self._baton:
            try:
                function(*args)
            except Cancelled:
                pass  # whoever is responsible for that scope knows
            except BaseException as exc:  # noqa: BLE001  # raised by whoever leaves the group
                self._errors.append(exc)
                self.cancel_scope.cancel()

    def __enter__(self) -> TaskGroup:
        self._is_first = _here.baton is None
        if self._is_first:
            _here.baton = threading.Lock()
            _here.baton.acquire()
        self._baton = _here.baton
        self.cancel_scope.__enter__()
        self._scopes = _here.scopes
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if exc is not None:
            self.cancel_scope.cancel()
        try:
            with _without(self._baton):
                while self._threads:
                    self._threads.pop().join()
        finally:
            caught = self.cancel_scope.__exit__(exc_type, exc, traceback)
            if self._is_first:
                assert _here.baton is not None
                _here.baton.release()
                _here.baton = None
        if exc is not None and not isinstance(exc, Cancelled):
            self._errors.insert(0, exc)
        if self._errors:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", self._errors) from None
        if exc is None:
            _check(_within_reach(_here.scopes))
        return caught


def create_task_group() -> TaskGroup:
    """See `anyio.create_task_group`."""
    return TaskGroup()
