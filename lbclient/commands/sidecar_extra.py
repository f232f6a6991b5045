"""What the sidecar's commands need, and what is said when it is not there."""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = ("prometheus_client", "pydantic", "starlette", "uvicorn", "yaml")


def missing_extra(command: str) -> bool:
    """Whether a module of the extra is not installed; if so, says how to install it."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"lbclient {command} needs {', '.join(missing)}; install the extra with: pip install 'lbclient[sidecar]'",
            file=sys.stderr,
        )
    return bool(missing)
