"""From the name of a space to its plan."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.slots import Cell, Scalar
from experiments.space import bundles, checks, contrasts
from experiments.space.design import (
    Factor,
    baseline_of,
    cell_name,
    check_selection,
    combinations,
    matches,
    read_factors,
)
from experiments.space.fields import recipe_path
from experiments.space.hyper import Hyper
from experiments.space.includes import load_with_includes, shown
from experiments.space.layers import Layer, canonical, merge, validate
from experiments.space.model import Range, Space
from experiments.space.order import balanced
from experiments.space.plan import (
    COMPLETE,
    Condition,
    CorpusRef,
    Folds,
    Limits,
    Plan,
    Resources,
    Tuning,
)
from experiments.space.read import read_space
from experiments.space.yaml_text import Document, parse_value
from mer.errors import UserError, nearest, unknown

OpenCorpus = Callable[[str], CorpusRef]


def space_folders() -> list[Path]:
    """Where spaces are looked for: `search_spaces` here, of the checkout, of the installed package."""
    checkout = Path(__file__).resolve().parents[2] / "search_spaces"
    installed = Path(sys.prefix) / "share" / "mer-ablation" / "search_spaces"
    return [folder for folder in (Path("search_spaces"), checkout, installed) if folder.is_dir()]


def find_space(name: str) -> Path:
    """The file of a space: a path, or a name in one of the folders."""
    path = Path(name)
    if path.is_file():
        return path
    for folder in space_folders():
        file = folder / f"{name}.yaml"
        if file.is_file():
            return file
    known = sorted({file.stem for folder in space_folders() for file in folder.glob("*.yaml")})
    raise UserError(
        f"there is no space {name!r}", expected=", ".join(known) or "a YAML file", nearest=nearest(name, known)
    )


def open_named_corpus(name: str) -> CorpusRef:
    from mer.data.places import address_of, find_corpus

    folder = find_corpus(name)
    return checks.corpus_ref(folder, address_of(name, folder))


def make_plan(
    space: str | Path,
    *,
    data: Sequence[str] = (),
    sets: Sequence[str] = (),
    only: Sequence[str] = (),
    seed: int = 0,
    open_corpus: OpenCorpus = open_named_corpus,
) -> Plan:
    """Read, check and order a space.

    data   corpora in place of the space's own
    sets   `key=value`: a key of the space (`tune.draws=16`) or of the recipe (`optimizer.lr=1e-3`)
    only   `factor=level,level`: keep these cells alone
    """
    path = find_space(str(space))
    document = load_with_includes(path)
    if not isinstance(document.data, dict):
        raise UserError("expected a mapping with corpora, base, factors, ...", where=shown(path))
    fixed = _apply_sets(document, sets)
    if data:
        document.put(("corpora",), Document(list(data), {(): "--data"}))
    return _Planner(path.stem, document, fixed, only, seed, open_corpus).plan()


def _apply_sets(document: Document, sets: Sequence[str]) -> Layer:
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


class _Planner:
    def __init__(
        self, name: str, document: Document, fixed: Layer, only: Sequence[str], seed: int, open_corpus: OpenCorpus
    ) -> None:
        self.name, self.document, self.fixed, self.only, self.seed = name, document, fixed, only, seed
        self.space: Space = read_space(document)
        self.factors: Mapping[str, Factor] = read_factors(self.space, document)
        self.baseline = baseline_of(self.space, self.factors, document)
        self.base = Layer.of(document.part("base"), "base")
        self.open_corpus = open_corpus
        self.random_encoders: dict[str, None] = {}
        self.outside: dict[str, None] = {}
        self.checked: set[tuple[Hyper, str]] = set()

    def plan(self) -> Plan:
        space, document = self.space, self.document
        corpora = self._corpora()
        levels = self._combinations()
        cells = [self._cell(labels, corpus) for labels in levels for corpus in corpora.values()]
        self._refuse_duplicates(cells)
        for corpus in corpora.values():
            reasons = {cell.skip for cell in cells if cell.corpus == corpus.name}
            if None not in reasons:
                raise UserError(
                    f"no cell of space {self.name!r} can be run on corpus {corpus.name!r}",
                    where=document.where("corpora"),
                    hint="\n  ".join(sorted(str(reason) for reason in reasons)[:5]),
                )
        hypers = {(cell.corpus, cell.name): self._hypers(cell) for cell in cells if cell.skip is None}
        self._check_groups(cells, hypers)
        conditions = self._conditions(corpora)
        declared, notices = contrasts.expand(
            space, document, self.factors, self.baseline, cells, conditions
        ) if "contrasts" in document.data else ([], [])  # fmt: skip
        folds = Folds()
        if space.folds is not None:
            count = checks.fold_count(space.folds.by, space.folds.count, list(corpora.values()))
            folds = Folds(space.folds.by, count)
        bundling, bundled, alone = bundles.choose(space.bundle, cells, corpora)
        asha = space.tune.pruner.asha
        gpus = space.resources.gpus
        return Plan(
            space=self.name,
            cells=tuple(cells),
            corpora=corpora,
            studies=space.studies.count,
            root_seed=self.seed,
            folds=folds,
            resplit=space.studies.resplit,
            tuning=Tuning(
                draws=space.tune.draws,
                once=space.tune.once,
                per=None if space.tune.per is None else tuple(space.tune.per),
                sampler=space.tune.sampler,
                batch=space.tune.batch,
                startup=space.tune.startup,
                pruner="none" if asha is None else "asha",
                grace=Tuning.grace if asha is None else asha.grace,
                eta=Tuning.eta if asha is None else asha.eta,
                exempt=space.tune.exempt,
            ),
            bundling=bundling,
            bundled=bundled,
            alone=alone,
            hypers=hypers,
            conditions=conditions,
            contrasts=tuple(declared),
            baseline=self.baseline,
            factors={name: factor.labels for name, factor in self.factors.items()},
            metric=space.metric,
            direction=space.direction,
            resources=Resources(space.resources.cpus, None if gpus == "auto" else gpus, space.resources.memory),
            limits=Limits(space.limits.time, space.limits.trials, space.limits.price_per_hour, space.limits.currency),
            keep=space.keep,
            alpha=space.contrasts.alpha,
            expected_sd=space.contrasts.sd,
            notices=(*self._notices(corpora), *notices),
            document=document.data,
        )

    # ---- corpora and cells -------------------------------------------------------------------------------------

    def _corpora(self) -> dict[str, CorpusRef]:
        found: dict[str, CorpusRef] = {}
        for index, name in enumerate(self.space.corpora):
            try:
                ref = self.open_corpus(name)
            except UserError as error:
                if error.where is not None or type(error) is not UserError:
                    raise
                where = self.document.where("corpora", index)
                raise UserError(error.problem, where=where, expected=error.expected, nearest=error.nearest) from None
            if ref.name in found:
                raise UserError(f"two corpora are called {ref.name!r}", where=self.document.where("corpora", index))
            found[ref.name] = ref
        return found

    def _combinations(self) -> list[dict[str, Scalar]]:
        found = combinations(self.space.design, self.factors, self.baseline, self.document)
        for index, rule in enumerate(self.space.exclude):
            check_selection(rule.when, self.factors, self.document, "exclude", index, "when")
        first = found.index(self.baseline) if self.baseline in found else 0
        ordered = [found[index] for index in balanced(found, first)]
        kept = self._kept()
        ordered = [labels for labels in ordered if all(str(labels[f]) in names for f, names in kept.items())]
        if not ordered:
            raise UserError("no cell is left", where=f"--only {' '.join(self.only)}")
        return ordered

    def _kept(self) -> dict[str, set[str]]:
        kept: dict[str, set[str]] = {}
        for text in self.only:
            name, equals, names = text.partition("=")
            where = f"--only {text}"
            if not equals:
                raise UserError("expected factor=level,level", where=where)
            if name not in self.factors:
                raise unknown("factor", name, self.factors, where)
            known = {str(label) for label in self.factors[name].labels}
            for label in names.split(","):
                if label not in known:
                    raise unknown(f"level of factor {name}", label, known, where)
            kept[name] = set(names.split(","))
        return kept

    def _cell(self, levels: dict[str, Scalar], corpus: CorpusRef) -> Cell:
        layers = [self.base, *self._space_layers(), *(self.factors[n].levels[label] for n, label in levels.items())]
        data, sources = merge([*layers, self.fixed])
        data = canonical(data, sources)
        if not data.get("encoders"):
            raise UserError("the recipe has no encoders", where=self.document.where("base"))
        skip = next(
            (f"excluded: {rule.reason}" for rule in self.space.exclude if matches(levels, rule.when)), None
        ) or checks.obstacle(data, corpus)
        for name in checks.apply_weights(data, self.space.weights, corpus):
            self.random_encoders[name] = None
        for name in checks.outside_levels(data):
            self.outside[name] = None
        recipe = validate(data, sources)
        name = cell_name(levels, self.baseline, self.space.design)
        return Cell(
            corpus.name, name, levels, recipe.model_dump(mode="json"), sources, skip, self._tuning(levels, name)
        )

    def _space_layers(self) -> list[Layer]:
        """What the space's own keys say of the recipe."""
        layers = []
        for key, path, value in (
            ("metric", "training.metric", self.space.metric),
            ("resources", "training.threads", self.space.resources.threads),
        ):
            if key in self.document.data and path not in self.base.values:
                layers.append(Layer(key, {path: value}, {path: self.document.where(key) or key}))
        return layers

    def _tuning(self, levels: Mapping[str, Scalar], name: str) -> str:
        per = self.space.tune.per
        if per is None:
            return name
        for index, factor in enumerate(per):
            if factor not in self.factors:
                raise unknown("factor", factor, self.factors, self.document.where("tune", "per", index))
        return " ".join(f"{factor}={levels[factor]}" for factor in per) or "all cells"

    def _refuse_duplicates(self, cells: Sequence[Cell]) -> None:
        import json

        seen: dict[tuple[str, str], Cell] = {}
        for cell in cells:
            if cell.skip is not None:
                continue
            key = (cell.corpus, json.dumps(cell.recipe, sort_keys=True))
            other = seen.setdefault(key, cell)
            if other is not cell:
                raise UserError(
                    f"cells {other.name!r} and {cell.name!r} are the same recipe",
                    where=self.document.where("factors"),
                    hint="Give one of them another `replica` if they are meant to be the same.",
                )

    # ---- hyperparameters ---------------------------------------------------------------------------------------

    def _hypers(self, cell: Cell) -> tuple[Hyper, ...]:
        tune, document = self.space.tune, self.document
        found: dict[str, tuple[Range, str | None]] = {}
        for name, given in tune.parameters.items():
            where = document.where("tune", "parameters", name)
            found[self._tuned(name, where)] = (given, where)
        for index, override in enumerate(tune.overrides):
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

    def _check_groups(self, cells: Sequence[Cell], hypers: Mapping[tuple[str, str], tuple[Hyper, ...]]) -> None:
        first: dict[tuple[str, str], Cell] = {}
        for cell in cells:
            if cell.skip is not None:
                continue
            lead = first.setdefault((cell.corpus, cell.tuning), cell)
            if hypers[lead.corpus, lead.name] != hypers[cell.corpus, cell.name]:
                raise UserError(
                    f"cells {lead.name!r} and {cell.name!r} share their tuning but tune different hyperparameters",
                    where=self.document.where("tune", "per"),
                )

    # ---- the rest ----------------------------------------------------------------------------------------------

    def _conditions(self, corpora: Mapping[str, CorpusRef]) -> tuple[Condition, ...]:
        found = {COMPLETE.name: COMPLETE}
        modalities = {modality for corpus in corpora.values() for modality in corpus.modalities}
        for index, given in enumerate(self.space.conditions):
            where = self.document.where("conditions", index)
            missing = given.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
            for modality in given.available or ():
                if modality not in modalities:
                    raise unknown("modality", modality, modalities, where)
            name = given.name or _condition_name(missing)
            if name in found and (missing or name != COMPLETE.name):
                raise UserError(f"two conditions are called {name!r}", where=where)
            found[name] = Condition(name, missing)
        return tuple(found.values())

    def _notices(self, corpora: Mapping[str, CorpusRef]) -> list[str]:
        notices = []
        if self.random_encoders:
            names = ", ".join(self.random_encoders)
            notices.append(f"RANDOM WEIGHTS: {names} are tiny and untrained here; their numbers say nothing about them")
        notices += [
            f"corpus {ref.name} is SYNTHETIC; its numbers say nothing about people"
            for ref in corpora.values()
            if ref.synthetic
        ]
        notices += [f"{name} comes from outside this project and will be imported" for name in self.outside]
        if self.space.tune.once:
            notices.append("tuned once: every claim is 'given these hyperparameters'")
        return notices


def _hyper(path: str, given: Range) -> Hyper:
    [(kind, ends)] = [(kind, ends) for kind, ends in given.kinds().items() if ends is not None]
    return (
        Hyper(path, kind, choices=tuple(ends))
        if kind == "choice"
        else Hyper(path, kind, float(ends[0]), float(ends[1]))
    )


def _condition_name(missing: Mapping[str, Any]) -> str:
    if not missing:
        return COMPLETE.name
    if "available" in missing:
        return f"only {' '.join(missing['available'])}"
    if missing["protocol"] in ("random", "sample"):
        # A rate of 0 is the default, and is left out of what is written down.
        return f"{missing['protocol']} {missing['rate']:g}" if missing.get("rate") else f"{missing['protocol']} 0.0"
    rest = [
        f"{value:g}" if isinstance(value, float) else str(value) for key, value in missing.items() if key != "protocol"
    ]
    return " ".join([str(missing["protocol"]), *rest])
