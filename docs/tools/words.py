"""Types and defaults in words, for the tables of the made pages."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mer import levels
from mer.recipe import EncoderConfig, LevelConfig

PLAIN = {
    str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "anything",
}  # fmt: skip
TITLES = {"EncoderConfig": "Encoder", "MissingConfig": "Missing protocol", "TuneOverride": "Override"}
SCALAR = {str, int, float, bool}


def type_words(annotation: Any) -> str:
    """A type as a reader of YAML knows it; models are links to their tables.

    >>> type_words(int | None), type_words(list[str]), type_words(Literal["a", "b"])
    ('whole number or null', 'list of text', '`a` or `b`')
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if origin is Annotated:
        return type_words(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        if set(inner) >= SCALAR:
            rest = [type_words(part) for part in inner if part not in SCALAR]
            return " or ".join(["a value", *rest])
        return " or ".join(type_words(part) for part in inner)
    if origin in (list, tuple):
        return f"list of {type_words(inner[0])}"
    if origin is dict:
        return "mapping" if inner[1] is Any else f"mapping to {type_words(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, LevelConfig) and annotation is not EncoderConfig:
        return "level"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{title(annotation)}](#{title(annotation).replace(' ', '-').lower()})"
    return str(annotation)


def source_words(annotation: str) -> str:
    """The same for an annotation as the source of a level writes it."""
    return type_words(eval(annotation, {"Literal": Literal}))


def bounds(info: FieldInfo) -> str:
    """What a number must keep to.

    >>> from mer.recipe import Projection
    >>> bounds(Projection.model_fields["dropout"])
    ', 0 to below 1'
    """
    low = next((m.ge for m in info.metadata if isinstance(m, Ge)), None)
    above = next((m.gt for m in info.metadata if isinstance(m, Gt)), None)
    high = next((m.le for m in info.metadata if isinstance(m, Le)), None)
    below = next((m.lt for m in info.metadata if isinstance(m, Lt)), None)
    start = f"{low}" if low is not None else f"above {above}" if above is not None else ""
    end = f"to {high}" if high is not None else f"to below {below}" if below is not None else ""
    if start and not end:
        return f", at least {low}" if low is not None else f", {start}"
    return f", {' '.join(part for part in (start, end) if part)}" if start or end else ""


def default_words(value: Any) -> str:
    """A default as YAML writes it; a model's own defaults are in its table."""
    if value is levels.REQUIRED or value is PydanticUndefined:
        return "required"
    if isinstance(value, EncoderConfig | LevelConfig):
        return f"`{value.name}`"
    if isinstance(value, BaseModel):
        return "see there"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return "`{}`" if value == {} else "none" if value == "" else f"`{value}`"


def title(model: type[BaseModel]) -> str:
    """How a model's table is headed: `FoldsModel` is `Folds`."""
    name = model.__name__
    return TITLES.get(name, name.removesuffix("Model"))
