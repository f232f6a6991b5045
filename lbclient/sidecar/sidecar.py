"""The sidecar as a whole: started, reloaded as often as its file changes, and ended without a broken request."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from lbclient.sidecar.admin import Watchers, admin_app
from lbclient.sidecar.configuration import AccessLogSection, AdminSection, Configuration, read
from lbclient.sidecar.everywhere import Everywhere
from lbclient.sidecar.happenings import Happenings
from lbclient.sidecar.layer4 import L4Listener
from lbclient.sidecar.listeners import Address, ListenerSection
from lbclient.sidecar.listening import LOOK_EVERY, Listener, Options
from lbclient.sidecar.metrics import registry_of
from lbclient.sidecar.operations import Operations
from lbclient.sidecar.requests import AccessLog, Decisions
from lbclient.sidecar.traffic import Traffic
from lbclient.sidecar.worker import Worker

logger = logging.getLogger("lbclient.sidecar")


_Layer4: TypeAlias = tuple[str, Address]
"""Protocol and address."""


@dataclass
class _Opened:
    """Listeners that have their addresses and do not accept yet, and other options for those that do."""

    listeners: dict[Address, Listener] = field(default_factory=dict[Address, Listener])
    changes: dict[Address, Options] = field(default_factory=dict[Address, Options])
    l4: dict[_Layer4, L4Listener] = field(default_factory=dict[_Layer4, L4Listener])
    admin: Listener | None = None

    def close(self) -> None:
        for one in self.l4.values():
            one.close()
        for listener in (*self.listeners.values(), *([] if self.admin is None else [self.admin])):
            listener.stop_accepting()


class Sidecar:
    """One process's worth of load balancing, told what to do by a file.

    Args:
        path: The configuration.
        log: Whose level the configuration sets.
        worker: Which of several processes this is; None when it is alone.

    Attributes:
        traffic: What serves requests.
        decisions: The newest of them.
        operations: What operators do.
        watchers: Who is told of changes.
        registry: The metrics.
        happenings: What was logged lately.
        loaded_at: When the configuration was read that is served, in seconds since 1970.
        trouble: Why a newer one is not; empty when there is none.
        reloads: How often another configuration was taken.
        leaving: Whether it is about to end.
    """

    def __init__(self, path: Path, log: logging.Handler | None = None, worker: Worker | None = None) -> None:
        self.path = path
        self.worker = worker
        self._log = log
        self.traffic = Traffic(None if worker is None else worker.secret)
        self.decisions = Decisions()
        self.happenings = Happenings(self._tell)
        self.started_at = time.time()
        self.loaded_at = 0.0
        self.trouble = ""
        self.reloads = 0
        self._listeners: dict[Address, Listener] = {}
        self._l4: dict[_Layer4, L4Listener] = {}
        self._admin: Listener | None = None
        self._access_log: AccessLog | None = None
        self._log_section: AccessLogSection | None = None
        self._reloading = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._leaving = False
        self._endings: set[asyncio.Task[object]] = set()
        self._level_before = logging.NOTSET
        self._seen: tuple[object, ...] = ()
        self.watchers = Watchers()
        self.operations = Operations(self.traffic, self.watchers.tell)
        self.registry, self._own_metrics, self._pool_metrics = registry_of(self)
        self._admin_app = admin_app(self)
        self._everywhere: Everywhere | None = None
        self._inside: Listener | None = None

    def __repr__(self) -> str:
        return f"<Sidecar {self.path}, {len(self._listeners)} listeners>"

    @property
    def configuration(self) -> Configuration:
        """The one that is served."""
        return self.traffic.generation.configuration

    @property
    def leaving(self) -> bool:
        """Whether it is about to end."""
        return self._leaving

    @property
    def listeners(self) -> tuple[Listener | L4Listener, ...]:
        """Where requests, connections and datagrams come in."""
        return (*self._listeners.values(), *self._l4.values())

    @property
    def admin(self) -> Listener | None:
        """Where operators come in."""
        return self._admin

    def _tell(self) -> None:
        self.watchers.tell()

    async def start(self) -> None:
        """Listen and serve from now on.

        Raises:
            ConfigurationError: The file cannot be served.
            OSError: An address cannot be listened to.
        """
        root = logging.getLogger("lbclient")
        root.addHandler(self.happenings)
        self._level_before = root.level
        try:
            stamp = _stamp(self.path)
            await self._join()
            await self._take(read(self.path), stamp)
            if self.trouble:
                raise OSError(self.trouble)
        except BaseException:
            await self.aclose()
            raise
        self._watch = asyncio.create_task(self._watch_files())

    async def _join(self) -> None:
        """Be one of several workers, if there are several."""
        worker = self.worker
        if worker is None:
            return
        inside = Address("unix", path=worker.path_of(worker.number))
        self._inside = Listener(ListenerSection(bind=inside), self._admin_app)
        await self._inside.start()
        if worker.is_first:
            self._everywhere = Everywhere(self._admin_app, worker)

    async def reload(self) -> bool:
        """Read the file again and serve by it.

        Returns:
            Whether that went well. If not, `trouble` says why: all stays as it is, but where a listener could not take
            its new options, in which case the trouble says which.
        """
        async with self._reloading:
            if self._leaving:
                return False
            try:
                stamp = _stamp(self.path)  # first: a change while we read is another change
                await self._take(await asyncio.to_thread(read, self.path), stamp)
            except Exception as exc:  # noqa: BLE001  # whatever it is, what serves goes on
                self.trouble = str(exc)
                logger.error("the configuration was not reloaded: %s", exc)  # it says where
                self._tell()
                return False
            self.reloads += 1
            if self.trouble:
                logger.error("reloaded %s, but %s", self.path, self.trouble)
                return False
            logger.info("reloaded %s", self.path)
            return True

    async def _take(self, configuration: Configuration, stamp: object) -> None:
        workers = 1 if self.worker is None else self.worker.count
        if configuration.workers != workers:
            raise ValueError(f"workers is {configuration.workers}, and {workers} serve; that takes a restart")
        seen = (stamp, *map(_stamp, map(Path, configuration.files())))
        opened = self._open_new(configuration)
        try:
            access_log = self._open_log(configuration.access_log)
            await self.traffic.apply(configuration)
        except BaseException:
            opened.close()
            raise
        self._set_level(logging.getLevelNamesMapping()[configuration.log_level.upper()])
        self._use_log(access_log, configuration.access_log)
        troubles = await self._listen(configuration, opened)
        self._pool_metrics.follow()
        self._seen = seen
        self.loaded_at, self.trouble = time.time(), "; ".join(troubles)
        self._tell()

    def _set_level(self, level: int) -> None:
        if self._log is not None:
            self._log.setLevel(level)
        logging.getLogger("lbclient").setLevel(min(level, logging.INFO))  # the dashboard shows what INFO says

    # Listeners

    def _open_new(self, configuration: Configuration) -> _Opened:
        """Bind what is new and read certificates, before anything else is done: what fails here leaves no trace."""
        opened = _Opened()
        shared = self.worker is not None
        try:
            for section in configuration.listeners:
                known = self._listeners.get(section.bind)
                if known is not None:
                    if (options := known.differing(section)) is not None:
                        opened.changes[section.bind] = options
                else:
                    opened.listeners[section.bind] = Listener(
                        section, self.traffic, self.traffic.refused, shared=shared
                    )
            for other in configuration.l4:
                if (other.protocol, other.bind) not in self._l4:
                    opened.l4[other.protocol, other.bind] = L4Listener(other, shared=shared)
            admin = self._admin_of(configuration)
            if admin is not None and (self._admin is None or admin.bind != self._admin.section.bind):
                opened.admin = Listener(ListenerSection(bind=admin.bind), self._everywhere or self._admin_app)
        except BaseException:
            opened.close()
            raise
        return opened

    def _admin_of(self, configuration: Configuration) -> AdminSection | None:
        """Where operators come in to this process."""
        return configuration.admin if self.worker is None or self.worker.is_first else None

    async def _listen(self, configuration: Configuration, opened: _Opened) -> list[str]:
        """Listen where the configuration says; whoever cannot, and why. That is rare: all have their addresses."""
        troubles: list[str] = []
        wanted = {section.bind: section for section in configuration.listeners}
        for bind in self._listeners.keys() - wanted.keys():
            self._end(self._listeners.pop(bind))
        for bind in wanted:
            known = self._listeners.get(bind)
            if known is None:
                listener = opened.listeners[bind]
                if await self._begun(listener, troubles):
                    self._listeners[bind] = listener
                    logger.info("serves %s", listener)
            elif bind in opened.changes:
                try:
                    await known.reconfigure(opened.changes[bind])
                except Exception as exc:  # noqa: BLE001  # whatever it is, the others are served
                    troubles.append(f"{known} goes on as before: {exc}")
                else:
                    logger.info("serves %s with other options, or another certificate", known)
        await self._forward(configuration, opened, troubles)
        if self._admin is not None and (self._admin_of(configuration) is None or opened.admin is not None):
            self._end(self._admin)
            self._admin = None
        if opened.admin is not None and await self._begun(opened.admin, troubles):
            self._admin = opened.admin
            logger.info("the dashboard is on %s", self._admin.address)
        return troubles

    async def _begun(self, listener: Listener, troubles: list[str]) -> bool:
        """Whether a new listener accepts."""
        try:
            await listener.start()
        except Exception as exc:  # noqa: BLE001  # whatever it is, the others are served
            troubles.append(f"{listener} is not served: {exc}")
            listener.stop_accepting()
            return False
        return True

    async def _forward(self, configuration: Configuration, opened: _Opened, troubles: list[str]) -> None:
        """The same at layer 4."""
        grace = configuration.shutdown.grace
        wanted = {(section.protocol, section.bind): section for section in configuration.l4}
        for key in self._l4.keys() - wanted.keys():
            self._end(self._l4.pop(key))
        for key, section in wanted.items():
            known = self._l4.get(key)
            listener = known or opened.l4[key]
            try:
                changed = await listener.serve(section, self.traffic.pools, grace)
            except Exception as exc:  # noqa: BLE001  # whatever it is, the others are served
                troubles.append(
                    f"{listener} {'is not served' if known is None else 'goes on as before'}: {exc}"
                )
                if known is None:
                    listener.close()
                continue
            self._l4[key] = listener
            if changed:
                logger.info("serves %s", listener)

    def _end(self, listener: Listener | L4Listener) -> None:
        """Let a listener go that is not configured any more; its connections end by themselves."""
        if isinstance(listener, Listener):
            listener.stop_accepting()
        shutdown = self.configuration.shutdown
        task: asyncio.Task[object] = asyncio.create_task(listener.finish(shutdown.linger, shutdown.grace))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    # The access log

    def _open_log(self, section: AccessLogSection | None) -> AccessLog | None:
        if section == self._log_section:
            return self._access_log
        if section is None:
            return None
        return AccessLog(section.path, section.format, asyncio.get_running_loop().call_later)

    def _use_log(self, access_log: AccessLog | None, section: AccessLogSection | None) -> None:
        if self._access_log is not None and access_log is not self._access_log:
            self._access_log.close()
        self._access_log, self._log_section = access_log, section
        log = () if access_log is None else (access_log.add,)
        self.traffic.observers = (self.decisions.add, self._own_metrics.add, *log)

    def reopen_log(self) -> None:
        """After a rotation: write to the file that has the name now."""
        if self._access_log is not None:
            self._access_log.reopen()

    # Watching

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(self.configuration.reload.interval)
            found = self._stamps()
            if found == self._seen or not self.configuration.reload.watch:
                continue
            await asyncio.sleep(LOOK_EVERY)  # whoever writes may not be done
            if self._stamps() == found:
                self._seen = found  # also when it cannot be served: once is enough to say so
                await self.reload()

    def _stamps(self) -> tuple[object, ...]:
        return tuple(map(_stamp, (self.path, *map(Path, self.configuration.files()))))

    # Ending

    async def stop(self) -> int:
        """End without breaking a request: tell clients to go elsewhere, take no more, finish what is under way.

        Returns:
            How many requests were cut off, since they took longer than the grace period.
        """
        self._leaving = True
        self._tell()
        if self._watch is not None:
            self._watch.cancel()
        shutdown = self.configuration.shutdown
        self.traffic.leaving = True
        logger.info("leaving: new connections for %s s more", shutdown.delay)
        await asyncio.sleep(shutdown.delay)
        logger.info("leaving: finishing %d requests within %s s", self.traffic.active, shutdown.grace)
        everything: list[Listener | L4Listener] = [*self._listeners.values(), *self._l4.values()]
        cut = sum(await asyncio.gather(*(one.finish(shutdown.linger, shutdown.grace) for one in everything)))
        await self.aclose()
        return cut

    async def aclose(self) -> None:
        """Close everything at once."""
        if self._watch is not None:
            self._watch.cancel()
        for task in self._endings:
            task.cancel()
        everything: list[Listener | L4Listener] = [*self._listeners.values(), *self._l4.values()]
        if self._admin is not None:
            everything.append(self._admin)
        if self._inside is not None:
            everything.append(self._inside)
        if self._everywhere is not None:
            await self._everywhere.aclose()
        await self.operations.aclose()
        await asyncio.gather(*(listener.finish(0, 0) for listener in everything))
        await self.traffic.aclose()
        if self._access_log is not None:
            self._access_log.close()
        root = logging.getLogger("lbclient")
        root.removeHandler(self.happenings)
        root.setLevel(self._level_before)


def _stamp(path: Path) -> object:
    """What changes when a file does, also when another one takes its place; None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
