"""A file that lists backends, read: YAML, JSON or TOML, and every mistake told with its line.

    backends:
      - http://10.0.0.5:8080
      - url: http://10.0.0.6:8080
        weight: 2
        zone: a

The list may also stand by itself; in TOML each entry is a `[[backends]]` table. An entry is a URL, or has the names of
`Backend`'s arguments.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import PurePath
from typing import Any, TypeAlias, cast

from lbclient.core.backend import Backend
from lbclient.discovery.entry import backend_of

Lines: TypeAlias = Sequence[int]
"""Of the entries, in order; 1 is the first line."""

KEY = "backends"
_SPACE = re.compile(r"[ \t\n\r]*")
FORMATS = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


class FleetFileError(ValueError):
    """What is wrong with a file, and in which line."""

    def __init__(self, name: str, line: int, words: str) -> None:
        super().__init__(f"{name}, line {line}: {words}")


def format_of(path: PurePath) -> str:
    """The format that a file's name says it has.

    Raises:
        ValueError: It says none.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ValueError(f"{path} ends in none of {', '.join(FORMATS)}; write format=") from None


def parse(text: str, kind: str, name: str) -> tuple[Backend, ...]:
    """The backends that a file lists.

    Args:
        text: What is in it.
        kind: "yaml", "json" or "toml".
        name: Of the file, for the messages.

    Raises:
        FleetFileError: It is broken, or lists what is no backend.
        ImportError: YAML needs PyYAML.
    """
    document, lines = _READERS[kind](text, name)
    entries = document
    if isinstance(document, Mapping):
        top = cast("Mapping[object, object]", document)
        unknown = [key for key in top if key != KEY]
        if unknown or KEY not in top:
            found = ", ".join(map(repr, unknown)) or "nothing"
            raise FleetFileError(name, 1, f"it has {found}; write a list under {KEY!r}")
        entries = top[KEY]
    if not isinstance(entries, list):
        raise FleetFileError(name, 1, f"it has {str(entries)[:60]!r} instead of a list of backends")
    backends: list[Backend] = []
    line_of: dict[str, int] = {}
    for entry, line in zip(cast("list[object]", entries), chain(lines, repeat(1)), strict=False):
        try:
            backend = backend_of(entry)
        except ValueError as exc:
            raise FleetFileError(name, line, str(exc)) from exc
        if backend.url in line_of:
            first = line_of[backend.url]
            raise FleetFileError(
                name, line, f"{backend.url} is in line {first} already; use weight for a larger share"
            )
        line_of[backend.url] = line
        backends.append(backend)
    return tuple(backends)


# Each reads the document, and finds the lines of its entries


def _read_json(text: str, name: str) -> tuple[object, Lines]:
    try:
        return json.loads(text), _lines_of_json(text)
    except json.JSONDecodeError as exc:
        raise FleetFileError(name, exc.lineno, exc.msg) from None


def _lines_of_json(text: str) -> Lines:
    """`text` is known to be JSON: what stands where needs no second check."""
    decode = json.JSONDecoder().raw_decode

    def skip(position: int, passed: str = "") -> int:
        while True:
            space = _SPACE.match(text, position)
            assert space is not None
            position = space.end()
            if position == len(text) or text[position] not in passed:
                return position
            position += 1

    position = skip(0)
    while text[position : position + 1] == "{":  # up to the value of our key
        inside = skip(position, "{")
        while text[inside] != "}":
            key, inside = decode(text, inside)
            position = skip(inside, ":")
            if key == KEY:
                break
            _, inside = decode(text, position)
            inside = skip(inside, ",")
        else:
            return ()
        if text[position] == "{":
            return ()
    lines: list[int] = []
    if text[position] == "[":
        position = skip(position + 1)
        while text[position] != "]":
            lines.append(text.count("\n", 0, position) + 1)
            _, position = decode(text, position)
            position = skip(position, ",")
    return lines


def _read_toml(text: str, name: str) -> tuple[object, Lines]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        line = re.search(r"at line (\d+)", str(exc))
        last = text.count("\n") + 1
        raise FleetFileError(name, int(line[1]) if line else last, str(exc)) from None
    tables = re.finditer(rf"^[ \t]*\[\[\s*{KEY}\s*\]\]", text, re.MULTILINE)
    starts = [table.start() for table in tables]
    entries = document.get(KEY)
    if not starts and isinstance(entries, list):  # an array: look for each URL behind the one before
        position = 0
        for entry in cast("list[object]", entries):
            url: object = cast("dict[str, object]", entry).get("url") if isinstance(entry, dict) else entry
            position = max(position, text.find(str(url), position))
            starts.append(position)
            position += 1
    return document, [text.count("\n", 0, start) + 1 for start in starts]


def _read_yaml(text: str, name: str) -> tuple[object, Lines]:
    try:
        import yaml
    except ImportError as exc:
        raise ImportError("YAML needs PyYAML; install it with: pip install 'lbclient[discovery]'") from exc
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)  # the one in C, if it was built
    try:
        node = loader.get_single_node()
        document = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as exc:
        line = 1 if exc.problem_mark is None else exc.problem_mark.line + 1
        raise FleetFileError(name, line, str(exc.problem)) from None
    except yaml.YAMLError as exc:
        raise FleetFileError(name, 1, str(exc)) from None
    finally:
        loader.dispose()
    if isinstance(node, yaml.MappingNode):
        node = next((value for key, value in node.value if key.value == KEY), None)
    entries = node.value if isinstance(node, yaml.SequenceNode) else ()
    return document, [entry.start_mark.line + 1 for entry in entries]


_READERS = {"json": _read_json, "toml": _read_toml, "yaml": _read_yaml}
