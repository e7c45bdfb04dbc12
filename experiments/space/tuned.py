"""Which hyperparameters a cell tunes, and over which ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.slots import Cell
from experiments.space.design import Factor, check_selection, matches
from experiments.space.fields import recipe_path
from experiments.space.hyper import Hyper
from experiments.space.layers import Layer, canonical, merge, validate
from experiments.space.model import Range, Tune
from experiments.space.yaml_text import Document
from mer.errors import UserError


class Tuned:
    """`tune.parameters` and `tune.overrides` of a space, asked cell by cell; `fixed` stands above every draw."""

    def __init__(self, tune: Tune, document: Document, factors: Mapping[str, Factor], fixed: Layer) -> None:
        self.tune, self.document, self.factors, self.fixed = tune, document, factors, fixed
        self.checked: set[tuple[Hyper, str]] = set()

    def of(self, cell: Cell) -> tuple[Hyper, ...]:
        document = self.document
        found: dict[str, tuple[Range, str | None]] = {}
        for name, given in self.tune.parameters.items():
            where = document.where("tune", "parameters", name)
            found[self._tuned(name, where)] = (given, where)
        for index, override in enumerate(self.tune.overrides):
            check_selection(override.when, self.factors, document, "tune", "overrides", index, "when")
            if not matches(cell.levels, override.when):
                continue
            for name, changed in override.parameters.items():
                where = document.where("tune", "overrides", index, "parameters", name)
                path = self._tuned(name, where)
                if changed is None:
                    found.pop(path, None)
                else:
                    found[path] = (changed, where)
        hypers = []
        for path, (given, where) in found.items():
            if path in self.fixed.values:
                continue  # --set stands above every draw
            hyper = _hyper(path, given)
            self._check_ends(cell, hyper, where)
            hypers.append(hyper)
        return tuple(hypers)

    def _tuned(self, name: str, where: str | None) -> str:
        path = recipe_path(name, where)
        if path == "training.epochs":
            raise UserError("training.epochs is the budget, not a hyperparameter", where=where)
        for factor in self.factors.values():
            if any(path == written or written.startswith(f"{path}.") for written in factor.paths):
                raise UserError(f"{path} is tuned and also written by factor {factor.name!r}", where=where)
        return path

    def _check_ends(self, cell: Cell, hyper: Hyper, where: str | None) -> None:
        """Both ends of a range must make a recipe, so that no draw can fail for its value's type or size."""
        section = hyper.path.split(".")[0]
        key = (hyper, repr(cell.recipe.get(section)))
        if key in self.checked:
            return
        self.checked.add(key)
        for value in hyper.choices or (hyper.value(0.0), hyper.value(1 - 1e-12)):
            sources = {**cell.sources, hyper.path: where or hyper.path}
            layer = Layer("draw", {hyper.path: value}, {hyper.path: where or hyper.path})
            data, _ = merge([Layer("cell", dict(cell.recipe)), layer])
            try:
                validate(canonical(data, sources), sources)
            except UserError as error:
                hint = f"It is tuned in cell {cell.name!r}; use tune.overrides where a level has no such field."
                raise UserError(
                    error.problem, where=where, expected=error.expected, nearest=error.nearest, hint=hint
                ) from None


def check_groups(cells: Sequence[Cell], hypers: Mapping[tuple[str, str], tuple[Hyper, ...]], where: str | None) -> None:
    """Cells that share their tuning must tune the same hyperparameters."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        if cell.skip is not None:
            continue
        lead = first.setdefault((cell.corpus, cell.tuning), cell)
        if hypers[lead.corpus, lead.name] != hypers[cell.corpus, cell.name]:
            raise UserError(
                f"cells {lead.name!r} and {cell.name!r} share their tuning but tune different hyperparameters",
                where=where,
            )


def _hyper(path: str, given: Range) -> Hyper:
    [(kind, ends)] = [(kind, ends) for kind, ends in given.kinds().items() if ends is not None]
    return (
        Hyper(path, kind, choices=tuple(ends))
        if kind == "choice"
        else Hyper(path, kind, float(ends[0]), float(ends[1]))
    )
