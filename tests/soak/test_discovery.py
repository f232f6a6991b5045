"""Registries that change and fail under load, for longer: named away for 10 s, 50 changes, 1,000 changes a second."""

from __future__ import annotations

import pytest

from tests.discovery import test_under_load
from tests.discovery.test_under_load import anyio_backend as anyio_backend
from tests.discovery.test_under_load import etcd as etcd
from tests.discovery.test_under_load import named as named
from tests.discovery.test_under_load import running as running
from tests.discovery.test_under_load import test_churn as test_churn
from tests.discovery.test_under_load import test_dns as test_dns
from tests.discovery.test_under_load import test_etcd as test_etcd
from tests.discovery.test_under_load import (
    test_haproxy_ends_at_the_same_set as test_haproxy_ends_at_the_same_set,
)

LONG = {
    "TIMES": 8,
    "CLIENTS": 30,
    "AWAY": 10.0,
    "CHANGES": 50,
    "SLICES": 50,
    "ENDPOINTS": 100,
    "PER_SECOND": 1000,
    "SECONDS": 10.0,
}


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LONG.items():
        monkeypatch.setattr(test_under_load, name, value)
