"""Slot and unit to trial: recipes are resolved and digested once, and cheaply."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.protocol.actions import Unit
from experiments.results.identity import (
    Identifier,
    TrialKey,
    canonical,
    condition_key,
    digest,
    masks_digest,
    recipe_text,
)
from experiments.slots import Scalar, Slot, Stage
from experiments.space.plan import Condition, Plan
from mer.metrics import metric
from mer.names import MASKS
from mer.recipe import Bundle, Recipe


class Names:
    """The trials of a plan by slot. Remembers keys: a driver asks for them again and again."""

    def __init__(self, plan: Plan, equal_code: Mapping[str, str] | None = None) -> None:
        self.plan, self.equal_code = plan, equal_code
        self._identifier = Identifier(equal_code)
        self._recipes: dict[tuple[str, str, tuple[tuple[str, Scalar], ...]], tuple[Recipe, str]] = {}
        self._layouts: dict[tuple[Slot, ...], tuple[Unit, str]] = {}
        self._named: dict[Slot, tuple[Unit, tuple[TrialKey, str]]] = {}
        self._conditions: dict[tuple[str, str], tuple[Condition, ...]] = {}

    def key(self, slot: Slot, unit: Unit) -> tuple[TrialKey, str]:
        """The identity of the trial that fills a slot of a unit, and its recipe as text."""
        known = self._named.get(slot)
        if known is not None and known[0] == unit:
            return known[1]
        recipe, text = self._alone(slot, unit.params[unit.slots.index(slot)])
        if unit.is_bundle:
            bundle = Bundle(layout=self.layout(unit), size=len(unit.slots), index=unit.slots.index(slot))
            recipe = recipe.model_copy(update={"bundle": bundle})
            text = recipe_text(recipe)
        plan = self.plan
        key = TrialKey(
            recipe=digest(text),
            code=self._identifier.code(recipe),
            data=self._data(slot, recipe),
            corpus=slot.corpus,
            study=slot.study,
            fold=slot.fold,
            stage=slot.stage.value,
            root=plan.root_seed,
        )
        self._named[slot] = (unit, (key, text))
        return key, text

    def conditions(self, slot: Slot) -> tuple[Condition, ...]:
        """The conditions that a slot's model can be scored under (a pattern must leave something that it uses), by
        what the ledger calls them."""
        cell = (slot.corpus, slot.cell)
        if cell not in self._conditions:
            encoders = self.plan.cell_of(slot).recipe.get("encoders", {})
            used = set(encoders) if isinstance(encoders, Mapping) else set()
            folder = self.plan.corpora[slot.corpus].folder
            self._conditions[cell] = tuple(
                Condition(condition_key(condition, folder), condition.missing)
                for condition in self.plan.conditions
                if not condition.missing.get("available") or used & set(condition.missing["available"])
            )
        return self._conditions[cell]

    def trial(self, slot: Slot, unit: Unit) -> str:
        return self.key(slot, unit)[0].trial

    def unbundled(self, slot: Slot, params: Mapping[str, Scalar]) -> tuple[object, ...]:
        """All that names a slot's trial, apart from its code and its bundle."""
        recipe, text = self._alone(slot, params)
        data = self._data(slot, recipe)
        return digest(text), data, slot.corpus, slot.study, slot.fold, slot.stage.value, self.plan.root_seed

    def unit(self, unit: Unit) -> str:
        """What a unit's state is kept under: its trial, or its layout."""
        return f"bundle-{self.layout(unit)}" if unit.is_bundle else self.trial(unit.slot, unit)

    def layout(self, unit: Unit) -> str:
        """A digest of all that a bundle's last bits depend on beside root, data and code.

        Those are its members in their order, and who leaves it when: at a rung that is decided by the values of
        lower-numbered draws, wherever they are trained, and by the settings of the race.
        """
        known = self._layouts.get(unit.slots)
        if known is not None and known[0] == unit:
            return known[1]
        members = [self._member(slot, params) for slot, params in zip(unit.slots, unit.params, strict=True)]
        found = digest(canonical([members, self._race(unit)]))[:16]
        self._layouts[unit.slots] = (unit, found)
        return found

    def _member(self, slot: Slot, params: Mapping[str, Scalar]) -> list[object]:
        return [digest(self._alone(slot, params)[1]), slot.study, slot.fold, slot.stage.value]

    def _race(self, unit: Unit) -> list[object]:
        plan = self.plan
        rungs = plan.rungs(plan.cell_of(unit.slot))
        if unit.slot.stage is Stage.CONFIRM or not rungs:
            return []
        exempt = [plan.exempt(slot) for slot in unit.slots]
        judges = [[*self._member(slot, params), plan.exempt(slot)] for slot, params in unit.judges]
        return [rungs, plan.tuning.eta, plan.metric, metric(plan.metric).direction, exempt, judges]

    def _data(self, slot: Slot, recipe: Recipe) -> str:
        """What the data are, how they are cut where it is not by the corpus's own splits, and the files of masks that a
        recipe trains and validates under."""
        plan, corpus = self.plan, self.plan.corpora[slot.corpus]
        folds = f"+{plan.folds.by}/{plan.folds.count}" if plan.folds.by else ""
        used = [config.model_dump() for config in (recipe.missing.train, recipe.missing.valid) if config is not None]
        masks = "".join(f"{MASKS}{found[:16]}" for missing in used if (found := masks_digest(missing, corpus.folder)))
        return corpus.fingerprint + folds + ("+resplit" if plan.resplit else "") + masks

    def _alone(self, slot: Slot, params: Mapping[str, Scalar]) -> tuple[Recipe, str]:
        """A slot's recipe as if it were trained alone, and its text."""
        index = (slot.corpus, slot.cell, tuple(sorted(params.items())))
        found = self._recipes.get(index)
        if found is None:
            recipe = self.plan.recipe(slot, params)
            found = self._recipes[index] = (recipe, recipe_text(recipe))
        return found
