"""The reference of the space file, from the models that read it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.tools.words import bounds, default_words, title, type_words
from experiments.space.fields import PLANNED
from experiments.space.model import Space
from mer.recipe import LevelConfig, Recipe

INTRODUCTION = """\
# The space file, key by key

Every key, its type and its default, as the models that read the file declare them. How the keys work together is in
[](space.md); what stands for a level (`fusion: tacfn`) in [](levels/index.md). Editors know all of this from
`search_spaces/space.schema.json`: see [](editors.md).
"""

RECIPE = """\
## The recipe

What `base`, `factors`, `tune.parameters` and `--set` name: the fields of a trial's configuration. A field is named by
its path (`optimizer.lr`), or by its last part where only one field has it (`lr`).
"""


INCLUDE = "| `include` | text or list of text | `[]` | spaces that this one is laid over; mappings merge key by key |\n"

LINKED = {
    ("Recipe", "fusion"): "[fusion](levels/fusion/index.md)",
    ("Recipe", "pooling"): "[pooling](levels/pooling/index.md)",
    ("Recipe", "context"): "[context](levels/context/index.md)",
    ("EncoderConfig", "name"): "[encoder](levels/encoder/index.md)",
    ("Loss", "name"): "[loss](levels/loss/index.md)",
    ("Sampler", "name"): "[sampler](levels/sampler/index.md)",
    ("MissingConfig", "protocol"): "[protocol](levels/missing/index.md)",
    ("ConditionModel", "protocol"): "[protocol](levels/missing/index.md)",
}
"""What is a level, and where its levels are listed."""


def page() -> str:
    """The whole page: the space and its parts, then the recipe and its parts."""
    parts = [INTRODUCTION, "## The space\n", _table(Space) + INCLUDE]
    parts += [_section(model) for model in _nested(Space) if not issubclass(model, LevelConfig)]
    parts += [RECIPE, _table(Recipe)]
    parts += [_section(model) for model in _nested(Recipe) if model is not LevelConfig]
    return "\n".join(parts)


def _section(model: type[BaseModel]) -> str:
    said = inspect.getdoc(model) or ""
    return f"### {title(model)}\n\n{said}\n\n{_table(model)}"


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for name, info in _written(model):
        kind = LINKED.get((model.__name__, name)) or type_words(info.annotation) + bounds(info)
        default = default_words(info.default)
        rows.append(
            f"| `{info.alias or name}` | {kind} | {default} | {info.description or ''} |".replace("|  |", "| |")
        )
    return "\n".join([*rows, ""])


def _written(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that a file may set; the plan sets the others."""
    return ((n, info) for n, info in model.model_fields.items() if not (model is Recipe and n in PLANNED))


def _nested(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models inside a model, each once, in the order of its fields."""
    seen: dict[type[BaseModel], None] = {}

    def visit(annotation: object) -> None:
        for inner in typing.get_args(annotation):
            visit(inner)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
            seen[annotation] = None
            for info in annotation.model_fields.values():
                visit(info.annotation)

    for _, info in _written(model):
        visit(info.annotation)
    yield from seen
