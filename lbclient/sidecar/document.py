"""A YAML document that knows on which line each of its values stands."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml

Key: TypeAlias = str | int
Data: TypeAlias = "dict[Any, Any] | list[Any] | str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a configuration file that has to be written differently.

    Attributes:
        file: Where.
        line: On which line, from 1.
        place: Which value, as in "pools.api.probe.interval"; empty for the document as a whole.
        message: What is wrong, and what to write instead.
    """

    file: str
    line: int
    place: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (f"{self.file}:{self.line}", self.place, self.message) if part)


class ConfigurationError(ValueError):
    """The configuration cannot be used.

    Attributes:
        problems: All that was found, by line.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line, problem.place)))
        super().__init__("\n".join(map(str, self.problems)))


class Document:
    """The data of a YAML text, and the lines of it.

    Args:
        text: YAML; anchors and merge keys (`<<`) may be used.
        file: Its name, for the messages.

    Raises:
        ConfigurationError: It is no YAML, is not a mapping, or names a key twice.
    """

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._lines: dict[int, dict[Hashable, int]] = {}  # by the id of a dict or list of `data`
        self._made: dict[int, Data] = {}  # by the id of a node: anchors share one
        self._open: set[int] = set()
        self._problems: list[Problem] = []
        loader: yaml.SafeLoader | None = None
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            data = {} if node is None else self._value(loader, node)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            line = 1 if mark is None else mark.line + 1
            words = ", ".join(part for part in (exc.context, exc.problem) if part)
            raise ConfigurationError([Problem(file, line, "", f"not YAML: {words}")]) from exc
        except yaml.YAMLError as exc:
            raise ConfigurationError([Problem(file, 1, "", f"not YAML: {exc}")]) from exc
        finally:
            if loader is not None:
                loader.dispose()
        if self._problems:
            raise ConfigurationError(self._problems)
        if not isinstance(data, dict):
            raise ConfigurationError(
                [Problem(file, 1, "", "the document is no mapping; write 'pools:' first")]
            )
        self.data: dict[Any, Any] = data

    @classmethod
    def read(cls, path: Path) -> Document:
        """The document in a file.

        Raises:
            ConfigurationError: It cannot be read, or see above.
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            words = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise ConfigurationError([Problem(str(path), 1, "", f"cannot be read: {words}")]) from exc
        return cls(text, str(path))

    def find(self, path: Sequence[Key]) -> tuple[tuple[Key, ...], int, Data]:
        """Where `path` leads, as far as it can be followed.

        Steps that lead nowhere are left out: they are a validator's, not the document's.

        Returns:
            The steps that were taken, the line, and what is there.
        """
        here: Data = self.data
        line = 1
        taken: list[Key] = []
        for step in path:
            lines = self._lines.get(id(here), {})
            if step in lines:
                taken.append(step)
                line = lines[step]
                here = cast("dict[Key, Data]", here)[step]
        return tuple(taken), line, here

    def _value(self, loader: yaml.SafeLoader, node: yaml.Node) -> Data:
        known = self._made.get(id(node))
        if known is not None:
            return known
        if id(node) in self._open:
            raise yaml.constructor.ConstructorError(None, None, "a value contains itself", node.start_mark)
        self._open.add(id(node))
        value: Data
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(loader, node)
        elif isinstance(node, yaml.SequenceNode):
            value = [self._value(loader, item) for item in node.value]
            self._lines[id(value)] = {
                at: item.start_mark.line + 1 for at, item in enumerate(cast("list[yaml.Node]", node.value))
            }
        else:
            value = _plain(loader, node)
        self._open.discard(id(node))
        self._made[id(node)] = value
        return value

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        own: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                words = "a key is a list or a mapping; write a name"
                raise yaml.constructor.ConstructorError(None, None, words, key.start_mark)
            line = key.start_mark.line + 1
            if key.value in own and key.tag != "tag:yaml.org,2002:merge":
                words = f"{key.value!r} stands here and on line {own[key.value]}; write it once"
                self._problems.append(Problem(self.file, line, "", words))
            own[key.value] = line
        loader.flatten_mapping(node)
        found: dict[Any, Any] = {}
        lines: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            name: Any = _plain(loader, key_node)
            found[name] = self._value(loader, value_node)
            lines[name] = key_node.start_mark.line + 1
        self._lines[id(found)] = lines
        return found


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> Data:
    """What a node says, where that is no list and no mapping."""
    return cast(Data, loader.construct_object(node))  # pyright: ignore[reportUnknownMemberType]  # no types upstream
