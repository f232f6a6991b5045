"""Ports that stay free while a server is down."""

import random
import socket

FIRST, LAST = 18_000, 32_000
"""Below Linux' ephemeral range (32768 and up): no outgoing connection takes the port of a killed server."""

_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on, never the same one again: connecting to it is refused, binding to it works."""
    rng = random.SystemRandom()  # not the seeded one: tests that seed random must not meet on one port
    for _ in range(1000):
        port = rng.randrange(FIRST, LAST)
        if port in _given:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")
