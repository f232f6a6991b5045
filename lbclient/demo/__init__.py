"""`lbclient demo`: three real servers, one of which is killed and comes back, seen through the balancer.

server.py     what runs in a server's process
processes.py  starting, killing and ending those processes
story.py      the traffic and what happens to it; counts, and knows nothing of screens
summary.py    the end of it, in words
plain.py      a log of the story
screen.py     the story, live
"""

from __future__ import annotations

import sys

import anyio

from lbclient.algorithms import Algorithm
from lbclient.demo.plain import PlainView
from lbclient.demo.processes import ServerDied, started
from lbclient.demo.story import Story, View, play


def run(*, seconds: float, plain: bool, algorithm: Algorithm | None) -> int:
    """Play the demo on standard output.

    Args:
        seconds: How long; >= 2.
        plain: A log without colours, instead of a live screen.
        algorithm: How backends are picked; None for a pool's default.

    Returns:
        The exit code: 0, 1 when a request or a server failed, 130 after Ctrl-C.
    """
    view: View
    if plain:
        view = PlainView()
    else:
        from lbclient.demo.screen import ScreenView

        view = ScreenView()
    try:
        with started({"alpha": 0.020, "beta": 0.030, "gamma": 0.045}) as servers:
            story = Story(servers, seconds, algorithm)
            with view:
                anyio.run(play, story, view)
    except KeyboardInterrupt:
        print("interrupted; the servers are stopped", file=sys.stderr)
        return 130
    except ServerDied as exc:
        print(f"lbclient demo: {exc}", file=sys.stderr)
        return 1
    view.finish(story)
    return 1 if story.failed else 0
