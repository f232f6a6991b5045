"""For the tests of programs that use lbclient: time that stands still, and backends without a network.

backends = FakeBackends(3)
transport = AsyncBalancedTransport(backends.urls, inner=backends.inner)
backends[0].down()

`pytest_plugins = ["lbclient.testing.fixtures"]` in a conftest.py brings the fixtures `fake_clock` and `fake_backends`.
"""

from lbclient.testing.backends import FakeBackend, FakeBackends
from lbclient.testing.clock import FakeClock

__all__ = ["FakeBackend", "FakeBackends", "FakeClock"]
