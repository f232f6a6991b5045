"""A backend as files and registries write it: a URL, or a mapping with the names of `Backend`'s arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from lbclient.core.backend import Backend

NAMES = tuple(field.name for field in fields(Backend) if field.init)
_KINDS = {
    "draining": bool,
    "host": str,
    "metadata": dict,
    "uds": str,
    "zone": str,
}  # the rest Backend checks itself


def backend_of(entry: object) -> Backend:
    """The backend that an entry says.

    Raises:
        ValueError: It says none; the message says what is wrong.
    """
    arguments: dict[str, Any] = {"url": entry}
    if isinstance(entry, Mapping):
        arguments = {**cast("Mapping[str, object]", entry)}
        unknown = [key for key in arguments if key not in NAMES]
        if unknown:
            raise ValueError(f"there is no {unknown[0]!r}; allowed are {', '.join(NAMES)}")
        if "url" not in arguments:
            raise ValueError("url is missing; write it like 'http://10.0.0.5:8080'")
        for key, kind in _KINDS.items():
            value = arguments.get(key)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"{key} is {value!r}; write a {kind.__name__}")
    try:
        return Backend(arguments.pop("url"), **arguments)
    except TypeError as exc:
        raise ValueError(str(exc)) from exc
