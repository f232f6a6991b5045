"""One event loop is enough here: what differs between them is tested for httpx."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """asyncio, and with it the native engine."""
    return "asyncio"
