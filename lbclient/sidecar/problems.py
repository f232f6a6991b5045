"""What pydantic found, in the words of the configuration file: the line, the value, and what to write instead."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lbclient.sidecar.document import Document, Key, Problem
from lbclient.sidecar.section import SECRETS

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
}
_BOUNDS = {"greater_than": ("above", "gt"), "greater_than_equal": ("of at least", "ge"),
           "less_than": ("below", "lt"), "less_than_equal": ("of at most", "le")}  # fmt: skip


def problems_of(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """All that is wrong with a document.

    Args:
        error: What its validation raised.
        document: What was validated.
        model: As what.
    """
    found: dict[tuple[int, str], list[str]] = {}
    for each in error.errors(include_url=False):
        path = each["loc"]
        missing = each["type"] == "missing"
        taken, line, value = document.find(path[:-1] if missing else path)
        words = _words(each, taken, value, path, model)
        if (
            each["type"] == "value_error"
        ):  # an object's own words begin with the name of the value they are about
            name = words.partition(" ")[0]
            inside, at, _ = document.find((*taken, name))
            line = at if len(inside) > len(taken) else line
        found.setdefault((line, in_words(taken)), []).append(words)
    return [Problem(document.file, line, place, _joined(words)) for (line, place), words in found.items()]


def in_words(path: Sequence[Key]) -> str:
    """A place in the document: "pools.api.backends[0].weight"."""
    words = ""
    for step in path:
        words += f"[{step}]" if isinstance(step, int) else f".{step}" if words else step
    return words


def _words(
    error: ErrorDetails, taken: tuple[Key, ...], value: object, path: tuple[Key, ...], model: type[BaseModel]
) -> str:
    kind, context = error["type"], error.get("ctx", {})
    shown = "is not shown here" if SECRETS & set(map(str, taken)) else f"is {_shown(value)}"
    if kind == "missing":
        return f"{path[-1]!r} is missing"
    if kind == "extra_forbidden":
        return _unknown(path, model)
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"{shown}; write {context['expected']}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{shown}; write a number {words} {context[name]}"
    if kind in ("too_short", "string_too_short"):
        return f"{shown}; write at least {context.get('min_length', 1)}"
    if kind in _WANTED:
        quoted = (
            " (in quotes, or YAML reads it as something else)"
            if kind == "string_type" and not isinstance(value, (dict, list))
            else ""
        )
        return f"{shown}; write {_WANTED[kind]}{quoted}"
    return f"{shown}: {error['msg']}"


def _joined(words: list[str]) -> str:
    """Of the branches of a union each says what it wants."""
    first, *others = dict.fromkeys(words)
    return " or ".join([first, *(other.rpartition("; write ")[2] for other in others)])


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unknown(path: tuple[Key, ...], model: type[BaseModel]) -> str:
    name = path[-1]
    known = sorted(_section_at(model, path[:-1]).model_fields)
    close = difflib.get_close_matches(str(name), known, 1)
    if close:
        return f"is unknown; did you mean {close[0]!r}?"
    return f"is unknown; write one of: {', '.join(known)}"


def _section_at(model: type[BaseModel], path: Sequence[Key]) -> type[BaseModel]:
    """The section that stands at `path`: the path's names of fields lead there, everything else is in between."""
    here = model
    for step in path:
        field = here.model_fields.get(step) if isinstance(step, str) else None
        for section in _sections_in(None if field is None else field.annotation):
            here = section
    return here


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _sections_in(argument)
