"""What a module imports to have its tests run over every engine and event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lbclient._async.engine import HttpcoreEngine

ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "asyncio-httpcore": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@pytest.fixture(params=ENGINES)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """In place of the fixture that runs every test on asyncio and on trio."""
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop")
    with pytest.MonkeyPatch.context() as patch:
        if name == "asyncio-httpcore":
            patch.setattr("lbclient._async.pool_io.engine_class", lambda pool: HttpcoreEngine)
        yield ENGINES[name]


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def native(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loops that the native engine runs on."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return ENGINES[request.param]
