"""A space file's document as a `Space`; every mistake with its line, all of them at once."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import ValidationError

from experiments.space.model import Space
from experiments.space.yaml_text import Document
from mer.errors import UserError, UserErrors, unknown


def read_space(document: Document) -> Space:
    """A document as a space; every mistake with its line, all of them at once."""
    if not isinstance(document.data, dict):
        raise UserError("expected a mapping with corpora, base, factors, ...", where=document.where())
    if "direction" in document.data:
        raise UserError(
            "a space says no direction any more",
            where=document.where("direction"),
            hint="Which end of a metric is the better one, the metric itself says: remove this line.",
        )
    try:
        return Space.model_validate(document.data)
    except ValidationError as error:
        found = [_as_user_error(problem, document) for problem in error.errors()]
    raise found[0] if len(found) == 1 else UserErrors(found)


def _as_user_error(problem: Any, document: Document) -> UserError:
    path = _known_path(problem["loc"], document)
    where = document.where(*path)
    name = ".".join(str(part) for part in path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return unknown(f"key of {'.'.join(map(str, path[:-1])) or 'a space'}", path[-1], _keys_at(path[:-1]), where)
    if kind == "missing":
        return UserError(f"{'.'.join(str(part) for part in problem['loc'])} is missing", where=where)
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "value_error":
        return UserError(f"{name}: {message}", where=where)
    shown = repr(problem["input"])
    return UserError(f"{name}: {message}, found {shown if len(shown) < 60 else shown[:57] + '...'}", where=where)


def _known_path(loc: tuple[str | int, ...], document: Document) -> tuple[str | int, ...]:
    """The part of pydantic's location that exists in the document (it adds names of types and unfolded forms)."""
    found: list[str | int] = []
    data = document.data
    for part in loc:
        if isinstance(data, dict) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        found.append(part)
    return tuple(found)


def _keys_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys that a space may have at a path."""
    model: Any = Space
    for part in path:
        if isinstance(part, int) or not hasattr(model, "model_fields"):
            continue
        info = model.model_fields.get(part)
        if info is None:
            continue
        models = [kind for kind in _leaves(info.annotation) if hasattr(kind, "model_fields")]
        model = models[0] if models else model
    return [info.alias or name for name, info in model.model_fields.items()]


def _leaves(annotation: Any) -> list[Any]:
    inner = typing.get_args(annotation)
    return [leaf for part in inner for leaf in _leaves(part)] if inner else [annotation]
