"""The process around a sidecar: its event loop, its signals, its logs, its exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lbclient.sidecar.configuration import read
from lbclient.sidecar.document import ConfigurationError
from lbclient.sidecar.sidecar import Sidecar
from lbclient.sidecar.supervisor import Supervisor
from lbclient.sidecar.worker import Worker


def serve(path: Path) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads, and opens the access log anew.

    Args:
        path: The configuration.

    Returns:
        The exit code: 0 after a graceful end, 1 when it could not start, or requests were cut off in the end.
    """
    worker = Worker.from_environment()
    who = "" if worker is None else f" worker {worker.number}:"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{who} %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what it says of requests, we say
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(path, handler, worker))
    finally:
        logging.getLogger().removeHandler(handler)


async def _serve(path: Path, handler: logging.Handler, worker: Worker | None) -> int:
    logger = logging.getLogger("lbclient.sidecar")
    try:
        configuration = read(path)
        if worker is None and configuration.workers > 1:
            return await Supervisor(path, configuration).run()
        sidecar = Sidecar(path, handler, worker)
        await sidecar.start()
    except ConfigurationError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except OSError as exc:
        logger.critical("%s", exc.strerror or exc)
        return 1
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    ending: asyncio.Task[int] | None = None
    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        sidecar.reopen_log()
        task = loop.create_task(sidecar.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    def end() -> None:
        if ending is not None:
            ending.cancel()  # asked twice: at once
        asked.set()

    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    line = None if worker is None else worker.serves(abandoned=end)
    await asked.wait()
    if line is not None:
        line.close()
    ending = loop.create_task(sidecar.stop())
    try:
        cut = await ending
    except asyncio.CancelledError:
        logger.warning("ended at once")
        await sidecar.aclose()
        return 1
    if cut:
        logger.warning("%d requests were cut off", cut)
    return 1 if cut else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop
