"""Factors and designs: which combinations of levels are cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.slots import Scalar
from experiments.space.fields import fields, is_level, recipe_path
from experiments.space.layers import Layer, lines_of, overlaps
from experiments.space.model import Design, Space
from experiments.space.order import balanced
from experiments.space.yaml_text import Document
from mer.errors import UserError, unknown

MAX_CELLS = 200_000


@dataclass(frozen=True)
class Factor:
    """A thing that is compared. Each level is a label and the recipe fields that it sets."""

    name: str
    levels: Mapping[Scalar, Layer]
    where: str | None

    @property
    def labels(self) -> tuple[Scalar, ...]:
        return tuple(self.levels)

    @property
    def paths(self) -> set[str]:
        return {path for layer in self.levels.values() for path in layer.values}


def read_factors(space: Space, document: Document) -> dict[str, Factor]:
    """The factors of a space: a list of values for one field, or named bundles of fields."""
    found: dict[str, Factor] = {}
    for name, value in space.factors.items():
        where = document.where("factors", name)
        part = document.part("factors", name)
        if isinstance(value, dict):
            levels = _bundles(name, part)
        elif isinstance(value, list):
            levels = _values(name, part)
        else:
            raise UserError(
                f"factor {name!r} needs levels, found {value!r}", where=where, expected="a list, or named bundles"
            )
        if not levels:
            raise UserError(f"factor {name!r} has no levels", where=where)
        found[name] = Factor(name, levels, where)
    for one, other in itertools.combinations(found.values(), 2):
        for path in sorted(one.paths):
            clash = next((p for p in sorted(other.paths) if overlaps(path, p)), None)
            if clash is not None:
                raise UserError(
                    f"factors {one.name!r} and {other.name!r} both write {min(path, clash, key=len)}", where=other.where
                )
    return found


def _bundles(name: str, part: Document) -> dict[Scalar, Layer]:
    levels: dict[Scalar, Layer] = {}
    for label, bundle in part.data.items():
        where = part.where(label)
        if not isinstance(bundle, dict):
            raise UserError(
                f"level {label!r} of factor {name!r} must hold recipe fields, found {bundle!r}",
                where=where,
                hint=f"A list of values is for a field of the recipe: `{name}: [..., ...]`.",
            )
        levels[label] = Layer.of(part.part(label), f"{name}={label}")
    return levels


def _values(name: str, part: Document) -> dict[Scalar, Layer]:
    path = recipe_path(name, part.where())
    if path not in fields() and "." not in path:
        raise UserError(
            f"{path} is a section of the recipe, not a field", where=part.where(), hint="Use named bundles of fields."
        )
    levels: dict[Scalar, Layer] = {}
    for index, value in enumerate(part.data):
        where = part.where(index) or name
        label: Scalar
        if isinstance(value, dict) and is_level(path):
            value = dict(value)
            label = value.pop("label", None) or _label(value)
            if "name" not in value:
                raise UserError(f"a level of {name!r} needs a name", where=where)
        elif isinstance(value, str | int | float | bool):
            label = value
        else:
            raise UserError(
                f"{value!r} cannot be a level of {name!r}", where=where, hint="Use named bundles of fields."
            )
        if not isinstance(label, str | int | float | bool):
            raise UserError(f"{label!r} cannot be the label of a level of {name!r}", where=where, expected="a name")
        if label in levels:  # 1, 1.0 and true are one level
            raise UserError(f"level {label!r} of factor {name!r} stands twice", where=where)
        levels[label] = Layer(f"{name}={label}", {path: value}, lines_of(path, value, part, (index,), where))
    return levels


def _label(level: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key}={value}" for key, value in level.items() if key != "name")
    return f"{level.get('name')}({rest})" if rest else str(level.get("name"))


def baseline_of(space: Space, factors: Mapping[str, Factor], document: Document) -> dict[str, Scalar]:
    """The level of every factor that the others are held against: as declared, else its first."""
    check_selection({key: [value] for key, value in space.baseline.items()}, factors, document, "baseline")
    return {name: space.baseline.get(name, factor.labels[0]) for name, factor in factors.items()}


def check_selection(
    selection: Mapping[str, Sequence[Scalar] | None],
    factors: Mapping[str, Factor],
    document: Document,
    *at: str | int,
) -> None:
    """Refuse a factor or level that does not exist."""
    for name, labels in selection.items():
        where = document.where(*at, name)
        if name not in factors:
            raise unknown("factor", name, factors, where)
        for label in labels or ():
            if label not in factors[name].levels:
                raise unknown(f"level of factor {name}", label, map(str, factors[name].labels), where)


def combinations(
    design: Design, factors: Mapping[str, Factor], baseline: Mapping[str, Scalar], document: Document
) -> list[dict[str, Scalar]]:
    """The cells of a design as levels by factor, without repetition, the baseline's order of factors kept."""
    seen: dict[tuple[Scalar, ...], dict[str, Scalar]] = {}
    for levels in _generate(design, factors, baseline, document):
        ordered = {name: levels[name] for name in factors}
        seen.setdefault(tuple(ordered.values()), ordered)
        if len(seen) > MAX_CELLS:
            raise UserError(f"the design has more than {MAX_CELLS} cells", where=document.where("design"))
    return list(seen.values())


