"""Where a pool's backends come from when nobody wrote them down: a source, and what the pool remembers of it.

A source says *whole sets*, never what changed. So it may say the same set again whenever it has made sure of it, it may
skip whatever came in between, and whoever listens cannot get out of step with it. What it does not know it does not
say: when it fails, the last set stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from lbclient.core.backend import Backend
from lbclient.core.members import BackendLike
from lbclient.core.status import SourceStatus


@dataclass(frozen=True, slots=True)
class Trouble:
    """Said by a source instead of a set: it could not find out who there is. The last set stays.

    Args:
        words: What went wrong, for the status and the log.
    """

    words: str


Said: TypeAlias = Iterable[BackendLike] | Trouble


class Source(ABC):
    """Says who the backends of a pool are, again and again.

    `str()` of it is its name in logs, messages and the status. One source may be watched several times at once: by two
    transports, or in two event loops.
    """

    allow_empty: bool = False
    """Whether nobody is an answer. Where it is none an empty set is trouble, and the last set stays."""

    longest_pause: float = 5.0
    """Seconds at most before `watch` is called again after it has raised; the pauses double up to this."""

    @abstractmethod
    def watch(self) -> AsyncIterator[Said]:
        """Whole sets, as an async generator: the first as soon as there is one, then one after each change.

        A set that is equal to the last one changes nothing, and tells the status that the source is well. Whatever is
        raised becomes `Trouble`, and `watch` is called again after a while. When it returns, the last set is final.
        """
        ...  # pragma: no cover - abstract

    def doubt(self) -> None:  # noqa: B027  # most have no use for it
        """Half of the backends seem to be down: a source that polls may want to ask at once. From any thread."""

    def __str__(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        return f"<{self}>"


class Supply:
    """What the source of a pool has said so far. The pool writes it, under its lock.

    Args:
        source: Whose words these are.
        initial: Who serves until it has said a set.
        clock: The pool's.
    """

    __slots__ = (
        "_clock",
        "_succeeded_at",
        "_trouble_at",
        "changes",
        "declared",
        "initial",
        "sets",
        "source",
        "trouble",
        "well",
    )

    def __init__(
        self, source: Source, initial: Iterable[BackendLike] | None, clock: Callable[[], float]
    ) -> None:
        self.source = source
        self.initial = () if initial is None else tuple(Backend.of(backend) for backend in initial)
        self.declared: tuple[Backend, ...] | None = None
        self.sets = 0
        self.changes = 0
        self.well = True
        self.trouble = ""
        self._clock = clock
        self._succeeded_at: float | None = None
        self._trouble_at: float | None = None

    def __repr__(self) -> str:
        how = f"{self.sets} sets" if self.well else f"in trouble: {self.trouble}"
        return f"<Supply from {self.source}, {how}>"

    @property
    def missing(self) -> bool:
        """Whether there is nothing to serve with: no set has come, and there is no initial one."""
        return self.declared is None and not self.initial

    def succeeded(self, declared: tuple[Backend, ...]) -> None:
        """The source said this set."""
        self.sets += 1
        self.changes += declared != self.declared
        self.declared = declared
        self.well = True
        self._succeeded_at = self._clock()

    def failed(self, words: str) -> None:
        """The source could not say a set, or said none."""
        self.well = False
        self.trouble = words
        self._trouble_at = self._clock()

    def why_nobody(self) -> str:
        """Why there is no backend at all, in words."""
        if not self.missing:
            return f"the set of {self.source} is empty"
        return f"no set from {self.source} yet" + (f": {self.trouble}" if self.trouble else "")

    def status(self) -> SourceStatus:
        """What a person wants to see of it."""
        now = self._clock()
        return SourceStatus(
            name=str(self.source),
            well=self.well,
            sets=self.sets,
            changes=self.changes,
            age=None if self._succeeded_at is None else now - self._succeeded_at,
            last_error=self.trouble,
            last_error_age=None if self._trouble_at is None else now - self._trouble_at,
        )
