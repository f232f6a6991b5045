"""A mapping that stays as it is: what frozen configuration keeps of the mappings it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

_V = TypeVar("_V")


class FrozenMapping(Mapping[str, _V]):
    """A copy of `items` that nobody changes.

    `types.MappingProxyType` would be one, but it can be neither pickled nor deep-copied, and configuration goes to
    other processes and through `dataclasses.asdict`.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, _V]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> _V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)
