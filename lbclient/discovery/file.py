"""A file that lists backends, followed as it changes.

With the package watchfiles the operating system tells when something happens in the file's directory (so a file that is
replaced, as editors and Kubernetes' ConfigMaps do, is followed too); without it, and once a second in any case, the
file is looked at. Either way it is read when it has been left alone for a moment, so what is half-written is not read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread

from lbclient.core.checks import check_number
from lbclient.core.source import Said, Source, Trouble
from lbclient.discovery.fleet_file import FORMATS, format_of, parse

Signature: TypeAlias = tuple[int, int, int]

NOTICED_WITHIN_MS = 50  # how often watchfiles looks whether something was told, or it is to stop


class File(Source):
    """Says the backends that a YAML, JSON or TOML file lists.

    Args:
        path: The file.
        format: "yaml", "json" or "toml"; None: as its name says.
        interval: Seconds between two looks, whatever the operating system tells; > 0.
        settle: Seconds that the file has to be left alone before it is read; >= 0.

    Raises:
        ValueError, TypeError: An argument is out of its range. A file that is not there yet is not a mistake.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002  # the word that users look for
        interval: float = 1.0,
        settle: float = 0.05,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path is {path!r}; write the path of a file, like 'backends.yaml'")
        self._path = Path(path)
        if format is None:
            format = format_of(self._path)  # noqa: A001
        elif format not in FORMATS.values():
            raise ValueError(f"format is {format!r}; write 'yaml', 'json' or 'toml'")
        self._format = format
        self._interval = check_number("interval", interval, above=0)
        self._settle = check_number("settle", settle, at_least=0)

    def __str__(self) -> str:
        return f"file {self._path}"

    async def watch(self) -> AsyncIterator[Said]:
        """See `Source`."""
        seen: Signature | None = None
        said: Said = ()
        stop = threading.Event()
        try:
            looks = _looks(self._path, self._interval, stop)
            while True:
                try:
                    signature = await self._settled()
                    if signature != seen:
                        seen, said = signature, await anyio.to_thread.run_sync(self._read)
                except OSError as exc:
                    seen, said = None, Trouble(f"{exc.strerror}: {self._path}")
                yield said
                if looks is None:
                    await anyio.sleep(self._interval)
                else:
                    await anyio.to_thread.run_sync(partial(next, looks, None), abandon_on_cancel=True)
        finally:
            stop.set()  # the thread is left to itself, and ends within NOTICED_WITHIN_MS

    async def _settled(self) -> Signature:
        """The file as it is once nobody writes it any more."""
        signature = _signature(self._path)
        while self._settle:
            await anyio.sleep(self._settle)
            before, signature = signature, _signature(self._path)
            if signature == before:
                break
        return signature

    def _read(self) -> Said:
        try:
            return parse(self._path.read_text(encoding="utf-8"), self._format, self._path.name)
        except ValueError as exc:  # the file's own mistakes, UTF-8 included
            return Trouble(str(exc))


def _signature(path: Path) -> Signature:
    found = path.stat()  # of what a link leads to
    return found.st_mtime_ns, found.st_size, found.st_ino


def _looks(path: Path, interval: float, stop: threading.Event) -> Iterator[object] | None:
    """Each `next` of it blocks until there may be something new, `interval` at most; None without watchfiles."""
    watch: Callable[..., Iterator[object]]
    try:
        from watchfiles import watch
    except ImportError:
        return None
    return watch(
        path.parent,
        watch_filter=None,
        step=NOTICED_WITHIN_MS,
        stop_event=stop,
        rust_timeout=max(1, round(interval * 1000)),
        yield_on_timeout=True,
        recursive=False,
    )
