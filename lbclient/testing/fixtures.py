"""pytest fixtures: write `pytest_plugins = ["lbclient.testing.fixtures"]` in your conftest.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lbclient.testing.backends import FakeBackends
from lbclient.testing.clock import FakeClock


@pytest.fixture
def fake_clock() -> FakeClock:
    """For `Pool(clock=fake_clock)`: stands still until `fake_clock.advance(seconds)`."""
    return FakeClock()


@pytest.fixture
def fake_backends(fake_clock: FakeClock) -> Callable[..., FakeBackends]:
    """Makes `FakeBackends` whose answers take time of `fake_clock`; the arguments are theirs."""

    def make(backends: int | list[str] = 3) -> FakeBackends:
        return FakeBackends(backends, clock=fake_clock)

    return make
