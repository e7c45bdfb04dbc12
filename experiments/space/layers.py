"""Layers of configuration: one function merges them and remembers where each value came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from experiments.space.fields import (
    LEVEL_TABLES,
    SECTION_TABLES,
    canonical_level,
    is_level,
    level_table,
    recipe_path,
    sections,
)
from experiments.space.yaml_text import Document
from mer import levels
from mer.errors import UserError, UserErrors, unknown
from mer.recipe import Recipe


@dataclass(frozen=True)
class Layer:
    """Assignments of recipe paths, in order, each with the place where it was written."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document, name: str) -> Layer:
        """A mapping of recipe fields, nested or dotted, as assignments.

        A section (`optimizer`) is assigned field by field, a level (`fusion`) as a whole when it has a name, and
        `encoders` as a whole: what a layer says of encoders replaces what lower layers said.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for path, value, lines in _flatten(document, name):
            if path in values:
                raise UserError(f"{path} is set twice", where=lines[path], hint=f"Also at {sources[path]}.")
            values[path] = value
            sources |= lines
        return cls(name, values, sources)


def lines_of(path: str, value: Any, document: Document, at: tuple[str | int, ...], where: str) -> dict[str, str]:
    """Where a path was written, and every part of what is assigned to it."""
    found = {path: where}
    for key, item in value.items() if isinstance(value, Mapping) else ():
        found |= lines_of(f"{path}.{key}", item, document, (*at, key), document.where(*at, key) or where)
    return found


def _flatten(document: Document, name: str) -> Iterator[tuple[str, Any, dict[str, str]]]:
    if not isinstance(document.data, Mapping):
        raise UserError(f"expected recipe fields, found {document.data!r}", where=document.where())
    for key, value in document.data.items():
        where = document.where(key) or name
        yield from _assign(recipe_path(key, where), value, document, (key,), where)


def _assign(
    path: str, value: Any, document: Document, at: tuple[str | int, ...], where: str
) -> Iterator[tuple[str, Any, dict[str, str]]]:
    section = sections().get(path)
    if section is not None and isinstance(value, Mapping):
        for key, item in value.items():
            line = document.where(*at, key) or where
            if key.split(".")[0] not in section.model_fields:
                raise unknown(f"key of {path}", key, section.model_fields, line)
            yield from _assign(f"{path}.{key}", item, document, (*at, key), line)
    elif is_level(path) and isinstance(value, Mapping) and "name" not in value:
        for key, item in value.items():
            inner = f"{path}.{key}"
            yield inner, item, lines_of(inner, item, document, (*at, key), document.where(*at, key) or where)
    else:
        yield path, value, lines_of(path, value, document, at, where)


def overlaps(one: str, other: str) -> bool:
    """Do two paths write the same thing?"""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay the layers over each other. Returns plain recipe data and the source of each path that was set."""
    data: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for path, value in layer.values.items():
            where = layer.sources.get(path, layer.name)
            sources = {known: line for known, line in sources.items() if not known.startswith(f"{path}.")}
            sources |= {known: line for known, line in layer.sources.items() if known.startswith(f"{path}.")}
            sources[path] = where
            _set(data, path, value, where)
        _keep_order(data, layer)
    return data, sources


def _keep_order(data: dict[str, Any], layer: Layer) -> None:
    """A layer that takes encoders away or adds some leaves the others in their order; what it adds comes last."""
    order, encoders = data.get("modalities"), data.get("encoders")
    if not isinstance(order, list) or not isinstance(encoders, dict) or "modalities" in layer.values:
        return
    if any(path.split(".")[0] == "encoders" for path in layer.values):
        kept = [name for name in order if name in encoders]
        data["modalities"] = [*kept, *(name for name in encoders if name not in kept)]


def _set(data: dict[str, Any], path: str, value: Any, where: str) -> None:
    parts = path.split(".")
    for i, part in enumerate(parts[:-1]):
        child = data.setdefault(part, {})
        if isinstance(child, str) and is_level(".".join(parts[: i + 1])):
            child = data[part] = {"name": child}
        if not isinstance(child, dict):
            raise UserError(f"{path}: {'.'.join(parts[: i + 1])} is {child!r}, which has no keys", where=where)
        data = child
    if value is None and len(parts) == 2 and parts[0] == "encoders":
        data.pop(parts[-1], None)  # `encoders.audio: null` takes the modality away
    else:
        data[parts[-1]] = _copy(value)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def resolve(layers: Iterable[Layer]) -> tuple[Recipe, dict[str, str]]:
    """The recipe of layered configuration and where each of its values came from.

    Layers in order: defaults (the recipe's own), include, base, level, draw, `--set`.
    """
    data, sources = merge(layers)
    return validate(canonical(data, sources), sources), sources


def canonical(data: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """Levels checked against their declarations, parameters at their default dropped."""
    for head in LEVEL_TABLES:
        found = data.get(head)
        if head == "encoders":
            if not isinstance(found, dict):
                continue
            for modality, level in found.items():
                found[modality] = _canonical(f"encoders.{modality}", level, sources)
        elif found is not None:
            data[head] = _canonical(head, found, sources)
    for section, table in SECTION_TABLES.items():
        found = data.get(section, {})
        if isinstance(found, dict) and isinstance(found.get("name"), str):
            _check_named(section, found, level_table(table), sources)
    return data


def _check_named(section: str, found: Mapping[str, Any], table: Mapping[str, str], sources: Mapping[str, str]) -> None:
    """A sampler or a loss: its name, and the options of a loss from outside."""
    target = levels.target(table, found["name"], section, source_of(sources, f"{section}.name"))
    options = found.get("options")
    if isinstance(options, dict) and options:
        where = source_of(sources, f"{section}.options")
        if found["name"] in table:
            raise UserError(
                f"{section} {found['name']!r} takes no options", where=where, hint="Its fields stand beside."
            )
        place = lambda name: source_of(sources, f"{section}.options.{name}")  # noqa: E731
        levels.check_parameters(target, options, section, where, place)


def _canonical(path: str, level: Any, sources: Mapping[str, str]) -> Any:
    where = source_of(sources, path)
    if isinstance(level, str):
        level = {"name": level}
    if not isinstance(level, dict) or not isinstance(level.get("name", ""), str):
        raise UserError(f"{path} must be a name or a mapping with a name, not {level!r}", where=where)
    if "name" not in level:
        default = Recipe.model_fields[path].default.name if path in Recipe.model_fields else None
        if default is None:
            raise UserError(f"{path} has parameters but no name", where=where)
        level = {"name": default, **level}
    return canonical_level(path, level, partial(source_of, sources))


def validate(data: dict[str, Any], sources: Mapping[str, str]) -> Recipe:
    """Recipe data as a recipe; every mistake with the place of the layer that set it."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise _as_user_error(error, sources) from None


def _as_user_error(error: ValidationError, sources: Mapping[str, str]) -> UserError:
    found: list[UserError] = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
        where = source_of(sources, path)
        parent, _, name = path.rpartition(".")
        if problem["type"] == "extra_forbidden" and parent in sections():
            found.append(unknown(f"key of {parent or 'the recipe'}", name, sections()[parent].model_fields, where))
        else:
            found.append(UserError(f"{path}: {problem['msg']}, found {problem['input']!r}", where=where))
    return found[0] if len(found) == 1 else UserErrors(found)


def source_of(sources: Mapping[str, str], path: str) -> str | None:
    """Where a path was set: itself, the nearest part above it, or the first below it."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        key = ".".join(parts[:end])
        if key in sources:
            return sources[key]
    return next((line for key, line in sources.items() if key.startswith(f"{path}.")), None)
