"""Processes of the benchmarks on loopback: started on the cpu for servers, waited for, measured, and stopped again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def client_cpu() -> int | None:
    """The cpu the client is pinned to: the first one we may use. None where cpus cannot be chosen."""
    return min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def server_cpu() -> int | None:
    """The cpu the servers are pinned to: the last one we may use, the client's own if there is but one."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def pin_client(cpu: int | None) -> None:
    """Keep this process on `cpu`. Call it after the servers have started, or they inherit it."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def executable(name: str, install: str) -> str:
    """Where a program is; ends the run with how to `install` it when it is not here.

    One that pip installed is beside our own interpreter, Debian's are in /usr/sbin.
    """
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside, os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise SystemExit(f"the benchmarks need {name}: {install}")
    return found


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(command: Sequence[str], ports: Sequence[int], log: Path) -> Iterator[int]:
    """A server, once it listens on all of its `ports`; yields its pid.

    A group of its own: Ctrl-C reaches us first, and we stop it in order. Raises `RuntimeError` with its log when it
    does not come up.
    """
    cpu = server_cpu()
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True, preexec_fn=lambda: pin_client(cpu),
        )  # fmt: skip
    try:
        for port in ports:
            _wait_until_listening(process, port, log)
        yield process.pid
    finally:
        _stop(process)


def cpu_us(pid: int) -> float:
    """What a process and its children have used so far, in microseconds; 0 where /proc does not tell."""
    return sum(_own_cpu_us(each) for each in _family(pid))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(each.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            yield from _family(int(each.parent.name))


def _own_cpu_us(pid: int) -> float:
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[0])
        except OSError:  # a thread that has just ended
            continue
    return total / 1e3


def _wait_until_listening(
    process: subprocess.Popen[bytes], port: int, log: Path, timeout: float = 30.0
) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}:\n{log.read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
