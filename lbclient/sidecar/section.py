"""What the sections of a configuration have in common: strict types, no unknown keys, and values with units.

A section describes one object of lbclient's and makes it (`build`). It hands on what was written and nothing else, so
defaults and the last word on ranges are the object's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict

SECRETS = frozenset({"secret", "token", "password", "store"})
"""The keys whose values no message shows."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


class Section(BaseModel):
    """A part of the configuration. Equal to another one when the same was written."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    def given(self, *without: str) -> dict[str, Any]:
        """What was written, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set if name not in without}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, "..." if name in SECRETS and value is not None else value


class Built(Section):
    """A section that describes an object; whatever that object refuses is a problem of the section."""

    def build(self) -> object:
        """The object.

        Raises:
            ValueError, TypeError, ImportError: It refuses what was written; the message says what to write.
        """
        raise NotImplementedError

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        try:
            self.build()
        except (TypeError, ImportError) as exc:
            raise ValueError(str(exc)) from exc
        return self


def home_of(info: ValidationInfo) -> Path:
    """The directory of the configuration file, which relative paths in it start from."""
    context = cast("Mapping[str, Any] | None", info.context)
    return Path.cwd() if context is None else cast(Path, context["home"])


def as_seconds(value: object) -> object:
    """Text such as "500ms" as seconds; anything else as it is.

    Raises:
        ValueError: It is text, and no duration.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(
                f"{value!r} is no duration; write seconds, or a number and a unit, like '500ms' or '5m'"
            )
        return float(match[1]) * _UNITS[match[2]]
    return value


Seconds: TypeAlias = Annotated[
    float,
    BeforeValidator(as_seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": rf"^{_DURATION.pattern}$"},
            ],
            "description": "Seconds, or a number with a unit: ms, s, m, h, d.",
        }
    ),
]
"""A duration: seconds, or text such as "500ms"."""


def _off(value: object) -> object:
    return None if value is False else value


Off = BeforeValidator(_off, json_schema_input_type=Any)
"""`off`, as YAML reads it, is the same as null: there is none."""


def _path(value: object, info: ValidationInfo) -> object:
    return str(home_of(info) / value) if isinstance(value, str) and value else value


FilePath: TypeAlias = Annotated[str, Field(min_length=1), BeforeValidator(_path)]
"""The path of a file, relative to the configuration's directory."""


def secret_text(value: object, info: ValidationInfo) -> object:
    """What `{env: NAME}` or `{file: PATH}` stands for; anything that is no mapping stands for itself."""
    if not isinstance(value, dict):
        return value
    source = cast("dict[object, object]", value)
    if set(source) == {"env"} and isinstance(source["env"], str):
        found = os.environ.get(source["env"])
        if not found:
            raise ValueError(f"the environment variable {source['env']} is not set, or empty")
        return found
    if set(source) == {"file"} and isinstance(source["file"], str):
        path = home_of(info) / source["file"]
        try:
            text = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ValueError(f"{path} cannot be read: {exc}") from exc
        if not text:
            raise ValueError(f"{path} is empty")
        return text
    raise ValueError("write the text itself, {env: NAME} or {file: PATH}")


SecretText: TypeAlias = Annotated[
    str,
    BeforeValidator(secret_text),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"env": {"type": "string"}},
                    "required": ["env"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {"file": {"type": "string"}},
                    "required": ["file"],
                    "additionalProperties": False,
                },
            ],
            "description": "The text, or where it is kept: an environment variable or a file.",
        }
    ),
]
"""Text that is better kept outside the file: `{env: NAME}` or `{file: PATH}`."""

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Status: TypeAlias = Annotated[int, Field(ge=100, le=599)]


def short_form(name: str) -> Any:
    """A schema in which a section may also be written as the text that is its `name`."""

    def widen(schema: JsonDict) -> None:
        whole = dict(schema)
        schema.clear()
        properties = cast("dict[str, Any]", whole["properties"])
        schema["anyOf"] = cast(
            Any, [{"type": "string", "description": properties[name]["description"]}, whole]
        )

    return widen


class CertificateSection(Section):
    """A certificate and its key, in PEM files."""

    certificate: FilePath
    """The certificate, followed by those of its issuers."""
    key: FilePath | None = None
    """Its key; by default it stands in the certificate's file."""
    password: SecretText | None = None
    """The key's."""
