"""`--set key=value`, laid over the document of a space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.space.fields import recipe_path
from experiments.space.layers import Layer
from experiments.space.model import Space
from experiments.space.yaml_text import Document, parse_value
from mer.errors import UserError, nearest


def apply_sets(document: Document, sets: Sequence[str]) -> Layer:
    """Lay `--set` over the document; what names a recipe field becomes the topmost layer."""
    values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        where = f"--set {text}"
        if not equals or not key:
            raise UserError("expected key=value", where=where)
        part = parse_value(value, where)
        if key.split(".")[0] in Space.model_fields:
            _put(document, tuple(key.split(".")), part, where)
            continue
        try:
            values[recipe_path(key, where)] = part.data
        except UserError as error:
            known = [*Space.model_fields, error.nearest or ""]
            raise UserError(
                error.problem, where=where, expected=error.expected, nearest=error.nearest or nearest(key, known)
            ) from None
    return Layer("--set", values, {path: f"--set {path}" for path in values})


def _put(document: Document, path: tuple[str, ...], part: Document, where: str) -> None:
    data = document.data
    for depth, key in enumerate(path[:-1]):
        child = data.get(key)
        if key in ("studies", "design", "folds", "pruner") and child is not None and not isinstance(child, dict):
            short = {"studies": "count", "design": "kind", "folds": "by"}.get(key)
            child = data[key] = {short: child} if short else {str(child): {}}
        if child is None:
            child = data[key] = {}
        if not isinstance(child, dict):
            raise UserError(f"{'.'.join(path[: depth + 1])} is {child!r}, which has no keys", where=where)
        data = child
    document.put(path, part)
