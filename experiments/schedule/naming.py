"""Slot and hyperparameters to trial: recipes are resolved and digested once, and cheaply."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.results.identity import Identifier, TrialKey, digest, recipe_text
from experiments.slots import Cell, Scalar, Slot
from experiments.space.plan import Condition, Plan


def conditions_of(plan: Plan, cell: Cell) -> tuple[Condition, ...]:
    """The conditions that a cell's models can be scored under: a pattern must leave something that they use."""
    encoders = cell.recipe.get("encoders", {})
    used = set(encoders) if isinstance(encoders, Mapping) else set()
    return tuple(
        condition
        for condition in plan.conditions
        if not condition.missing.get("available") or used & set(condition.missing["available"])
    )


class Names:
    """The trials of a plan by slot. Remembers keys: a driver asks for them again and again."""

    def __init__(self, plan: Plan, equal_code: Mapping[str, str] | None = None) -> None:
        self.plan = plan
        self._identifier = Identifier(equal_code)
        self._texts: dict[tuple[str, str, tuple[tuple[str, Scalar], ...]], tuple[str, str, str]] = {}

    def key(self, slot: Slot, params: Mapping[str, Scalar]) -> tuple[TrialKey, str]:
        """The identity of the trial that fills a slot, and its recipe as text."""
        text, recipe, code = self._resolved(slot, params)
        plan = self.plan
        key = TrialKey(
            recipe=recipe,
            code=code,
            data=plan.corpora[slot.corpus].fingerprint + self._split(slot),
            corpus=slot.corpus,
            study=slot.study,
            fold=slot.fold,
            stage=slot.stage.value,
            root=plan.root_seed,
        )
        return key, text

    def trial(self, slot: Slot, params: Mapping[str, Scalar]) -> str:
        return self.key(slot, params)[0].trial

    def _split(self, slot: Slot) -> str:
        """How the corpus is cut, where it is not by its own splits: part of what the data are."""
        plan = self.plan
        folds = f"+{plan.folds.by}/{plan.folds.count}" if plan.folds.by else ""
        return folds + ("+resplit" if plan.resplit else "")

    def _resolved(self, slot: Slot, params: Mapping[str, Scalar]) -> tuple[str, str, str]:
        index = (slot.corpus, slot.cell, tuple(sorted(params.items())))
        found = self._texts.get(index)
        if found is None:
            recipe = self.plan.recipe(slot, params)
            text = recipe_text(recipe)
            found = self._texts[index] = (text, digest(text), self._identifier.code(recipe))
        return found
