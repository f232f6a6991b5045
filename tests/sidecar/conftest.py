"""The sidecar runs on asyncio, as uvicorn does."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Only this one."""
    return "asyncio"
