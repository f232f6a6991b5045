"""Fixtures of the ASGI tests."""

from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from lbclient.asgi.types import App
from tests.asgi.hosting import Host


class Serve(Protocol):
    """The type of the `serve` fixture; the options are uvicorn's."""

    def __call__(self, app: App, **options: Any) -> Host: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves ASGI apps until the test ends."""
    hosts: list[Host] = []

    def serve_one(app: App, **options: Any) -> Host:
        hosts.append(Host(app, **options))
        return hosts[-1]

    yield serve_one
    for host in hosts:
        host.stop()
