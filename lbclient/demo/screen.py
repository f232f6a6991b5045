"""The demo live on a terminal."""

from __future__ import annotations

import textwrap
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lbclient import BackendStatus
from lbclient.core.algorithms.picker import Algorithm
from lbclient.demo.story import Event, Story, Tone
from lbclient.demo.summary import summary

_COLOURS = ("cyan", "magenta", "yellow")
_TONES = {Tone.ACT: "bold", Tone.BAD: "red", Tone.GOOD: "green"}
_BAR = 12
LEAST_EVENTS = 2
_WIDE = 100  # columns from which there is room for more


class ScreenView:
    """Draws the story again and again; the summary stays when it is over.

    Args:
        console: Where to; standard output when left out.
    """

    every = 0.125

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> ScreenView:
        self._live.update(Text("starting three servers ..."), refresh=True)
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def happened(self, event: Event) -> None:
        """It will be in the next drawing."""

    def look(self, story: Story) -> None:
        """Draw."""
        self._live.update(self.draw(story), refresh=True)

    def finish(self, story: Story) -> None:
        """The summary, in colours."""
        for title, lines in summary(story):
            self.console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                style = _summary_style(line, story)
                for part in _wrapped(f"  {line}", self.console.width):
                    self.console.print(Text(part, style=style))

    def draw(self, story: Story) -> RenderableType:
        """The whole screen, in what room there is."""
        width, height = self.console.size
        kind, explained = story.shown
        lines = [part for line in explained.splitlines() for part in _wrapped(f"  {line}", width)]
        above: list[RenderableType] = [
            _headline(story),
            _counts(story),
            Text(),
            _backends(story, width),
            Text(),
        ]
        left = height - self._rows(above) - 1 - LEAST_EVENTS  # one for the headline of the events
        below: list[RenderableType] = []
        if lines and left > 2:
            if len(lines) > left - 2:
                lines[left - 3 :] = ["  ..."]
            below = [
                Text(),
                Text(f"{kind}, explained", style="bold"),
                *(Text(line, style="dim") for line in lines),
            ]
        room = max(LEAST_EVENTS, LEAST_EVENTS + left - self._rows(below))
        events = [_event(event) for event in story.events[-room:]]
        return Group(*above, Text("What happened", style="bold"), *events, *below)

    def _rows(self, parts: list[RenderableType]) -> int:
        return sum(len(self.console.render_lines(part)) for part in parts)


def _wrapped(line: str, width: int) -> list[str]:
    """The line in pieces that fit, the later ones further in."""
    indent = " " * (len(line) - len(line.lstrip()) + 3)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False)


def _headline(story: Story) -> Text:
    now = min(story.now, story.seconds)
    done = int(20 * now / story.seconds)
    return Text.assemble(
        ("lbclient demo", "bold"),
        f"   {_name(story.pool.algorithm)}   ",
        ("━" * done, "green"),
        ("╌" * (20 - done), "bright_black"),
        f" {now:4.1f} of {story.seconds:g} s",
    )


def _name(algorithm: Algorithm) -> str:
    return str(getattr(algorithm, "name", type(algorithm).__name__))


def _backends(story: Story, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), width=width - 1)
    table.add_column("backend", no_wrap=True, min_width=14 if width >= _WIDE else 7)
    table.add_column("share now", no_wrap=True, min_width=_BAR + 5)
    table.add_column("requests", justify="right", no_wrap=True, min_width=8)
    table.add_column("in flight", justify="right", no_wrap=True, min_width=9)
    table.add_column("latency", justify="right", no_wrap=True, min_width=7)
    table.add_column("state", no_wrap=True, overflow="ellipsis", ratio=1)
    recent = story.recent()
    for index, backend in enumerate(story.status().backends):
        name = story.names[backend.url]
        colour = _COLOURS[index % len(_COLOURS)]
        share = recent[name] / recent.total() if recent else 0.0
        full = round(share * _BAR)
        bar = Text.assemble(("█" * full, colour), ("·" * (_BAR - full), "bright_black"), f" {share:4.0%}")
        latency = "" if backend.latency is None else f"{backend.latency * 1000:.1f} ms"
        label = Text(name, style=colour)
        if width >= _WIDE:
            label.append(f" :{backend.url.rpartition(':')[2]}", style="dim")
        table.add_row(
            label,
            bar,
            str(story.count_of(name)),
            str(backend.in_flight),
            latency,
            Text(backend.why, style=_state_style(backend)),
        )
    return table


def _state_style(backend: BackendStatus) -> str:
    if backend.why == "available":
        return "green"
    return "yellow" if backend.available else "bold red"


def _counts(story: Story) -> Text:
    text = Text.assemble(
        (f"{story.total}", "bold"),
        f" answered ({story.recent().total()}/s), ",
        (f"{story.failed_over}", "bold"),
        " failed over, ",
        (f"{story.sent_again}", "bold"),
        " cut off and sent again, ",
    )
    text.append(f"{len(story.failed)} failed", style="bold red" if story.failed else "bold green")
    return text


def _event(event: Event) -> Text:
    text = Text(f"{event.at:6.2f} s  {event.text}", style=_TONES[event.tone])
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _summary_style(line: str, story: Story) -> str:
    for event in story.events:
        if line.endswith(f" s  {event.text}"):
            return _TONES[event.tone]
    if line.endswith(" failed"):
        return "bold red" if story.failed else "bold green"
    return ""
