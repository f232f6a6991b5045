"""The end of the demo in words, the same for a terminal and a log."""

from __future__ import annotations

from lbclient.demo.story import Phase, Story

Section = tuple[str, list[str]]


def summary(story: Story) -> list[Section]:
    """Sections, each with a title and its lines."""
    sections = [
        ("Requests", _requests(story)),
        ("Share of the requests", _shares(story)),
        ("What happened when", [f"{event.at:6.2f} s  {event.text}" for event in story.events]),
    ]
    sections += [(f"{kind}, explained", text.splitlines()) for kind, text in story.examples.items()]
    return sections


def _requests(story: Story) -> list[str]:
    lines = [
        f"{story.total:5} answered",
        f"{story.failed_over:5} of them failed over: the dead server got nothing, another one got them",
        f"{story.sent_again:5} of them were cut off when it died, and sent again: a GET may be",
        f"{len(story.failed):5} failed",
    ]
    lines += [f"      {reason}" for reason in story.failed[:5]]
    if story.victim is not None and story.noticed_after is not None:
        lines.append(
            f"{story.victim.name} was noticed dead {story.noticed_after * 1000:.0f} ms after it was killed"
        )
    if story.victim is not None and story.returned_after is not None:
        lines.append(
            f"{story.victim.name} served again {story.returned_after:.2f} s after it was started again"
        )
    return lines


def _shares(story: Story) -> list[str]:
    lines = [" " * 10 + "".join(f"{phase.value:>18}" for phase in Phase) + f"{'requests':>12}"]
    for server in story.servers:
        shares: list[str] = []
        for counter in story.answered.values():
            share = counter[server.name] / counter.total() if counter else 0.0
            shares.append(f"{share:>18.0%}")
        lines.append(f"{server.name:10}{''.join(shares)}{story.count_of(server.name):12}")
    return lines
