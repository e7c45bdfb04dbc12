"""The recipe's fields by name: dotted paths, short names, and what may stand behind them."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping

from pydantic import BaseModel

from mer import levels
from mer.errors import UserError, nearest
from mer.recipe import LevelConfig, Recipe

LEVEL_TABLES = {kind: levels.KINDS[kind][0] for kind in ("fusion", "pooling", "context")} | {"encoders": "mer.encoders"}
"""Recipe field to the module whose `LEVELS` names what may stand there."""

SECTION_TABLES = {kind: levels.KINDS[kind][0] for kind in ("sampler", "loss")}
"""Section of the recipe to the module whose `LEVELS` says what its `name` may be."""

OWN_KEYS = frozenset({"weights", "checkpoint", "revision", "train", "last_k"})
"""What an encoder's entry holds that is no parameter of its class."""


PLANNED = frozenset({"bundle"})
"""Fields of the recipe that the plan sets, and no space file."""


def level_table(field: str) -> Mapping[str, str]:
    """The levels of a field, or of the module that it names."""
    return levels.table(LEVEL_TABLES.get(field, field))


def all_levels() -> dict[str, Mapping[str, str]]:
    """Kind of level to its table, in the order in which an utterance meets them."""
    return {kind: levels.table(module) for kind, (module, _) in levels.KINDS.items()}


@functools.cache
def sections() -> Mapping[str, type[BaseModel]]:
    """Dotted path of every nested section that is not a level (`""` is the recipe itself)."""
    found: dict[str, type[BaseModel]] = {}

    def visit(model: type[BaseModel], path: str) -> None:
        found[path] = model
        for name, info in model.model_fields.items():
            if name in PLANNED and not path:
                continue
            for kind in (info.annotation, *typing.get_args(info.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, LevelConfig):
                    visit(kind, f"{path}.{name}" if path else name)

    visit(Recipe, "")
    return found


@functools.cache
def fields() -> tuple[str, ...]:
    """Dotted path of every field that is not a section."""
    nested = sections()
    return tuple(
        path
        for section, model in nested.items()
        for name in model.model_fields
        if (section or name not in PLANNED) and (path := f"{section}.{name}" if section else name) not in nested
    )


@functools.cache
def _short_names() -> Mapping[str, str]:
    """Last parts that name one field only: `lr` is `optimizer.lr`."""
    found: dict[str, list[str]] = {}
    for path in fields():
        found.setdefault(path.rsplit(".", 1)[-1], []).append(path)
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}


def is_level(path: str) -> bool:
    """Does a level stand at this path (`fusion`, `encoders.audio`)?"""
    head, _, rest = path.partition(".")
    if head == "encoders":
        return bool(rest) and "." not in rest
    return head in LEVEL_TABLES and not rest


def table_of(path: str) -> tuple[str, Mapping[str, str]]:
    """What kind of level stands at a path, and the names it may have."""
    head = path.split(".", 1)[0]
    return head.removesuffix("s"), level_table(head)


def recipe_path(name: str, where: str | None = None) -> str:
    """The dotted path that a name means.

    >>> recipe_path("lr"), recipe_path("fusion"), recipe_path("missing.train.rate")
    ('optimizer.lr', 'fusion', 'missing.train.rate')
    """
    if name in fields() or name in sections():
        return name
    head, _, rest = name.partition(".")
    if rest and (head in ("fusion", "pooling", "context") or (head == "encoders" and rest.count(".") <= 1)):
        return name
    if name.startswith("loss.options."):
        return name
    if name in _short_names():
        return _short_names()[name]
    several = [path for path in fields() if path.endswith(f".{name}")]
    if several:
        raise UserError(f"{name!r} could be several fields", where=where, expected=" or ".join(several))
    known = [*fields(), *_short_names()]
    close = nearest(name, known)
    raise UserError(
        f"the recipe has no field {name!r}",
        where=where,
        expected="a field such as fusion, pooling, optimizer.lr, missing.train.rate",
        nearest=close,
    )


def canonical_level(
    path: str, value: Mapping[str, object], place: Callable[[str], str | None] = lambda path: None
) -> dict[str, object]:
    """Check a level's name and parameters; drop parameters that equal their declared default. `place`: where a path was
    set."""
    kind, table = table_of(path)
    target = levels.target(table, str(value["name"]), kind, place(path))
    own = OWN_KEYS if kind == "encoder" else frozenset()
    params = {key: item for key, item in value.items() if key != "name" and key not in own}
    levels.check_parameters(target, params, kind, place(path), lambda name: place(f"{path}.{name}"))
    declared = levels.declaration(target).parameters
    return {
        key: item
        for key, item in value.items()
        if key not in params or type(declared[key].default) is not type(item) or declared[key].default != item
    }
