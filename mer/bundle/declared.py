"""Which recipes can be trained together, read from the recipe and the levels' source alone: a plan needs no torch.

A level that cannot be bundled says so itself, with the reason, in a class attribute `unbundled` (a literal string,
read without importing, as `requires` is): `unbundled = "its edges differ from batch to batch"`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mer import levels
from mer.recipe import Recipe

OWN: dict[str, tuple[str, ...] | None] = {
    "optimizer": ("lr", "weight_decay", "encoder_lr", "head_lr", "grad_clip"),
    "training": ("epochs", "patience", "metric"),
    "projection": ("dropout",),
    "classifier": ("dropout",),
    "sampler": None,
    "schedule": None,
    "missing": None,
    "replica": None,
    "bundle": None,
}
"""What may differ between the members of a bundle; None: the whole section."""

STRENGTHS = ("dropout", "noise")
"""Options of this project's levels that may differ too: they say how much is drawn at random, and change no shape."""


def why_not(recipe: Recipe) -> str | None:
    """Why trials of this recipe cannot be bundled; None: they can.

    >>> why_not(Recipe.model_validate({"encoders": {"text": "features"}, "fusion": "none"})) is None
    True
    """
    if recipe.training.precision == "fp16":
        return "precision fp16: its loss scaler skips steps, trial by trial"
    for modality, config in recipe.encoders.items():
        if config.train not in (None, "frozen"):
            return f"encoder {config.name} of {modality} is trained: its own size fills the device"
        if config.params.get("swap"):
            return f"encoder {config.name} of {modality} swaps utterances of a batch, which are each member's own"
    named = [("encoders", config.name) for config in recipe.encoders.values()]
    named += [("fusion", recipe.fusion.name), ("pooling", recipe.pooling.name), ("context", recipe.context.name)]
    for field, name in named:
        declared = levels.declaration(levels.target(levels.table(f"mer.{field}"), name, field))
        if declared.unbundled:
            return f"{field} {name}: {declared.unbundled}"
        if field != "encoders" and "dialogue" in declared.requires:
            return f"{field} {name}: {WHOLE_DIALOGUES}"
    if ":" in recipe.loss.name and (reason := levels.declaration(recipe.loss.name).unbundled):
        return f"loss {recipe.loss.name}: {reason}"
    return None


WHOLE_DIALOGUES = (
    "it works on whole dialogues, whose number and lengths differ from trial to trial, and a step for several trials "
    "has one shape for all"
)


def architecture(recipe: Recipe) -> str:
    """A digest of all that the members of a bundle must have in common.

    >>> def recipe(lr, dim): return Recipe.model_validate(
    ...     {"encoders": {"text": "features"}, "projection": {"dim": dim}, "optimizer": {"lr": lr}})
    >>> architecture(recipe(0.1, 8)) == architecture(recipe(0.2, 8)) != architecture(recipe(0.1, 9))
    True
    """
    found: dict[str, Any] = recipe.model_dump(mode="json")
    for section, fields in OWN.items():
        if fields is None:
            del found[section]
        else:
            found[section] = {name: value for name, value in found[section].items() if name not in fields}
    for level in (found["fusion"], found["pooling"], found["context"], *found["encoders"].values()):
        if ":" not in level["name"]:
            for name in STRENGTHS:
                level.pop(name, None)
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def is_own(path: str, recipe: Recipe) -> bool:
    """May members differ in this path of the recipe? Without knowing the values: for a plan.

    >>> recipe = Recipe.model_validate({"encoders": {"text": "features"}})
    >>> is_own("optimizer.lr", recipe), is_own("fusion.dropout", recipe), is_own("projection.dim", recipe)
    (True, True, False)
    """
    section, _, rest = path.partition(".")
    if section in OWN:
        fields = OWN[section]
        return fields is None or rest in fields
    if section == "encoders":
        modality, _, rest = rest.partition(".")
        level = recipe.encoders.get(modality)
    else:
        level = getattr(recipe, section, None)
    return level is not None and ":" not in getattr(level, "name", ":") and rest in STRENGTHS
