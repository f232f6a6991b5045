"""The demo as a log."""

from __future__ import annotations

from types import TracebackType

from lbclient.demo.story import Event, Story
from lbclient.demo.summary import summary


class PlainView:
    """Prints what happens, and every second how it stands."""

    every = 1.0

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def happened(self, event: Event) -> None:
        """A line."""
        print(f"{event.at:6.2f} s  * {event.text}", flush=True)

    def look(self, story: Story) -> None:
        """A line for each server."""
        recent = story.recent()
        for backend in story.status().backends:
            name = story.names[backend.url]
            share = recent[name] / recent.total() if recent else 0.0
            latency = "-" if backend.latency is None else f"{backend.latency * 1000:.1f} ms"
            print(
                f"{story.now:6.2f} s    {name:6} {share:4.0%} of now, {backend.picks:4} picks,"
                f" {backend.in_flight} in flight, {latency:>7}, {backend.why}",
                flush=True,
            )

    def finish(self, story: Story) -> None:
        """The summary."""
        for title, lines in summary(story):
            print(f"\n{title}\n" + "\n".join(f"  {line}" for line in lines), flush=True)