def _generate(
    design: Design, factors: Mapping[str, Factor], baseline: Mapping[str, Scalar], document: Document
) -> Iterator[Mapping[str, Scalar]]:
    if design.interactions and design.kind != "one_factor":
        raise UserError("interactions belong to a one_factor design", where=document.where("design", "interactions"))
    if design.kind in ("full", "fraction"):
        size = math.prod(len(factor.levels) for factor in factors.values())
        if size > MAX_CELLS:
            raise UserError(f"the full grid has {size} cells", where=document.where("design"), expected="fewer")
        full = [dict(zip(factors, labels, strict=True)) for labels in _product(factors)]
        if design.kind == "full":
            yield from full
            return
        first = full.index({**baseline})
        count = max(1, round(design.share * len(full)))
        chosen = set(balanced(full, first)[:count])
        yield from (levels for index, levels in enumerate(full) if index in chosen)
    elif design.kind == "one_factor":
        yield baseline
        for name, factor in factors.items():
            yield from ({**baseline, name: label} for label in factor.labels)
        for index, crossed in enumerate(design.interactions):
            check_selection(crossed, factors, document, "design", "interactions", index)
            options = [[*dict.fromkeys([baseline[n], *(labels or factors[n].labels)])] for n, labels in crossed.items()]
            for labels in itertools.product(*options):
                yield {**baseline, **dict(zip(crossed, labels, strict=True))}
    else:
        if not design.cells:
            raise UserError("the list of cells is empty", where=document.where("design"))
        for index, cell in enumerate(design.cells):
            check_selection({name: [label] for name, label in cell.items()}, factors, document, "design", index)
            yield {**baseline, **cell}


def _product(factors: Mapping[str, Factor]) -> Iterator[tuple[Scalar, ...]]:
    return itertools.product(*(factor.labels for factor in factors.values()))


def matches(levels: Mapping[str, Scalar], selection: Mapping[str, Sequence[Scalar]]) -> bool:
    """Is every factor of the selection at one of the levels it names?"""
    return all(levels.get(name) in labels for name, labels in selection.items())


def cell_name(levels: Mapping[str, Scalar], baseline: Mapping[str, Scalar], design: Design) -> str:
    """Readable and unique: all levels in a full grid; otherwise those that differ from the baseline."""
    if design.kind in ("full", "fraction"):
        return " ".join(f"{name}={label}" for name, label in levels.items()) or "base"
    different = [f"{name}={label}" for name, label in levels.items() if label != baseline[name]]
    return " ".join(different) or "baseline"
